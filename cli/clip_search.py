"""The objects of a recording that a query of the command clip finds."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from resources.config.settings import Settings
from resources.crop_search import (
    CropQuery,
    embed_image,
    embed_text,
    embedding_model,
    open_embeddings,
    parse_crop,
    read_embedding,
    search_crops,
)
from resources.errors import PipelineError

if TYPE_CHECKING:
    from resources.exports.annotations import RecordingAnnotations

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def search_tracks(
    results: duckdb.DuckDBPyConnection,
    settings: Settings,
    recording: "RecordingAnnotations",
    query: str,
    limit: int,
) -> tuple[int, ...]:
    """Find the tracks of a recording that a query describes.

    Args:
        results: The published results.
        settings: The settings.
        recording: The recording.
        query: A class of the recording, whose tracks are found in order of time; or what the command search compares
            crops with: a crop RECORDING:TRACK, the path of a picture, or a description.
        limit: Largest number of tracks.

    Returns:
        Their numbers: the first in time of a class, else the most similar first.

    Raises:
        PipelineError: The query finds nothing, or cannot be compared.
    """
    of_class = {
        number: boxes[0].frame_index for number, boxes in recording.tracks().items() if boxes[0].class_name == query
    }
    if of_class:
        return tuple(sorted(of_class, key=lambda number: (of_class[number], number))[:limit])
    crop_query = replace(_embed(query, recording, settings), limit=limit)
    connection, table = open_embeddings(settings)
    with connection:
        # The crops of the recording alone are compared.
        keys = connection.execute(
            "SELECT recording_id, track_id, rank FROM crops WHERE recording_id = ?", [recording.recording_id]
        ).to_arrow_table()
        rows = search_crops(connection, table, replace(crop_query, candidates=keys)).to_arrow_table().to_pylist()
    known = recording.tracks()
    tracks = tuple(row["track_id"] for row in rows if row["track_id"] in known)
    if not tracks:
        raise PipelineError(f"The recording {recording.recording_id} has no object with an embedding to compare.")
    return tracks


def _embed(query: str, recording: "RecordingAnnotations", settings: Settings) -> CropQuery:
    """Compute the embedding of a query that is no class.

    Raises:
        PipelineError: The query is none that can be compared.
    """
    if Path(query).suffix.lower() in _PICTURES:
        of_image, model_id = embed_image(Path(query), embedding_model(settings))
        return CropQuery(of_image.vector, model_id)
    recording_id, _, rest = query.partition(":")
    if rest.replace(":", "").isdecimal():
        connection, table = open_embeddings(settings)
        with connection:
            embedding, model_id = read_embedding(connection, table, query)
        _, track_id, _ = parse_crop(query)
        return CropQuery(embedding, model_id, without_track=(recording_id, track_id))
    if settings.search.text_encoder is None:
        classes = ", ".join(sorted({box.class_name for box in recording.boxes})) or "none"
        raise PipelineError(
            f"--search {query!r} is no class of the recording {recording.recording_id} (it has: {classes}), no crop "
            "RECORDING:TRACK and no picture; a description needs the setting search.text_encoder."
        )
    return CropQuery(embed_text(query, settings))
