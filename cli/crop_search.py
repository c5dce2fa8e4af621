"""Search for crops by their embeddings: one query over the published results, with filters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from cli.crop_files import check_value
from resources.config.crop_model_config import CropModelSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference.text_encoder import load_text_encoder
from resources.schema.columns import wall_clock_sql
from resources.schema.table_registry import crop_model_tables
from resources.storage.results_database import open_results, published_versions
from resources.storage.vector_index import INDEX_FOLDER, build_index, open_index

_SHEET_COLUMNS, _CELL_PX = 6, 160
_KEY = "recording_id, track_id, rank"
_CANDIDATES_PER_RESULT = 10  # crops of an index for each object: a track has several


@dataclass(frozen=True)
class CropQuery:
    """What is searched, and among which crops.

    Attributes:
        embedding: The embedding to compare with, shape (n,).
        model_id: Model of the embeddings that are compared; None compares those of any.
        without_track: Recording and track that are left out, which is that of the example.
        camera: Only this camera; empty for recordings directly in the watched folder, None for all.
        class_name: Only tracks of this class.
        zone: Only tracks that were in this zone.
        attributes: Only tracks with these values: crop model, part or None, and class.
        from_utc: Only crops of this time or later.
        to_utc: Only crops before this time.
        limit: Largest number of tracks.
        candidates: Keys of the only crops that are compared, which an index has found; None compares all.
    """

    embedding: np.ndarray
    model_id: str | None = None
    without_track: tuple[str, int] | None = None
    camera: str | None = None
    class_name: str | None = None
    zone: str | None = None
    attributes: Sequence[tuple[str, str | None, str]] = ()
    from_utc: str | None = None
    to_utc: str | None = None
    limit: int = 20
    candidates: pa.Table | None = None

    @property
    def has_filters(self) -> bool:
        """Whether only some of the crops are searched."""
        filters = (self.camera, self.class_name, self.zone, self.from_utc, self.to_utc, self.attributes or None)
        return any(value is not None for value in filters)


def embedding_model(settings: Settings) -> CropModelSettings:
    """The crop model whose embeddings are searched.

    Raises:
        PipelineError: There is none, or none of the name in search.embeddings.
    """
    name = settings.search.embeddings
    models = [model for model in settings.crop_models if model.task == "embed"]
    for model in models:
        if name is None or model.name == name:
            return model
    if name is not None:
        known = ", ".join(model.name for model in models) or "none"
        raise PipelineError(f"search.embeddings: no crop model of the task embed is named {name}; known: {known}.")
    raise PipelineError(
        "crop_models has no model of the task embed, so crops have no embeddings: add {name: look, weights: mobilenet} "
        "and process the recordings again."
    )


def open_embeddings(settings: Settings) -> tuple[duckdb.DuckDBPyConnection, str]:
    """Open the results, and the name of the view of the searched embeddings.

    Raises:
        PipelineError: There are no results, or no embeddings in them.
    """
    (table,) = crop_model_tables(embedding_model(settings).name, "embed")
    connection = open_results(settings.data_folder)
    known = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    if table.name not in known:
        connection.close()
        raise PipelineError(
            f"The results have no {table.name}: process the recordings again, or name the folder with --data."
        )
    connection.execute("SET TimeZone = 'UTC'")
    return connection, table.name


def parse_crop(text: str) -> tuple[str, int, int]:
    """Parse RECORDING:TRACK or RECORDING:TRACK:RANK; without a rank, the best crop.

    Raises:
        PipelineError: The text is not of this form.
    """
    recording_id, _, numbers = text.partition(":")
    parts = numbers.split(":")
    if not recording_id or not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
        raise PipelineError(f"The crop {text!r} is not of the form RECORDING:TRACK or RECORDING:TRACK:RANK.")
    return recording_id, int(parts[0]), int(parts[1]) if len(parts) == 2 else 1


def read_embedding(connection: duckdb.DuckDBPyConnection, table: str, crop: str) -> tuple[np.ndarray, str]:
    """Read the embedding of a crop, and its model.

    Raises:
        PipelineError: The crop does not exist, or has no embedding.
    """
    key = parse_crop(crop)
    query = f"SELECT embedding, error, model_id FROM {table} WHERE (recording_id, track_id, rank) = (?, ?, ?)"
    row = connection.execute(query, key).fetchone()
    if row is None:
        raise PipelineError(f"The crop {crop} has no row in {table}: see the keys with cv-assets sql 'FROM {table}'.")
    if row[0] is None:
        raise PipelineError(f"The crop {crop} has no embedding: {row[1] or 'it has another length than the others'}")
    return np.array(row[0], np.float32), str(row[2])


def embed_image(file: Path, model: CropModelSettings) -> tuple[np.ndarray, str]:
    """Compute the embedding of a picture that shows an object, and its model.

    Raises:
        PipelineError: The file is no picture, or the weights cannot be used.
    """
    import cv2

    from resources.inference.detector import Models

    try:
        image = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        reason = getattr(error, "strerror", None) or "it is no picture"
        raise PipelineError(f"The image {file} cannot be read: {reason}.") from error
    if image is None:
        raise PipelineError(f"The image {file} cannot be read: it is no picture such as a JPEG or PNG.")
    assert model.model_settings is not None
    models = Models()
    size_px = models.weights(model.model_settings).image_size_px
    detector = models.detector(model.model_settings, size_px, size_px, "cpu", accepts_any_size=True)
    return next(iter(detector.embed([np.asarray(image)]))), detector.model_id


def embed_text(text: str, settings: Settings) -> np.ndarray:
    """Compute the embedding of a text.

    Raises:
        PipelineError: The settings name no text encoder, or it cannot be used.
    """
    if settings.search.text_encoder is None:
        raise PipelineError(
            "search.text_encoder is not set: a text needs a text encoder like that of CLIP, and its image encoder as a "
            "crop model; put both on this machine and name them in the settings."
        )
    return load_text_encoder(settings.search.text_encoder).encode(text)


def search_crops(connection: duckdb.DuckDBPyConnection, table: str, query: CropQuery) -> duckdb.DuckDBPyRelation:
    """Find the tracks whose crops resemble an embedding, most similar first, each with its most similar crop.

    Args:
        connection: The published results.
        table: The view of the embeddings.
        query: The embedding and the filters.

    Raises:
        PipelineError: A filter names something that does not exist, or the embedding has another length.
    """
    (declared,) = connection.execute(
        "SELECT data_type FROM duckdb_columns() WHERE table_name = ? AND column_name = 'embedding'", [table]
    ).fetchall()[0]
    length = int(declared.removeprefix("FLOAT[").removesuffix("]"))
    if length != len(query.embedding):
        raise PipelineError(
            f"The query has an embedding of {len(query.embedding)} values, but {table} has {length}: name embeddings "
            "of the same encoder in search.embeddings."
        )
    conditions, values = _conditions(connection, query)
    if query.candidates is not None:
        connection.register("candidates", query.candidates)
        # The recordings alone are what lets DuckDB skip files.
        conditions += [
            "recording_id IN (SELECT recording_id FROM candidates)",
            f"({_KEY}) IN (SELECT ({_KEY}) FROM candidates)",
        ]
    return connection.sql(
        f"""
        WITH scored AS (
            SELECT {_KEY}, array_cosine_similarity(embedding, ?::FLOAT[{length}]) AS score
            FROM {table} AS embeddings WHERE embedding IS NOT NULL AND {" AND ".join(conditions) or "true"}
            QUALIFY row_number() OVER (PARTITION BY recording_id, track_id ORDER BY score DESC, rank) = 1
            ORDER BY score DESC, {_KEY} LIMIT {int(query.limit)}
        )
        SELECT round(score::DOUBLE, 3) AS score, camera, {wall_clock_sql("time_s * 1e6")} AS captured_at_utc,
            class_name, {_KEY}, round(time_s, 3) AS time_s
        FROM scored JOIN (SELECT {_KEY}, class_name, time_s FROM crops) USING ({_KEY})
        LEFT JOIN recording_clocks USING (recording_id)
        ORDER BY score DESC, {_KEY}
        """,
        params=[query.embedding.tolist(), *values],
    )


def with_candidates(query: CropQuery, table: str, settings: Settings) -> CropQuery:
    """Let the index select the crops that are compared, if there is a current one and the query has no filters."""
    versions = published_versions(settings.data_folder) or {}
    if query.has_filters or query.model_id is None:
        return query
    index = open_index(settings.data_folder / INDEX_FOLDER, table, versions.get(table), query.model_id)
    count = query.limit * _CANDIDATES_PER_RESULT
    return query if index is None else replace(query, candidates=index.search(query.embedding, count))


def build_embedding_index(connection: duckdb.DuckDBPyConnection, table: str, settings: Settings) -> str:
    """Build the index of the searched embeddings; returns what was built, as a sentence.

    Raises:
        PipelineError: The package faiss-cpu is not installed, or there are no embeddings.
    """
    query = f"SELECT model_id FROM {table} GROUP BY model_id ORDER BY count(*) DESC LIMIT 1"
    models = [model_id for (model_id,) in connection.execute(query).fetchall()]
    version = (published_versions(settings.data_folder) or {}).get(table, 0)
    folder = settings.data_folder / INDEX_FOLDER
    built = build_index(connection, table, version, models[0] if models else "", folder)
    return (
        f"{folder}: {built.vector_count:,} embeddings of {built.model_id}; {built.recall:.1%} of the true nearest are "
        "found. It is used until the embeddings change."
    )


def _conditions(connection: duckdb.DuckDBPyConnection, query: CropQuery) -> tuple[list[str], list[Any]]:
    """SQL conditions on rows of the view of embeddings, and their values."""
    conditions: list[str] = []
    values: list[Any] = []

    def add(condition: str, *parameters: Any) -> None:
        conditions.append(condition)
        values.extend(parameters)

    if query.model_id is not None:
        add("model_id = ?", query.model_id)
    if query.without_track is not None:
        add("(recording_id, track_id) <> (?, ?)", *query.without_track)
    if query.camera is not None:
        check_value(connection, "camera", "recordings", query.camera)
        # Recordings, not the column camera: so DuckDB skips the files of other recordings.
        add("recording_id IN (SELECT recording_id FROM recording_clocks WHERE coalesce(camera, '') = ?)", query.camera)
    if query.class_name is not None:
        check_value(connection, "class_name", "tracks", query.class_name)
        add(
            "(recording_id, track_id) IN (SELECT (recording_id, track_id) FROM crops WHERE class_name = ?)",
            query.class_name,
        )
    for column, operator, time in (("from", ">=", query.from_utc), ("to", "<", query.to_utc)):
        if time is not None:
            _check_time(connection, column, time)
            add(f"({_KEY}) IN (SELECT ({_KEY}) FROM crops WHERE captured_at_utc {operator} ?::TIMESTAMPTZ)", time)
    if query.zone is not None:
        check_value(connection, "zone_name", "zone_events", query.zone)
        add(
            "(recording_id, track_id) IN (SELECT (recording_id, track_id) FROM zone_events WHERE zone_name = ?)",
            query.zone,
        )
    for attribute in query.attributes:
        add(*_attribute_condition(connection, *attribute))
    return conditions, values


def _attribute_condition(
    connection: duckdb.DuckDBPyConnection, model: str, part: str | None, class_name: str
) -> tuple[str, ...]:
    """SQL condition for tracks with a vote of a crop model, and its values.

    Raises:
        PipelineError: The crop model has no votes.
    """
    table = f"{model}_track_classes"
    known = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    if table not in known:
        raise PipelineError(f"The attribute {model} has no table {table}: name a crop model that votes on classes.")
    of_part = ("", ()) if part is None else (" AND part = ?", (part,))
    tracks = f"SELECT (recording_id, track_id) FROM {table} WHERE class_name = ?{of_part[0]}"
    return (f"(recording_id, track_id) IN ({tracks})", class_name, *of_part[1])


def _check_time(connection: duckdb.DuckDBPyConnection, name: str, text: str) -> None:
    """Check that a text is a time.

    Raises:
        PipelineError: It is not.
    """
    try:
        connection.execute("SELECT ?::TIMESTAMPTZ", [text]).fetchall()
    except duckdb.Error as error:
        raise PipelineError(f"--{name} {text!r} is no time such as '2026-03-01 08:00' (UTC).") from error


def write_sheet(connection: duckdb.DuckDBPyConnection, found: Sequence[dict[str, Any]], file: Path) -> int:
    """Write a contact sheet of the crops that were found, each with its score, the most similar first.

    Returns:
        The number of pictures; 0 writes no file.

    Raises:
        PipelineError: The file cannot be written.
    """
    import cv2

    from resources.previews.annotated_frames import drawable_name, shrink_to_preview
    from resources.previews.contact_sheet import contact_sheet

    cells = []
    for row in found:
        query = "SELECT jpeg FROM crops WHERE (recording_id, track_id, rank) = (?, ?, ?)"
        (jpeg,) = connection.execute(query, [row["recording_id"], row["track_id"], row["rank"]]).fetchone() or (None,)
        image = None if jpeg is None else cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            name = drawable_name(row["class_name"], "object")
            cells.append((shrink_to_preview(np.asarray(image)), f"{row['score']:.2f} {name} {row['track_id']}"))
    if not cells:
        return 0
    sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_PX, _CELL_PX)
    is_encoded, picture = cv2.imencode(file.suffix or ".jpg", sheet)
    try:
        if not is_encoded:
            raise PipelineError(f"The sheet {file} cannot be encoded: name a .jpg or .png file.")
        file.write_bytes(picture.tobytes())
    except OSError as error:
        raise PipelineError(f"The sheet {file} cannot be written: {error.strerror or error}.") from error
    return len(cells)
