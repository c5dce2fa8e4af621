"""Recordings whose crops have embeddings and votes: tracks with an even number resemble each other."""

from typing import Any

import numpy as np
import pyarrow as pa

from resources.schema.columns import Table
from resources.schema.table_registry import crop_model_tables
from resources.schema.track_tables import CROPS, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.storage.delta_store import Store
from tests.builders.crop_pictures import RED, crop_rows, draw_crop
from tests.builders.table_rows import store_recordings

EMBEDDINGS, VOTES = crop_model_tables("look", "embed")[0], crop_model_tables("colour")[1]
DIMENSIONS, TRACK_COUNT = 8, 24


def embedding(track_id: int, rank: int) -> list[float]:
    """An embedding whose largest value says whether the track has an even number."""
    vector = np.random.default_rng([track_id, rank]).normal(0, 0.02, DIMENSIONS)
    vector[track_id % 2] += 1
    return [float(value) for value in vector / np.linalg.norm(vector)]


def class_of(track_id: int) -> str:
    return "car" if track_id % 3 else "person"


def filled_rows(table: Table, *rows: dict[str, Any]) -> pa.Table:
    """Rows of a table with 1, true or "" in every column that must have a value and has none."""
    values = {pa.string(): "", pa.bool_(): True}
    ones = {field.name: None if field.nullable else values.get(field.type, 1) for field in table.arrow_schema}
    return pa.Table.from_pylist([ones | row for row in rows], table.arrow_schema)


def store_crops(store: Store) -> None:
    """Store two recordings of the camera gate with tracks of three crops each, their embeddings, votes and events."""
    store_recordings(store, {"recording_id": "a"}, {"recording_id": "b"})
    for recording_id in ("a", "b"):
        of_recording: dict[str, Any] = {"recording_id": recording_id}
        tracks = range(1, TRACK_COUNT + 1)
        crops = [(track, class_of(track), draw_crop(RED)) for track in tracks for _ in range(3)]
        rows = [row | {"time_s": float(row["track_id"])} for row in crop_rows(*crops, recording_id=recording_id)]
        embeddings = [
            {**{name: row[name] for name in ("recording_id", "track_id", "rank")}, "model_id": "m-1"}
            | {"embedding": embedding(row["track_id"], row["rank"])}
            for row in rows
        ]
        colours: list[dict[str, Any]] = [
            of_recording | {"track_id": n, "class_name": "red" if n < 4 else "blue"} for n in tracks
        ]
        events: list[dict[str, Any]] = [of_recording | {"track_id": 3, "event": "enter", "zone_name": "yard"}]
        for table, values in (
            (CROPS, rows),
            (EMBEDDINGS, embeddings),
            (VOTES, colours),
            (TRACKS, [of_recording | {"track_id": n, "class_name": class_of(n)} for n in tracks]),
            (ZONE_EVENTS, events),
        ):
            store.replace(table, [recording_id], filled_rows(table, *values))
