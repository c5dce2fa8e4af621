"""Search for crops by their embeddings: one query over the published results, with filters."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from resources.config.crop_model_config import CropModelSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference.text_encoder import load_text_encoder
from resources.schema.columns import wall_clock_sql
from resources.schema.crop_tables import TRACK_CLASSES
from resources.schema.table_registry import crop_model_tables
from resources.storage.results_database import open_results, published_versions
from resources.storage.vector_index import INDEX_FOLDER, build_index, open_index

if TYPE_CHECKING:  # loads much
    from resources.inference.detector import Embedding

_TRACK, _KEY = "recording_id, track_id", "recording_id, track_id, rank"
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
        tracks: Recording and track of the only objects that are compared; None compares all.
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
    tracks: pa.Table | None = None
    candidates: pa.Table | None = None

    @property
    def has_filters(self) -> bool:
        """Whether only some of the crops are searched."""
        filters = (
            *(self.camera, self.class_name, self.zone, self.from_utc, self.to_utc),
            *(self.attributes or None, self.tracks),
        )
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
    connection = open_results(settings.data_folder)
    try:
        table = find_embeddings(connection, settings)
    except PipelineError:
        connection.close()
        raise
    connection.execute("SET TimeZone = 'UTC'")
    return connection, table


def find_embeddings(connection: duckdb.DuckDBPyConnection, settings: Settings) -> str:
    """Name of the view of the searched embeddings.

    Raises:
        PipelineError: The settings have no embedding model, or the results no embeddings of it.
    """
    (table,) = crop_model_tables(embedding_model(settings).name, "embed")
    if not connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name = ?", [table.name]).fetchall():
        raise PipelineError(
            f"The results have no {table.name}: process the recordings again, or name the folder with --data."
        )
    return table.name


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
    rows = connection.execute(query, key).fetchall()
    if not rows:
        raise PipelineError(f"The crop {crop} has no row in {table}: see the keys with cv-assets sql 'FROM {table}'.")
    embedding, error, model_id = rows[0]
    if embedding is None:
        raise PipelineError(f"The crop {crop} has no embedding: {error or 'it has another length than the others'}")
    return np.array(embedding, np.float32), str(model_id)


def embed_image(file: Path, model: CropModelSettings) -> tuple["Embedding", str]:
    """Compute the embedding of a picture file that shows an object, and its model.

    Raises:
        PipelineError: The file is no picture, or the weights cannot be used.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PipelineError(f"The image {file} cannot be read: {error.strerror or error}.") from error
    return embed_picture(decode_picture(content, f"The image {file}"), model)


