"""Crops of tracked objects as JPEG files, with an index and a contact sheet."""

import csv
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from resources.config.settings import Settings
from resources.crop_search import check_value
from resources.errors import PipelineError
from resources.previews.annotated_frames import drawable_name, shrink_to_preview
from resources.previews.contact_sheet import contact_sheet
from resources.previews.image_encoding import encode_jpeg
from resources.schema.columns import wall_clock_sql
from resources.storage.results_database import open_results

INDEX_NAME, SHEET_NAME = "index.csv", "contact_sheet.jpg"
_KEY = ("recording_id", "track_id", "rank")
_INDEX_COLUMNS = (
    *("file", "camera", "captured_at_utc", "started_at_source", "class_name", "recording_id", "track_id", "rank"),
    *("time_s", "confidence", "start_s", "end_s", "duration_s", "x_min_px", "y_min_px", "x_max_px", "y_max_px"),
    *("crop_width_px", "crop_height_px", "source_path"),
)
_SHEET_PICTURES, _SHEET_COLUMNS, _CELL_PX, _MAX_SHEET_BYTES = 120, 12, 120, 3_000_000
_MAX_NAME_PART_BYTES = 60
_ROWS_PER_READ = 200


@dataclass(frozen=True)
class CropSelection:
    """Which crops are written.

    Attributes:
        condition: SQL condition on the columns of crops, tracks and recordings; None for all.
        camera: Only this camera; None for all, empty for recordings directly in the watched folder.
        class_name: Only this class; None for all.
        limit: Largest number of crops, the earliest first; None for all.
    """

    condition: str | None = None
    camera: str | None = None
    class_name: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class CropFiles:
    """Numbers of what was written.

    Attributes:
        picture_count: Pictures.
        object_count: Objects in these pictures.
        sheet_count: Pictures on the contact sheet.
        deleted_count: Matching crops without a picture, because retention has deleted it.
    """

    picture_count: int
    object_count: int
    sheet_count: int
    deleted_count: int


