"""The command compare: what one model, engine or setting finds, and the other does not."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import PATH_TYPE, data_option, settings_option
from resources.config.settings import Settings
from resources.environment import choose_settings
from resources.errors import PipelineError, RecordingError

if TYPE_CHECKING:
    import duckdb
    import numpy as np

_SHEET_PICTURES, _SHEET_COLUMNS, _CELL_PX, _MAX_SHEET_BYTES = 60, 6, 220, 3_000_000
_CONTEXT = 0.5  # around a box, of its width and height


@dataclass(frozen=True)
class _Side:
    """One of the two sides.

    Attributes:
        name: As it was given.
        results: The published results that have its detections.
        table: Table of its detections.
        data_folder: Data folder of its videos.
    """

    name: str
    results: "duckdb.DuckDBPyConnection"
    table: str
    data_folder: Path


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.argument("recordings", nargs=-1, metavar="[RECORDING]...")
@click.option("--camera", help="Only this camera; '' for recordings directly in the watched folder.")
@click.option("--confidence", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Of all detections.")
@click.option(
    "--out", type=PATH_TYPE, help="Folder for sheets and a CSV file of the disagreements; a new or empty one."
)
@data_option
@settings_option
def compare(
    first: str,
    second: str,
    recordings: tuple[str, ...],
    camera: str | None,
    confidence: float,
    out: Path | None,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Compare the detections of A and B on the recordings that both have.

    A and B are data folders, such as of the same recordings processed with other weights, engines or settings, or
    models of the settings (`detections` is the detector). Objects match in the same frame, with the same class and IoU
    0.5.
    """
    from resources.comparison.detection_matches import count_matches_by_class, match_detections, read_detections
    from resources.exports.export_folder import export_folder

    loaded_settings = choose_settings(settings=settings, data_folder=data)
    a, b = (_open_side(name, loaded_settings) for name in (first, second))
    if (a.data_folder.resolve(), a.table) == (b.data_folder.resolve(), b.table):
        raise PipelineError(f"{first} and {second} are the same detections: name two models or data folders.")
    rows = _common_recordings(a, b, recordings, camera)
    matches = [
        match_detections(
            *(read_detections(side.results, side.table, row["recording_id"], confidence) for side in (a, b))
        )
        for row in rows
    ]
    counts = count_matches_by_class(matches)
    if not counts:
        click.echo(f"Neither {first} nor {second} has a detection in {len(rows)} recordings.")
        return
    _print_counts(counts, first, second)
    _print_speed((a, b), [row["recording_id"] for row in rows])
    if out is not None:
        with export_folder(out, loaded_settings) as folder:
            _write_disagreements(folder, matches, rows, (a, b))
            names = ", ".join(sorted(path.name for path in folder.iterdir()))
        click.echo(f"{out}: {names}, the most confident first.")


def _open_side(name: str, settings: Settings) -> _Side:
    """Open a side.

    Raises:
        PipelineError: It is neither a data folder with results nor a model with detections.
    """
    from cli.start_check import publish_for_query
    from resources.storage.results_database import open_results, results_path

    folder = Path(name)
    if results_path(folder).exists():
        return _Side(name, open_results(folder), "detections", folder)
    publish_for_query(settings)
    results = open_results(settings.data_folder)
    query = "SELECT DISTINCT asset_name FROM model_runs ORDER BY 1"
    models = [model for (model,) in results.execute(query).fetchall()]
    if name not in models:
        known = ", ".join(models) or "none"
        raise PipelineError(f"{name!r} is neither a data folder with results nor a model that has any ({known}).")
    return _Side(name, results, name, settings.data_folder)


def _common_recordings(a: _Side, b: _Side, recording_ids: Sequence[str], camera: str | None) -> list[dict[str, Any]]:
    """Recordings that both sides have processed.

    Raises:
        PipelineError: There is none.
    """
    from resources.exports.annotations import select_recordings

    rows = select_recordings(a.results, recording_ids, camera)
    query = "SELECT recording_id FROM model_runs WHERE asset_name = $table"
    processed = [{name for (name,) in side.results.execute(query, {"table": side.table}).fetchall()} for side in (a, b)]
    common = [row for row in rows if all(row["recording_id"] in names for names in processed)]
    if not common:
        raise PipelineError(f"No recording was processed by both {a.name} and {b.name}.")
    return common