def decode_picture(content: bytes, name: str) -> np.ndarray:
    """Decode a picture such as a JPEG or PNG.

    Args:
        content: The file.
        name: What an error calls it.

    Returns:
        Shape (height, width, 3), BGR.

    Raises:
        PipelineError: It is no picture.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or a picture that is too large
        image = None
    if image is None:
        raise PipelineError(f"{name} cannot be read: it is no picture such as a JPEG or PNG.")
    return np.asarray(image)


def embed_picture(image: np.ndarray, model: CropModelSettings) -> tuple["Embedding", str]:
    """Compute the embedding of a picture that shows an object, and its model.

    Args:
        image: Shape (height, width, 3), BGR.
        model: The crop model.

    Raises:
        PipelineError: The weights cannot be used.
    """
    from resources.inference.detector import Models

    assert model.model_settings is not None
    models = Models()
    size_px = models.weights(model.model_settings).image_size_px
    detector = models.detector(model.model_settings, size_px, size_px, "cpu", accepts_any_size=True)
    return next(iter(detector.embed([image]))), detector.model_id


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
    for name, only, key in (("searched_tracks", query.tracks, _TRACK), ("candidates", query.candidates, _KEY)):
        if only is not None:
            connection.register(name, only)
            # The recordings alone are what lets DuckDB skip files.
            conditions += [
                f"recording_id IN (SELECT recording_id FROM {name})",
                f"({key}) IN (SELECT ({key}) FROM {name})",
            ]
    return connection.sql(
        f"""
        WITH scored AS (
            SELECT {_KEY}, array_cosine_similarity(embedding, $embedding::FLOAT[{length}]) AS score
            FROM {table} AS embeddings WHERE embedding IS NOT NULL AND {" AND ".join(conditions) or "true"}
            QUALIFY row_number() OVER (PARTITION BY {_TRACK} ORDER BY score DESC, rank) = 1
            ORDER BY score DESC, {_KEY} LIMIT {int(query.limit)}
        )
        SELECT round(score::DOUBLE, 3) AS score, camera, {wall_clock_sql("time_s * 1e6")} AS captured_at_utc,
            class_name, {_KEY}, round(time_s, 3) AS time_s
        FROM scored JOIN (SELECT {_KEY}, class_name, time_s FROM crops) USING ({_KEY})
        LEFT JOIN recording_clocks USING (recording_id)
        ORDER BY score DESC, {_KEY}
        """,
        params={"embedding": query.embedding.tolist(), **values},
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


def _conditions(connection: duckdb.DuckDBPyConnection, query: CropQuery) -> tuple[list[str], dict[str, Any]]:
    """SQL conditions on rows of the view of embeddings, and the values of their parameters."""
    conditions: list[str] = []
    values: dict[str, Any] = {}

    def add(condition: str, **parameters: Any) -> None:
        conditions.append(condition)
        values.update(parameters)

    if query.model_id is not None:
        add("model_id = $model_id", model_id=query.model_id)
    if query.without_track is not None:
        recording_id, track_id = query.without_track
        add(f"({_TRACK}) <> ($not_recording, $not_track)", not_recording=recording_id, not_track=track_id)
    if query.camera is not None:
        check_value(connection, "camera", "recordings", query.camera)
        # Recordings, not the column camera: so DuckDB skips the files of other recordings.
        add(
            "recording_id IN (SELECT recording_id FROM recording_clocks WHERE coalesce(camera, '') = $camera)",
            camera=query.camera,
        )
    if query.class_name is not None:
        check_value(connection, "class_name", "tracks", query.class_name)
        add(f"({_TRACK}) IN (SELECT ({_TRACK}) FROM crops WHERE class_name = $class_name)", class_name=query.class_name)
    for column, operator, time in (("from", ">=", query.from_utc), ("to", "<", query.to_utc)):
        if time is not None:
            _check_time(connection, column, time)
            crops = f"SELECT ({_KEY}) FROM crops WHERE captured_at_utc {operator} ${column}_utc::TIMESTAMPTZ"
            add(f"({_KEY}) IN ({crops})", **{f"{column}_utc": time})
    if query.zone is not None:
        check_value(connection, "zone_name", "zone_events", query.zone)
        add(f"({_TRACK}) IN (SELECT ({_TRACK}) FROM zone_events WHERE zone_name = $zone)", zone=query.zone)
    for number, (model, part, class_name) in enumerate(query.attributes):
        condition, parameters = vote_condition(connection, model, part, class_name, f"vote_{number}")
        add(condition, **parameters)
    return conditions, values


def vote_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the tables with the votes of crop models."""
    suffix = f"_{TRACK_CLASSES.name}"
    query = "SELECT view_name FROM duckdb_views() WHERE ends_with(view_name, ?) AND NOT internal ORDER BY 1"
    return [name for (name,) in connection.execute(query, [suffix]).fetchall()]


def vote_condition(
    connection: duckdb.DuckDBPyConnection, model: str, part: str | None, class_name: str, prefix: str
) -> tuple[str, dict[str, str]]:
    """SQL condition for tracks with a vote of a crop model, and the values of its parameters.

    Args:
        connection: The published results.
        model: The crop model.
        part: Part of the object; None for any.
        class_name: The class of the vote.
        prefix: How the names of the parameters begin.

    Raises:
        PipelineError: The crop model has no votes.
    """
    table = f"{model}_{TRACK_CLASSES.name}"
    if table not in vote_tables(connection):
        raise PipelineError(f"The attribute {model} has no table {table}: name a crop model that votes on classes.")
    values, of_part = {f"{prefix}_class": class_name}, ""
    if part is not None:
        values[f"{prefix}_part"], of_part = part, f" AND part = ${prefix}_part"
    tracks = f"SELECT ({_TRACK}) FROM {table} WHERE class_name = ${prefix}_class{of_part}"
    return f"({_TRACK}) IN ({tracks})", values


def parse_attribute(text: str) -> tuple[str, str | None, str] | None:
    """Parse MODEL=CLASS or MODEL.PART=CLASS, the vote of a crop model; None if the text is of another form."""
    name, separator, class_name = text.partition("=")
    model, _, part = name.partition(".")
    return (model, part or None, class_name) if separator and model.isidentifier() and class_name else None


def _check_time(connection: duckdb.DuckDBPyConnection, name: str, text: str) -> None:
    """Check that a text is a time.

    Raises:
        PipelineError: It is not.
    """
    try:
        connection.execute("SELECT ?::TIMESTAMPTZ", [text]).fetchall()
    except duckdb.Error as error:
        raise PipelineError(f"--{name} {text!r} is no time such as '2026-03-01 08:00' (UTC).") from error


def check_value(connection: duckdb.DuckDBPyConnection, column: str, table: str, value: str) -> None:
    """Check that a camera or class exists.

    Raises:
        PipelineError: It does not; the sentence gives the nearest name.
    """
    rows = connection.execute(f"SELECT DISTINCT coalesce({column}, '') FROM {table} ORDER BY 1").fetchall()
    known = [name for (name,) in rows]
    if value in known:
        return
    nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(map(repr, known)) or 'none'}."
    kind = column.removesuffix("_name")
    raise PipelineError(f"The {kind} {value!r} has no {'recording' if kind == 'camera' else 'object'}; {hint}")
