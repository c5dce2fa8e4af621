"""Rows of detections, frames and track boxes of objects that move in a known way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cv_assets.tracks import corners, track_detections
from demo.crowd import Crowd
from resources.config.tracking_config import TrackSettings
from resources.schema.model_tables import DETECTIONS
from resources.schema.track_tables import TRACK_BOXES


def moving_detections(frame_indices: Sequence[int], **overrides: Any) -> pa.Table:
    """Build detections with a track id: a 10 x 20 px box that moves 3 px right and 4 px down per frame, at 10 fps.

    Args:
        frame_indices: The frames in which the object is detected.
        overrides: Values of columns that replace the usual ones in every row.
    """
    rows = [
        {
            "recording_id": "r",
            "frame_index": frame_index,
            "detection_index": 0,
            "time_s": frame_index / 10,
            "class_id": 2,
            "class_name": "car",
            "confidence": 0.8,
            "x_min_px": 3.0 * frame_index,
            "y_min_px": 4.0 * frame_index,
            "x_max_px": 3.0 * frame_index + 10,
            "y_max_px": 4.0 * frame_index + 20,
            "track_id": 7,
            **overrides,
        }
        for frame_index in frame_indices
    ]
    schema = pa.schema([*DETECTIONS.arrow_schema, pa.field("track_id", pa.int32())])
    names = [name for name in schema.names if name in rows[0]]
    return pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in names]))


def frame_rows(count: int) -> pa.Table:
    """Build the rows of `frames` of a recording at 10 fps."""
    frame_index = np.arange(count, dtype=np.int32)
    is_duplicated = np.zeros(count, bool)
    return pa.table({"frame_index": frame_index, "time_s": frame_index / 10, "is_duplicated": is_duplicated})


def moving_track_boxes(x_px: Sequence[float], rate_fps: float = 10.0, **overrides: Any) -> pa.Table:
    """Build the track boxes of a 20 x 50 px object whose bottom centre is at height 100 px.

    Args:
        x_px: Bottom centre in each frame.
        rate_fps: Frames per second.
        overrides: Values of columns that replace the usual ones in every row.
    """
    rows = [
        {
            "recording_id": "r",
            "track_id": 1,
            "frame_index": frame_index,
            "time_s": frame_index / rate_fps,
            "detection_index": 0,
            "is_interpolated": False,
            "class_id": 0,
            "class_name": "person",
            "confidence": 0.9,
            "x_min_px": centre_px - 10,
            "y_min_px": 50.0,
            "x_max_px": centre_px + 10,
            "y_max_px": 100.0,
            **overrides,
        }
        for frame_index, centre_px in enumerate(x_px)
    ]
    return pa.Table.from_pylist(rows, schema=TRACK_BOXES.arrow_schema)


def track_associated(boxes: pa.Table, frame_count: int, settings: TrackSettings) -> tuple[pa.Table, pa.Table]:
    """Compute the rows of `tracks` and `track_boxes` of detections at 10 fps whose association is known.

    Args:
        boxes: Detections with a track id, as `moving_detections` builds them.
        frame_count: Number of frames.
        settings: Limits of links and noise.
    """
    boxes = boxes.sort_by("frame_index")
    return track_detections(boxes, frame_rows(frame_count), 10, settings, boxes["track_id"].to_numpy())


def track_crowd(crowd: Crowd, settings: TrackSettings) -> np.ndarray:
    """Track the detections of a drawn crowd.

    Returns:
        Boxes of shape (boxes, 6) as (frame_index, track_id, x_min, y_min, x_max, y_max), as `score_tracks` takes them.
    """
    detections, rate_fps = crowd.detections(), crowd.settings.rate_fps
    frame_count = round(crowd.settings.duration_s * rate_fps)
    frames = frame_rows(frame_count).set_column(1, "time_s", pa.array(np.arange(frame_count) / rate_fps))
    boxes = track_detections(detections, frames, rate_fps, settings)[1]
    return np.column_stack([boxes["frame_index"].to_numpy(), boxes["track_id"].to_numpy(), corners(boxes)])
