"""A recording of a variable rate with two tracks, masks and keypoints, and one without any box."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from resources.schema.columns import Table
from resources.schema.model_tables import DETECTIONS, KEYPOINTS, MASKS
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.schema.zone_tables import LINE_TRIPS, ZONE_EVENTS
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs, encode_input_versions
from tests.builders.damaged_tracks import track_rows
from tests.builders.numbered_videos import MakeVideo
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE, sparse_rows, store_recordings

WIDTH_PX, HEIGHT_PX, FRAME_COUNT = 320, 200, 30
TIMES_S = np.cumsum(np.random.default_rng(0).uniform(0.05, 0.15, FRAME_COUNT)).round(6)  # a variable rate
_EDGES = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


def stored_rows(table: Table, rows: Sequence[dict[str, Any]], recording_id: str) -> pa.Table:
    """Rows of a table in which columns without a value are NULL, or zero where they must have one."""
    built = sparse_rows(table, *rows, recording_id=recording_id)
    for position, schema_field in enumerate(table.arrow_schema):
        if not schema_field.nullable and built.column(position).null_count == len(rows) > 0:
            zeros = np.zeros(len(rows)).astype(str) if pa.types.is_string(schema_field.type) else np.zeros(len(rows))
            built = built.set_column(position, schema_field.name, pa.array(zeros).cast(schema_field.type))
    return built.cast(table.arrow_schema)


def true_boxes() -> dict[int, dict[int, tuple[str, tuple[float, float, float, float]]]]:
    """Boxes of two tracks by frame: a car with a gap, and a person that is relabelled nowhere."""
    boxes: dict[int, dict[int, tuple[str, tuple[float, float, float, float]]]] = {1: {}, 2: {}}
    for frame in range(FRAME_COUNT):
        if frame not in (10, 11, 12):
            boxes[1][frame] = ("car", (5.25 + 3 * frame, 20.5, 45.75 + 3 * frame, 50.125))
        if 4 <= frame < 20:
            boxes[2][frame] = ("person", (200.5, 60.25 + frame, 220.5, 120.75 + frame))
    return boxes


def store_stage_runs(
    store: Store, *stages: str, version: str = "v", finished_at_utc: datetime = STARTED_JUST_BEFORE_NINE
) -> None:
    """Append the run of some stages at the recording `walk`, each with its results as the input of the next."""
    inputs = encode_input_versions({"input": version})
    rows = [
        StageRun("walk", stage, 1, "ok", "run", finished_at_utc, "person", data_version=version, input_versions=inputs)
        for stage in stages
    ]
    append_stage_runs(store, rows)


def store_walk(store: Store, make_video: MakeVideo) -> list[str]:
    """Store the recording `walk`, which has two tracks, masks, keypoints, an event and a trip, and `empty`.

    Returns:
        Options of commands for the data folder.
    """
    video = make_video("walk.mp4", FRAME_COUNT, rate=10, size=(WIDTH_PX, HEIGHT_PX))
    content = {"frame_count": FRAME_COUNT, "width_px": WIDTH_PX, "height_px": HEIGHT_PX, "video_path": str(video)}
    store_recordings(store, {"recording_id": "walk", **content}, {"recording_id": "empty", **content})
    frames = [{"frame_index": frame, "time_s": float(time_s)} for frame, time_s in enumerate(TIMES_S)]
    store_stage_runs(store, "normalized_video", "detections", "tracks", "corrected_tracks")
    for name in ("walk", "empty"):
        store.replace(FRAMES, [name], stored_rows(FRAMES, frames, name))
    detections, boxes, masks, keypoints = [], [], [], []
    for track_id, by_frame in true_boxes().items():
        for frame, (class_name, corners) in by_frame.items():
            row = {"frame_index": frame, "time_s": float(TIMES_S[frame]), "class_name": class_name, "class_id": 0}
            row |= dict(zip(_EDGES, corners, strict=True))
            is_interpolated = track_id == 2 and frame == 7
            index = None if is_interpolated else track_id
            boxes.append({**row, "track_id": track_id, "detection_index": index, "is_interpolated": is_interpolated,
                          "confidence": None if is_interpolated else 0.75})  # fmt: skip
            if not is_interpolated:
                detections.append({**row, "detection_index": track_id, "confidence": 0.75})
            if track_id == 1:
                left, top, right, bottom = corners
                polygon = [left, top, right, top, right, bottom, (left + right) / 2, bottom + 2]
                masks.append({"frame_index": frame, "detection_index": 1, "area_px": 900.0, "polygon_px": polygon})
            elif not is_interpolated:
                keypoints += [
                    {"frame_index": frame, "detection_index": 2, "keypoint_index": number, "x_px": 201.5 + number,
                     "y_px": 62.25 + frame, "confidence": 0.9 - 0.05 * number}
                    for number in range(17)
                ]  # fmt: skip
    noise = {"frame_index": 2, "detection_index": 0, "time_s": float(TIMES_S[2]), "class_name": "car", "class_id": 0}
    detections.append(noise | {"confidence": 0.2} | dict(zip(_EDGES, (1.0, 2.0, 11.0, 14.0), strict=True)))
    store.replace(DETECTIONS, ["walk"], stored_rows(DETECTIONS, detections, "walk"))
    store.replace(MASKS, ["walk"], stored_rows(MASKS, masks, "walk"))
    store.replace(KEYPOINTS, ["walk"], stored_rows(KEYPOINTS, keypoints, "walk"))
    boxes.sort(key=lambda row: (row["track_id"], row["frame_index"]))
    box_table = stored_rows(TRACK_BOXES, boxes, "walk")
    store.replace(TRACK_BOXES, ["walk"], box_table)
    store.replace(TRACKS, ["walk"], track_rows(box_table, 10.0))
    event = {"track_id": 1, "event_index": 0, "event": "in", "line_name": "gate", "frame_index": 15,
             "time_s": float(TIMES_S[15]), "class_name": "car"}  # fmt: skip
    store.replace(ZONE_EVENTS, ["walk"], stored_rows(ZONE_EVENTS, [event], "walk"))
    trip = {"track_id": 1, "trip_index": 0, "class_name": "car", "from_line": "gate", "to_line": "exit",
            "from_direction": "in", "to_direction": "out", "start_s": 1.0, "travel_s": 2.0}  # fmt: skip
    store.replace(LINE_TRIPS, ["walk"], stored_rows(LINE_TRIPS, [trip], "walk"))
    return ["--data", str(store.data_folder)]
