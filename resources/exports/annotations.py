"""The boxes of one recording as exports need them, read from the published results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np

from resources.errors import PipelineError

KEYPOINT_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
"""Names of the 17 keypoints of a COCO person."""

_CORNERS = "x_min_px, y_min_px, x_max_px, y_max_px"


@dataclass(frozen=True, slots=True)
class Box:
    """One box of one frame.

    Attributes:
        frame_index: From 0.
        track_id: Number of the track; None for a detection without one.
        class_name: Class; "unsure" where a track has none.
        confidence: None where no model has given the box: interpolated, or by a person.
        xyxy: Corners in pixels of the normalized video, from the top left.
        is_interpolated: Whether the box is estimated from those before and after it.
        is_corrected: Whether a person has changed or confirmed it.
        area_px: Area of the mask; None without one.
        polygon_px: Outline of the mask, x and y alternating; empty without one.
        keypoints: x and y in pixels, and confidence, of each keypoint, shape (keypoints, 3).
    """

    frame_index: int
    track_id: int | None
    class_name: str
    confidence: float | None
    xyxy: tuple[float, float, float, float]
    is_interpolated: bool = False
    is_corrected: bool = False
    area_px: float | None = None
    polygon_px: Sequence[float] = ()
    keypoints: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class RecordingAnnotations:
    """A recording and its boxes.

    Attributes:
        recording_id: The recording.
        camera: Its camera; None without one.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        rate_fps: Frame rate of the normalized video.
        times_s: Time of each frame on the source's clock, shape (frames,).
        boxes: Sorted by frame.
        camera_px: How far the picture of each frame is shifted from that of the first, shape (frames, 2); None where
            that was not measured.
    """

    recording_id: str
    camera: str | None
    width_px: int
    height_px: int
    rate_fps: Fraction
    times_s: np.ndarray
    boxes: Sequence[Box]
    camera_px: np.ndarray | None = None

    def ground_shift_px(self, frame_indices: Sequence[int]) -> np.ndarray:
        """How far what stands still on the ground is shifted in some frames of a moving camera, shape (n, 2).

        Raises:
            PipelineError: That was not measured.
        """
        if self.camera_px is None:
            raise PipelineError(
                f"{self.recording_id}: the positions of its moving camera are not known, which fixed_to: ground needs: "
                "materialize normalized_video again."
            )
        return np.asarray(self.camera_px[list(frame_indices)])

    def tracks(self) -> Mapping[int, list[Box]]:
        """The boxes of each track, by its number."""
        tracks: dict[int, list[Box]] = {}
        for box in self.boxes:
            if box.track_id is not None:
                tracks.setdefault(box.track_id, []).append(box)
        return dict(sorted(tracks.items()))

    def boxes_by_frame(self) -> Mapping[int, list[Box]]:
        """The boxes of each frame that has any, by its index."""
        frames: dict[int, list[Box]] = {}
        for box in self.boxes:
            frames.setdefault(box.frame_index, []).append(box)
        return frames


def select_recordings(
    results: duckdb.DuckDBPyConnection, recording_ids: Sequence[str], camera: str | None, *, needs_video: bool = True
) -> list[dict[str, Any]]:
    """Select recordings.

    Args:
        results: The published results.
        recording_ids: Their ids, or unique beginnings of them; all recordings without any.
        camera: Only this camera; empty for recordings directly in the watched folder, None for all.
        needs_video: Whether only recordings that were normalized are selected.

    Raises:
        PipelineError: A recording does not exist, has no normalized video but needs one, or none is selected.
    """
    columns = "recording_id, camera, width_px, height_px, rate_fps_num, rate_fps_den, frame_count, error"
    names = columns.split(", ")
    query = f"SELECT {columns} FROM recordings ORDER BY camera, recording_id"
    rows = [dict(zip(names, row, strict=True)) for row in results.execute(query).fetchall()]
    if recording_ids:
        rows = [_find_recording(rows, recording_id) for recording_id in dict.fromkeys(recording_ids)]
        for row in rows:
            if needs_video and not row["frame_count"]:
                reason = row["error"] or "process it first."
                raise PipelineError(f"The recording {row['recording_id']} has no normalized video: {reason}")
    rows = [row for row in rows if row["frame_count"] or not needs_video]
    rows = [row for row in rows if camera is None or (row["camera"] or "") == camera]
    if not rows:
        where = f" of the camera {camera!r}" if camera is not None else ""
        raise PipelineError(f"There is no processed recording{where}.")
    return rows


def _find_recording(rows: Sequence[dict[str, Any]], recording_id: str) -> dict[str, Any]:
    matching = [row for row in rows if row["recording_id"].startswith(recording_id)]
    exact = [row for row in matching if row["recording_id"] == recording_id]
    if len(exact or matching) == 1:
        return (exact or matching)[0]
    if matching:
        names = ", ".join(row["recording_id"] for row in matching[:3])
        raise PipelineError(
            f"{recording_id!r} is the beginning of {len(matching)} recordings ({names}): give more of it."
        )
    raise PipelineError(f"No recording has the id {recording_id!r}; the table recordings has all ids.")


def read_annotations(
    results: duckdb.DuckDBPyConnection,
    row: Mapping[str, Any],
    *,
    is_corrected: bool,
    has_untracked: bool,
    class_names: Sequence[str] = (),
) -> RecordingAnnotations:
    """Read the boxes of one recording.

    Args:
        results: The published results.
        row: The recording, from `select_recordings`.
        is_corrected: Take the tracks as people have corrected them, not as the tracker gave them.
        has_untracked: Take every detection, whether it has a track or not; with `is_corrected` only boxes of tracks.
        class_names: Only these classes; all without any.
    """
    recording_id = row["recording_id"]
    if is_corrected:
        source = f"""
            SELECT frame_index, track_id, class_name, confidence, {_CORNERS}, is_interpolated,
                coalesce(is_corrected, false), detection_index
            FROM track_boxes WHERE recording_id = $id"""
    elif has_untracked:
        source = f"""
            SELECT frame_index, track_id, detections.class_name, detections.confidence,
                {", ".join(f"detections.{name}" for name in _CORNERS.split(", "))}, false, false, detection_index
            FROM (FROM detections WHERE recording_id = $id) AS detections
            LEFT JOIN (
                SELECT frame_index, detection_index, track_id FROM tracker_track_boxes WHERE recording_id = $id
            ) USING (frame_index, detection_index)"""
    else:
        source = f"""
            SELECT frame_index, track_id, class_name, confidence, {_CORNERS}, is_interpolated, false, detection_index
            FROM tracker_track_boxes WHERE recording_id = $id"""
    values: dict[str, Any] = {"id": recording_id}
    masks = {
        (frame, index): (area, polygon or [])
        for frame, index, area, polygon in results.execute(
            "SELECT frame_index, detection_index, area_px, polygon_px FROM masks WHERE recording_id = $id", values
        ).fetchall()
    }
    keypoints: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for frame, index, *point in results.execute(
        """SELECT frame_index, detection_index, x_px, y_px, confidence FROM keypoints WHERE recording_id = $id
        ORDER BY frame_index, detection_index, keypoint_index""",
        values,
    ).fetchall():
        keypoints.setdefault((frame, index), []).append((point[0], point[1], point[2]))
    frames = results.sql(
        "SELECT time_s, camera_x_px, camera_y_px FROM frames WHERE recording_id = $id ORDER BY frame_index",
        params=values,
    ).to_arrow_table()
    boxes = []
    for frame, track, name, confidence, left, top, right, bottom, interpolated, corrected, index in _fetch(
        results, f"{source} ORDER BY frame_index, track_id, detection_index", values
    ):
        if class_names and name not in class_names:
            continue
        area, polygon = masks.get((frame, index), (None, []))
        boxes.append(
            Box(frame, track, name, confidence, (left, top, right, bottom), interpolated, corrected, area, polygon,
                keypoints.get((frame, index), ()))
        )  # fmt: skip
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    size = (row["width_px"], row["height_px"])
    times_s, *camera_px = (frames[name].to_numpy() for name in frames.column_names)
    is_measured = frames["camera_x_px"].null_count == 0
    position = np.stack(camera_px, axis=1) if is_measured else None
    return RecordingAnnotations(recording_id, row["camera"], *size, rate_fps, times_s, boxes, position)


def _fetch(results: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    cursor = results.execute(query, values)
    while rows := cursor.fetchmany(10_000):
        yield from rows


def list_classes(
    results: duckdb.DuckDBPyConnection, recording_ids: Sequence[str] | None, *, is_corrected: bool, has_untracked: bool
) -> list[str]:
    """The classes of the boxes that `read_annotations` reads, sorted by name; None takes all recordings."""
    table = "track_boxes" if is_corrected else "detections" if has_untracked else "tracker_track_boxes"
    where = "" if recording_ids is None else "WHERE recording_id IN (SELECT unnest($ids))"
    values = {} if recording_ids is None else {"ids": list(recording_ids)}
    rows = results.execute(f"SELECT DISTINCT class_name FROM {table} {where} ORDER BY 1", values).fetchall()
    return [name for (name,) in rows]