def write_crop_files(settings: Settings, selection: CropSelection, out: Path) -> CropFiles:
    """Write the selected crops into a folder, with an index and a contact sheet; nothing if none matches.

    No file is overwritten, and a folder is either written completely or left as it was.

    Args:
        settings: The data folder, and the watched folders, into which nothing is written.
        selection: The crops.
        out: A new or an empty folder.

    Raises:
        PipelineError: The data folder has no results, the selection is invalid, or the folder cannot be written.
    """
    _check_folder(out, settings)
    with _open_results(settings.data_folder) as connection:
        rows = _select_rows(connection, selection)
        if not rows:
            return CropFiles(0, 0, 0, 0)
        files = dict(zip((_key(row) for row in rows), _file_names(rows), strict=True))
        existed = out.exists()
        drafts = out / ".partial"
        try:
            out.mkdir(parents=True, exist_ok=True)
            drafts.mkdir()
            written = _write_pictures(connection, files, drafts)
            pictures = [row for row in rows if _key(row) in written]
            if pictures:
                _write_index(pictures, files, drafts / INDEX_NAME)
                _write_sheet(pictures, files, drafts)
                for file in sorted(drafts.iterdir(), key=lambda file: file.name == INDEX_NAME):  # the index last
                    file.replace(out / file.name)
        except OSError as error:
            raise PipelineError(f"The folder {out} cannot be written: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(drafts, ignore_errors=True)
            if not existed and out.is_dir() and not any(out.iterdir()):
                out.rmdir()
    object_count = len({_key(row)[:2] for row in pictures})
    return CropFiles(len(pictures), object_count, min(len(pictures), _SHEET_PICTURES), len(rows) - len(pictures))


def _open_results(data_folder: Path) -> duckdb.DuckDBPyConnection:
    try:
        connection = open_results(data_folder)
    except FileNotFoundError as error:
        raise PipelineError(str(error)) from error
    connection.execute("SET TimeZone = 'UTC'")  # for times in a condition
    return connection


def _check_folder(out: Path, settings: Settings) -> None:
    """Check that a folder is new or empty, and neither inside a watched folder nor inside the data folder.

    Raises:
        PipelineError: The folder cannot be used.
    """
    if any(out.resolve().is_relative_to(folder.resolve()) for folder in settings.watched_folders):
        raise PipelineError(f"The folder {out} is inside a watched folder: choose another with --out.")
    if out.resolve().is_relative_to(settings.data_folder.resolve()):
        raise PipelineError(f"The folder {out} is inside the data folder: choose another with --out.")
    try:
        is_file, has_files = out.exists() and not out.is_dir(), out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise PipelineError(f"The folder {out} cannot be read: {error.strerror or error}.") from error
    if is_file:
        raise PipelineError(f"{out} is a file: choose a folder with --out.")
    if has_files:
        raise PipelineError(f"The folder {out} is not empty, and no file is overwritten: choose another with --out.")


def _select_rows(connection: duckdb.DuckDBPyConnection, selection: CropSelection) -> list[dict[str, Any]]:
    """Select the rows of crops, with the columns of their tracks and recordings but without the JPEG, in time order.

    Raises:
        PipelineError: The camera, the class or the condition is invalid.
    """
    conditions: list[str] = []
    values: list[str] = []
    names = (("camera", "recordings", selection.camera), ("class_name", "tracks", selection.class_name))
    for column, table, value in names:
        if value is not None:
            check_value(connection, column, table, value)
            conditions.append(f"coalesce({column}, '') = ?")
            values.append(value)
    condition = selection.condition or ""
    if not re.search(r"\brank\b", condition, re.IGNORECASE):
        conditions.append("rank = 1")
    if condition:
        conditions.append(f"({condition}\n)")  # on a line of its own, so that a comment does not hide the bracket
    query = (
        f"SELECT * FROM ({_joined_sql(connection)}) WHERE {' AND '.join(conditions) or 'true'} "
        "ORDER BY captured_at_utc NULLS LAST, recording_id, time_s, track_id, rank"
    )
    query += f" LIMIT {selection.limit}" if selection.limit else ""
    try:
        if len(duckdb.extract_statements(query)) != 1:
            raise PipelineError(f"FILTER {condition!r} is not one condition: leave out the semicolon.")
        rows: list[dict[str, Any]] = connection.sql(query, params=values).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        reason = " ".join(str(error).split("\n\nLINE")[0].split())
        raise PipelineError(
            f"FILTER {condition!r} is not a valid condition: {reason} (Its columns are those of crops, tracks and "
            "recordings.)"
        ) from error
    return rows


def _joined_sql(connection: duckdb.DuckDBPyConnection) -> str:
    """SQL of all crops with the columns of their tracks and recordings; of equal names, the first table's is used."""
    columns: dict[str, str] = {}
    for table in ("crops", "tracks", "recordings"):
        for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall():
            columns.setdefault(name, f"{table}.{name}")
    del columns["jpeg"]  # the pictures are read when they are written
    columns.pop("captured_at_utc", None)
    return f"""
        SELECT *, {wall_clock_sql("time_s * 1e6")} AS captured_at_utc FROM (
            SELECT {", ".join(columns.values())}
            FROM crops JOIN tracks USING (recording_id, track_id) JOIN recordings USING (recording_id)
        )
    """


def _key(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["recording_id"], row["track_id"], row["rank"]


def _file_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the pictures: camera, wall-clock time, class and track; with the recording where two would be equal."""
    names = []
    for row in rows:
        rank = f"_{row['rank']}" if row["rank"] > 1 else ""
        parts = (row["camera"] or "recordings", _time_part(row), row["class_name"], str(row["track_id"]) + rank)
        names.append("_".join(map(_safe_part, parts)))
    counts = Counter(map(str.casefold, names))  # some file systems ignore the case
    return [
        f"{name}_{_safe_part(row['recording_id'])}.jpg" if counts[name.casefold()] > 1 else f"{name}.jpg"
        for name, row in zip(names, rows, strict=True)
    ]


def _time_part(row: Mapping[str, Any]) -> str:
    """Wall-clock time in UTC to the millisecond; without a clock, the recording and the media time."""
    time_utc: datetime | None = row["captured_at_utc"]
    if time_utc is None:
        return f"{row['recording_id']}-{row['time_s']:.3f}s"
    return f"{time_utc:%Y-%m-%dT%H-%M-%S}-{time_utc.microsecond // 1000:03d}Z"


def _safe_part(text: str) -> str:
    """Part of a file name that every file system accepts: letters, digits, dots and hyphens, at most 60 bytes."""
    safe = re.sub(r"[^\w.-]+", "-", text).strip(".-_") or "x"
    return safe.encode()[:_MAX_NAME_PART_BYTES].decode(errors="ignore")


def _write_pictures(
    connection: duckdb.DuckDBPyConnection, files: Mapping[tuple[str, int, int], str], folder: Path
) -> set[tuple[str, int, int]]:
    """Write the pictures in the order in which the table has them; returns the keys of those that still exist."""
    keys = [dict(zip(_KEY, key, strict=True)) for key in files]
    connection.register("selected", pa.Table.from_pylist(keys))
    names = ", ".join(_KEY)
    cursor = connection.execute(f"SELECT {names}, jpeg FROM crops SEMI JOIN selected USING ({names})")
    written: set[tuple[str, int, int]] = set()
    for *key, jpeg in _fetch_rows(cursor):
        if jpeg is not None:
            recording_id, track_id, rank = key
            written.add((recording_id, track_id, rank))
            (folder / files[recording_id, track_id, rank]).write_bytes(jpeg)
    return written


def _fetch_rows(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(_ROWS_PER_READ):
        yield from rows


def _write_index(rows: Sequence[Mapping[str, Any]], files: Mapping[tuple[str, int, int], str], index: Path) -> None:
    with index.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _INDEX_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            time_utc = row["captured_at_utc"]
            text = f"{time_utc:%Y-%m-%d %H:%M:%S.%f}" if time_utc else None
            writer.writerow({**row, "file": files[_key(row)], "captured_at_utc": text})


def _write_sheet(rows: Sequence[Mapping[str, Any]], files: Mapping[tuple[str, int, int], str], folder: Path) -> None:
    """Write a contact sheet of pictures spread over the rows."""
    import cv2

    positions = np.unique(np.linspace(0, len(rows) - 1, _SHEET_PICTURES).round().astype(int))
    cells = []
    for row in (rows[position] for position in positions):
        image = cv2.imdecode(np.frombuffer((folder / files[_key(row)]).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise PipelineError(f"The crop of track {row['track_id']} of {row['recording_id']} is not a JPEG.")
        name = drawable_name(row["class_name"], f"class {row['class_id']}")
        time_utc = row["captured_at_utc"]
        caption = f"{time_utc:%H:%M:%S} {name} {row['track_id']}" if time_utc else f"{name} {row['track_id']}"
        cells.append((shrink_to_preview(np.asarray(image)), caption))
    sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_PX, _CELL_PX)
    (folder / SHEET_NAME).write_bytes(encode_jpeg(sheet, _MAX_SHEET_BYTES))