def _print_counts(counts: Sequence[Any], first: str, second: str) -> None:
    header = ("class", "size", "both", "only A", "only B", "agreement")
    lines = [header]
    for row in counts:
        values = (f"{row.both}", f"{row.only_a}", f"{row.only_b}", f"{row.agreement:.0%}")
        lines.append((row.class_name, row.size, *values))
    both, only_a, only_b = (sum(getattr(c, name) for c in counts) for name in ("both", "only_a", "only_b"))
    lines.append(("all", "", f"{both}", f"{only_a}", f"{only_b}", f"{both / (both + only_a + only_b):.0%}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    click.echo(f"A: {first}\nB: {second}\n")
    for line in lines:
        padded = zip(line, widths, strict=True)
        cells = [text.ljust(width) if n < 2 else text.rjust(width) for n, (text, width) in enumerate(padded)]
        click.echo("  ".join(cells).rstrip())


def _print_speed(sides: Sequence[_Side], recording_ids: Sequence[str]) -> None:
    """Print frames per second of each side, as they were processed."""
    for letter, side in zip("AB", sides, strict=True):
        (row,) = side.results.execute(
            """SELECT sum(analysed_frame_count - reused_frame_count) / nullif(sum(elapsed_s), 0),
                string_agg(DISTINCT engine_name, ', '), string_agg(DISTINCT device_name, ', ')
            FROM model_runs WHERE asset_name = $table AND recording_id IN (SELECT unnest($ids))""",
            {"table": side.table, "ids": list(recording_ids)},
        ).fetchall()
        speed = "speed unknown" if row[0] is None else f"{row[0]:.1f} frames/s"
        click.echo(f"{letter}: {speed} ({row[1]} on {row[2]})")


def _write_disagreements(
    folder: Path, matches: Sequence[Any], rows: Sequence[dict[str, Any]], sides: Sequence[_Side]
) -> None:
    from resources.comparison.detection_matches import worst_disagreements
    from resources.previews.contact_sheet import contact_sheet
    from resources.previews.image_encoding import encode_jpeg

    worst = worst_disagreements(matches, 20 * _SHEET_PICTURES)
    with (folder / "disagreements.csv").open("w", newline="", encoding="utf-8") as file:
        if worst:
            writer = csv.DictWriter(file, list(worst[0]))
            writer.writeheader()
            writer.writerows(worst)
    for letter in "ab":
        chosen = [row for row in worst if row["side"] == letter][:_SHEET_PICTURES]
        images = _crop_images(chosen, rows, sides[0])
        captions = [f"{row['class_name']} {row['confidence']:.2f} {row['time_s']:.1f} s" for row in chosen]
        cells = list(zip(images, captions, strict=True))
        if cells:
            sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_PX, _CELL_PX)
            (folder / f"only-{letter}.jpg").write_bytes(encode_jpeg(sheet, _MAX_SHEET_BYTES))


def _crop_images(chosen: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], side: _Side) -> "list[np.ndarray]":
    """Pictures of objects with their surroundings, from the videos of one side."""
    import cv2
    import numpy as np

    from cv_assets.media_status import find_normalized_video, read_normalized_row
    from resources.media.frame_reader import read_distant_images
    from resources.storage.delta_store import Store

    store, images = Store(side.data_folder), dict[int, np.ndarray]()
    for row in rows:
        positions = [p for p, item in enumerate(chosen) if item["recording_id"] == row["recording_id"]]
        indices = sorted({chosen[position]["frame_index"] for position in positions})
        if not indices:
            continue
        try:
            stored = read_normalized_row(row["recording_id"], store)
            with find_normalized_video(stored, side.data_folder).reading() as video:
                rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
                pictures = dict(zip(indices, read_distant_images(video, indices, rate_fps), strict=False))
        except RecordingError as error:
            raise PipelineError(f"{row['recording_id']}: {error}") from error
        if len(pictures) < len(indices):
            raise PipelineError(
                f"The normalized video of {row['recording_id']} is damaged: materialize normalized_video again."
            )
        for position in positions:
            item = chosen[position]
            image = pictures[item["frame_index"]].copy()
            left, top, right, bottom = (round(item[name]) for name in ("x_min_px", "y_min_px", "x_max_px", "y_max_px"))
            cv2.rectangle(image, (left, top), (right, bottom), (0, 220, 255), 2)
            x_px, y_px = round(_CONTEXT * (right - left)) + 8, round(_CONTEXT * (bottom - top)) + 8
            images[position] = image[max(0, top - y_px) : bottom + y_px, max(0, left - x_px) : right + x_px]
    return [images[position] for position in range(len(chosen))]
