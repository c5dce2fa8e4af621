"""Rows of the tables that models fill, from the detections of each frame."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from resources.inference.detection_arrays import Detections
from resources.inference.tiles import AnyDetector
from resources.schema.columns import Table

_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")

BuildRows = Callable[[str, Sequence[Detections], pa.Table, AnyDetector], pa.Table]
"""Builds the rows of one table; see `detection_rows` for the arguments."""


def detection_rows(
    recording_id: str, detections: Sequence[Detections], frames: pa.Table, detector: AnyDetector
) -> pa.Table:
    """Build the rows of `detections`; none for a classifier, whose classes belong to the whole frame.

    Args:
        recording_id: The recording.
        detections: The detections of each frame.
        frames: The rows of `frames` of these frames, in the same order.
        detector: The model that detected them.
    """
    if detector.task == "classify":
        detections = []
    position, index = _positions(detections)
    frame_rows = frames.take(pa.array(position))
    xyxy = np.concatenate([boxes.xyxy for boxes in detections] or [np.empty((0, 4))]).astype(np.float64)
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, len(position)),
            "frame_index": frame_rows["frame_index"],
            "detection_index": index,
            "source_frame_index": frame_rows["source_frame_index"],
            **_class_columns(detections, position, frame_rows, detector),
            **{edge: xyxy[:, column] for column, edge in enumerate(_CORNERS)},
        }
    )


def frame_class_rows(
    recording_id: str, detections: Sequence[Detections], frames: pa.Table, detector: AnyDetector
) -> pa.Table:
    """Build the rows of `frame_classes`; see `detection_rows`."""
    position, index = _positions(detections)
    frame_rows = frames.take(pa.array(position))
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, len(position)),
            "frame_index": frame_rows["frame_index"],
            "rank": index + np.int32(1),
            **_class_columns(detections, position, frame_rows, detector),
        }
    )


def mask_rows(recording_id: str, detections: Sequence[Detections], frames: pa.Table, _: AnyDetector) -> pa.Table:
    """Build the rows of `masks`; see `detection_rows`."""
    polygons = [polygon.ravel().astype(np.float64) for boxes in detections for polygon in boxes.polygons or ()]
    areas = [boxes.mask_areas for boxes in detections if boxes.mask_areas is not None]
    return pa.table(
        {
            **_key_columns(recording_id, detections, frames),
            "area_px": np.concatenate(areas or [np.empty(0)]).astype(np.float64),
            "polygon_px": pa.array(polygons, pa.list_(pa.float64())),
        }
    )


def keypoint_rows(recording_id: str, detections: Sequence[Detections], frames: pa.Table, _: AnyDetector) -> pa.Table:
    """Build the rows of `keypoints`, one per keypoint of each box; see `detection_rows`."""
    keypoints = [boxes.keypoints for boxes in detections if boxes.keypoints is not None]
    values = np.concatenate(keypoints or [np.empty((0, 1, 3))]).astype(np.float64)
    count = values.shape[1]
    keys = pa.table(_key_columns(recording_id, detections, frames))
    rows = keys.take(pa.array(np.repeat(np.arange(keys.num_rows), count)))
    points = values.reshape(-1, 3)
    columns = {
        "keypoint_index": np.tile(np.arange(count, dtype=np.int32), keys.num_rows),
        "x_px": points[:, 0],
        "y_px": points[:, 1],
        "confidence": points[:, 2].clip(0, 1),
    }
    return pa.table({**{name: rows[name] for name in rows.column_names}, **columns})


def oriented_box_rows(
    recording_id: str, detections: Sequence[Detections], frames: pa.Table, _: AnyDetector
) -> pa.Table:
    """Build the rows of `oriented_boxes`; see `detection_rows`."""
    oriented_boxes = [boxes.oriented_boxes for boxes in detections if boxes.oriented_boxes is not None]
    values = np.concatenate(oriented_boxes or [np.empty((0, 5))]).astype(np.float64)
    names = ("centre_x_px", "centre_y_px", "box_width_px", "box_height_px")
    return pa.table(
        {
            **_key_columns(recording_id, detections, frames),
            **{name: values[:, column] for column, name in enumerate(names)},
            "angle_deg": np.degrees(values[:, 4]),
        }
    )


_BUILDERS: dict[str, BuildRows] = {
    "detections": detection_rows,
    "masks": mask_rows,
    "keypoints": keypoint_rows,
    "oriented_boxes": oriented_box_rows,
    "frame_classes": frame_class_rows,
}


def _positions(detections: Sequence[Detections]) -> tuple[np.ndarray, np.ndarray]:
    """For every box, the position of its frame in the sequence and its index in the frame."""
    counts = np.array([len(boxes) for boxes in detections], np.int64)
    position = np.repeat(np.arange(len(detections)), counts)
    return position, (np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32)


def _key_columns(recording_id: str, detections: Sequence[Detections], frames: pa.Table) -> dict[str, Any]:
    position, index = _positions(detections)
    return {
        "recording_id": pa.repeat(recording_id, len(position)),
        "frame_index": frames["frame_index"].take(pa.array(position)),
        "detection_index": index,
        "time_s": frames["time_s"].take(pa.array(position)),
    }


def _class_columns(
    detections: Sequence[Detections], position: np.ndarray, frame_rows: pa.Table, detector: AnyDetector
) -> dict[str, Any]:
    class_id = np.concatenate([boxes.class_id for boxes in detections] or [np.empty(0)]).astype(np.int32)
    confidence = np.concatenate([boxes.confidence for boxes in detections] or [np.empty(0)])
    return {
        "time_s": frame_rows["time_s"],
        "class_id": class_id,
        "class_name": pa.array([detector.class_names[int(number)] for number in class_id], pa.string()),
        "confidence": confidence.astype(np.float64).clip(0, 1),
        "is_reused": np.array([boxes.is_reused for boxes in detections], bool)[position],
        "model_id": pa.repeat(detector.model_id, len(position)),
        "engine_name": pa.repeat(detector.engine_name, len(position)),
    }


def rows_of_table(
    table: Table, recording_id: str, detections: Sequence[Detections], frames: pa.Table, detector: AnyDetector
) -> pa.Table:
    """Build the rows of a table that a model fills, with the columns that the table declares.

    Args:
        table: The table; that of a further model is named after the model.
        recording_id: The recording.
        detections: The detections of each frame.
        frames: The rows of `frames` of these frames, in the same order.
        detector: The model that detected them.
    """
    build_rows = next(
        build for name, build in _BUILDERS.items() if table.name == name or table.name.endswith(f"_{name}")
    )
    rows = build_rows(recording_id, detections, frames, detector)
    return rows.select(table.arrow_schema.names).cast(table.arrow_schema)
