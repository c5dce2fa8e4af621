"""Objects similar to an example, which is an object or an uploaded picture, as `cv-assets search` finds them."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from resources.config.settings import Settings
from resources.crop_search import CropQuery, find_embeddings, read_embedding, search_crops, with_candidates
from resources.errors import PipelineError
from serve.pages.object_gallery import OBJECT_COLUMNS, PAGE_SIZE, ObjectFilter, ObjectPage
from serve.pages.picture_examples import PREFIX, PictureExamples
from serve.pages.result_rows import fetch_rows
from serve.problems import ProblemError

MAX_SIMILAR = 1000
"""Objects that a search lists; those after them resemble the example no more than any other."""
_MAX_TRACK = 1 << 31


@dataclass(frozen=True)
class Example:
    """What objects are compared with.

    Attributes:
        embedding: Its embedding, shape (n,).
        model_id: Model of the embedding.
        jpeg: Its picture as base64; None if retention has deleted it.
        class_name: Class of an object; empty for an uploaded picture.
        track: Recording and track of an object; None for an uploaded picture.
    """

    embedding: np.ndarray
    model_id: str
    jpeg: str | None
    class_name: str = ""
    track: tuple[str, int] | None = None


def find_table(connection: duckdb.DuckDBPyConnection, settings: Settings) -> str | None:
    """Name of the searched embeddings; None if crops have none."""
    try:
        return find_embeddings(connection, settings)
    except PipelineError:
        return None


def read_example(
    connection: duckdb.DuckDBPyConnection, settings: Settings, like: str, pictures: PictureExamples
) -> Example:
    """Read the example that an address names: RECORDING/TRACK, or the name of an uploaded picture.

    Raises:
        ProblemError: There is no such example, or crops have no embeddings.
    """
    if like.startswith(PREFIX):
        picture = pictures.find(like)
        return Example(picture.embedding, picture.model_id, base64.b64encode(picture.jpeg).decode())
    recording_id, _, number = like.rpartition("/")
    if not recording_id or not re.fullmatch("[0-9]{1,10}", number) or int(number) >= _MAX_TRACK:
        raise ProblemError(422, f"The example {like[:100]!a} is neither RECORDING/TRACK nor an uploaded picture.")
    track = recording_id, int(number)
    try:
        table = find_embeddings(connection, settings)
        embedding, model_id = read_embedding(connection, table, f"{recording_id}:{number}")
    except PipelineError as error:
        raise ProblemError(404, str(error)) from error
    query = "SELECT jpeg, class_name FROM crops WHERE recording_id = ? AND track_id = ? ORDER BY rank LIMIT 1"
    jpeg, class_name = next(iter(connection.execute(query, track).fetchall()), (None, "track"))
    return Example(embedding, model_id, base64.b64encode(jpeg).decode() if jpeg else None, class_name, track)


def read_similar_objects(
    connection: duckdb.DuckDBPyConnection, settings: Settings, selection: ObjectFilter, offset: int, example: Example
) -> ObjectPage:
    """Read a page of the objects that fit and resemble an example, most similar first, each with that crop.

    Args:
        connection: The published results.
        settings: The settings, which name the embeddings.
        selection: Which objects.
        offset: How many objects to skip.
        example: What they are compared with.

    Raises:
        ProblemError: Crops have no embeddings, or those of another encoder.
    """
    conditions, values = selection.conditions(connection)
    fitting = f"SELECT recording_id, track_id FROM v_objects WHERE {' AND '.join(conditions)}"
    tracks = None if selection.is_empty else connection.sql(fitting, params=values).to_arrow_table()
    query = CropQuery(example.embedding, example.model_id, example.track, limit=MAX_SIMILAR, tracks=tracks)
    try:
        table = find_embeddings(connection, settings)
        found = search_crops(connection, table, with_candidates(query, table, settings)).to_arrow_table()
    except PipelineError as error:
        raise ProblemError(422, str(error)) from error
    connection.register("found", found)
    # Without filters, an object that is left out of counts, or was removed by a correction, is left out here.
    rows = fetch_rows(
        connection,
        f"""
        SELECT {OBJECT_COLUMNS}, score, rank FROM v_objects JOIN (
            SELECT recording_id, track_id, score, rank FROM found
        ) USING (recording_id, track_id)
        WHERE NOT is_left_out ORDER BY score DESC, recording_id, track_id
        """,
    )
    shown = rows[offset : offset + PAGE_SIZE]
    pictures = _read_pictures(connection, shown)
    for row in shown:
        row["jpeg"] = pictures.get((row["recording_id"], row["track_id"], row["rank"]))
    return ObjectPage(len(rows), shown)


def _read_pictures(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, int, int], str]:
    """Read the crops that resemble the example, as base64, by recording, track and rank."""
    query = """
        SELECT recording_id, track_id, rank, jpeg FROM crops
        WHERE recording_id IN (SELECT unnest($ids)) AND jpeg IS NOT NULL
            AND (recording_id, track_id, rank) IN (SELECT (unnest($ids), unnest($tracks), unnest($ranks)))
    """
    names = {"ids": "recording_id", "tracks": "track_id", "ranks": "rank"}
    crops = fetch_rows(connection, query, {key: [row[name] for row in rows] for key, name in names.items()})
    return {
        (crop["recording_id"], crop["track_id"], crop["rank"]): base64.b64encode(crop["jpeg"]).decode()
        for crop in crops
    }
