"""tracks: one row per track (recording_id, track_id); track_boxes: one row per track and frame.

Tracks are computed from the stored detections that count alone: no pixels are read and no model runs.
"""

import itertools
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cv_assets.detection_filter import DetectionFilter
from cv_assets.media_status import read_normalized_row
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata
from resources.config.settings import Settings
from resources.config.tracking_config import TrackSettings
from resources.media.progress import ReportProgress
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.tracking.track_linking import TrackEnds, link_tracks
from resources.tracking.tracker import Tracker

_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
_DETECTION_COLUMNS = ("recording_id", "frame_index", "detection_index", "time_s", "class_id", "class_name",
                      "confidence", *_CORNERS)  # fmt: skip
_END_SPEED_WINDOW_S = 0.5  # the speed at the end of a track is measured over its last half second

# Each track gets the class with the largest sum of confidences, and a track_id in the order in which tracks start.
_TRACK_BOXES_SQL = """
WITH tracked AS (SELECT * FROM boxes WHERE track_id > 0),
votes AS (
    SELECT track_id, class_id, class_name,
        row_number() OVER (PARTITION BY track_id ORDER BY sum(confidence) DESC, class_id) AS vote_rank
    FROM tracked GROUP BY track_id, class_id, class_name
),
spans AS (
    SELECT track_id, row_number() OVER (ORDER BY min(frame_index), track_id)::INTEGER AS new_id
    FROM tracked GROUP BY track_id
    HAVING count(*) > 1 AND count(*) / $rate >= $min_duration_s AND max(confidence) >= $min_best_confidence
)
SELECT tracked.* EXCLUDE (class_id, class_name, track_id), new_id AS track_id, votes.class_id, votes.class_name,
    false AS is_interpolated
FROM tracked JOIN spans USING (track_id) JOIN votes USING (track_id)
WHERE vote_rank = 1
ORDER BY new_id, frame_index
"""

_TRACKS_SQL = """
WITH centres AS (SELECT *, (x_min_px + x_max_px) / 2 AS x, (y_min_px + y_max_px) / 2 AS y FROM track_boxes),
moves AS (
    SELECT *, x - lag(x) OVER path AS dx, y - lag(y) OVER path AS dy FROM centres
    WINDOW path AS (PARTITION BY track_id ORDER BY frame_index)
)
SELECT any_value(recording_id) AS recording_id, track_id, any_value(class_id) AS class_id,
    any_value(class_name) AS class_name, min(time_s) AS start_s, max(time_s) + 1 / $rate AS end_s,
    max(time_s) + 1 / $rate - min(time_s) AS duration_s, min(frame_index) AS first_frame_index,
    max(frame_index) AS last_frame_index, count(*)::INTEGER AS box_count, avg(confidence) AS mean_confidence,
    coalesce(sum(sqrt(dx * dx + dy * dy)), 0) AS path_px,
    path_px / greatest(max(time_s) - min(time_s), 1 / $rate) AS mean_speed_px_s,
    arg_min(x, frame_index) AS first_x_px, arg_min(y, frame_index) AS first_y_px,
    arg_max(x, frame_index) AS last_x_px, arg_max(y, frame_index) AS last_y_px
FROM moves GROUP BY track_id ORDER BY track_id
"""


def assign_track_ids(detections: pa.Table, rate_fps: float, settings: TrackSettings) -> np.ndarray:
    """Assign detections of the same object to one track.

    Args:
        detections: Rows of `detections` of one recording, sorted by frame_index and detection_index.
        rate_fps: Frames per second.
        settings: Method and thresholds.

    Returns:
        int32 array of shape (rows,): the track of each detection, 0 for a detection without a track.
    """
    xyxy = corners(detections)
    confidence, class_id = detections["confidence"].to_numpy(), detections["class_id"].to_numpy()
    frame_index, time_s = detections["frame_index"].to_numpy(), detections["time_s"].to_numpy()
    if settings.method == "bytetrack":
        return _assign_with_bytetrack(frame_index, xyxy, confidence, class_id, rate_fps, settings)
    tracker = Tracker(settings, 1 / rate_fps)
    track_id = np.zeros(len(xyxy), np.int32)
    edges = [*np.flatnonzero(np.diff(frame_index, prepend=-1)).tolist(), len(xyxy)]
    for begin, end in itertools.pairwise(edges):
        rows = slice(begin, end)
        track_id[rows] = tracker.update(float(time_s[begin]), xyxy[rows], confidence[rows], class_id[rows])
    return track_id


class _FrameBoxes:
    """The boxes of one frame with the interface that Ultralytics' trackers expect."""

    def __init__(self, xyxy: np.ndarray, conf: np.ndarray, cls: np.ndarray) -> None:
        self.xyxy, self.conf, self.cls = xyxy, conf, cls

    @property
    def xywh(self) -> np.ndarray:
        """Centre and size, shape (n, 4)."""
        return np.concatenate([(self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)

    def __getitem__(self, rows: np.ndarray) -> "_FrameBoxes":
        return _FrameBoxes(self.xyxy[rows], self.conf[rows], self.cls[rows])

    def __len__(self) -> int:
        return len(self.conf)


def _assign_with_bytetrack(
    frame_index: np.ndarray,
    xyxy: np.ndarray,
    confidence: np.ndarray,
    class_id: np.ndarray,
    rate_fps: float,
    settings: TrackSettings,
) -> np.ndarray:
    from ultralytics.trackers.byte_tracker import BYTETracker

    tracker = BYTETracker(
        SimpleNamespace(
            track_high_thresh=settings.high_confidence,
            track_low_thresh=settings.low_confidence,
            new_track_thresh=settings.new_track_confidence,
            track_buffer=max(1, round(settings.lost_s * rate_fps)),
            match_thresh=settings.match_threshold,
            fuse_score=True,
        )
    )
    boxes = _FrameBoxes(*(values.astype(np.float32) for values in (xyxy, confidence, class_id)))
    track_id = np.zeros(len(xyxy), np.int32)
    frame_count = int(frame_index[-1]) + 1 if len(frame_index) else 0
    # BYTETrack counts frames without boxes too: they age its lost tracks.
    edges = np.searchsorted(frame_index, np.arange(frame_count + 1))
    for begin, end in itertools.pairwise(edges):
        matched = tracker.update(boxes[np.arange(begin, end)])
        if len(matched):
            track_id[begin + matched[:, 7].astype(int)] = matched[:, 4].astype(np.int32)
    return track_id


def corners(boxes: pa.Table) -> np.ndarray:
    """Corners of boxes in pixels, shape (rows, 4)."""
    return np.stack([boxes[name].to_numpy() for name in _CORNERS], axis=1)


def track_ends(boxes: pa.Table) -> tuple[np.ndarray, TrackEnds, TrackEnds]:
    """Position, speed, size and class of tracks at their first and last boxes.

    Args:
        boxes: Rows with a column track_id, sorted by track_id and frame_index.

    Returns:
        Track ids, starts and ends of the tracks, in the order of the rows.
    """
    track_id, first = np.unique(boxes["track_id"].to_numpy(), return_index=True)
    last = np.append(first[1:], boxes.num_rows)[: len(first)] - 1
    time_s, xyxy = boxes["time_s"].to_numpy(), corners(boxes)
    centre, size = (xyxy[:, :2] + xyxy[:, 2:]) / 2, np.sqrt((xyxy[:, 2:] - xyxy[:, :2]).clip(1).prod(axis=1))

    def ends(at: np.ndarray, inner: np.ndarray) -> TrackEnds:
        elapsed_s = time_s[inner] - time_s[at]
        velocity = (centre[inner] - centre[at]) / np.where(elapsed_s == 0, np.inf, elapsed_s)[:, None]
        class_name = boxes["class_name"].take(pa.array(at)).to_numpy()
        return TrackEnds(time_s[at], centre[at], velocity, size[at], class_name)

    # The rows of one track follow those of another: an offset per track makes the times of all rows ascend, so that one
    # search covers all tracks.
    offset_s = time_s.max(initial=0) + 2 * _END_SPEED_WINDOW_S
    clock_s = time_s + np.repeat(np.arange(len(first)), last - first + 1) * offset_s
    after = np.minimum(np.searchsorted(clock_s, clock_s[first] + _END_SPEED_WINDOW_S), last)
    before = np.maximum(np.searchsorted(clock_s, clock_s[last] - _END_SPEED_WINDOW_S), first)
    return track_id, ends(first, after), ends(last, before)


def stitch_tracks(boxes: pa.Table, max_gap_s: float) -> pa.Table:
    """Join the fragments of each track: a fragment that continues the movement of another belongs to the same track.

    Args:
        boxes: Detections with a column track_id, 0 for none.
        max_gap_s: The longest time between two fragments.

    Returns:
        The same rows; those of a later fragment have the track_id of the first.
    """
    tracked = select("SELECT * FROM boxes WHERE track_id > 0 ORDER BY track_id, frame_index", {"boxes": boxes})
    track_ids, starts, ends = track_ends(tracked)
    first_fragment = {int(track_id): int(track_id) for track_id in track_ids}
    pairs = link_tracks(ends, starts, max_gap_s)
    for end, start in sorted(pairs, key=lambda pair: float(starts.time_s[pair[1]])):
        first_fragment[int(track_ids[start])] = first_fragment[int(track_ids[end])]
    stitched = [first_fragment.get(track_id, 0) for track_id in boxes["track_id"].to_pylist()]
    return boxes.set_column(boxes.column_names.index("track_id"), "track_id", pa.array(stitched, pa.int32()))


def fill_gaps(boxes: pa.Table, frames: pa.Table, max_gap_s: float) -> pa.Table:
    """Interpolate the boxes of a track linearly over short gaps in its detections; such boxes are `is_interpolated`.

    Args:
        boxes: Rows of `track_boxes`, sorted by track_id and frame_index.
        frames: The recording's rows of `frames`, sorted by frame_index.
        max_gap_s: Longer gaps stay open.

    Returns:
        All rows, sorted by track_id and frame_index.
    """
    track_id, frame_index = boxes["track_id"].to_numpy(), boxes["frame_index"].to_numpy()
    time_s, xyxy = boxes["time_s"].to_numpy(), corners(boxes)
    is_gap = (np.diff(track_id) == 0) & (np.diff(frame_index) > 1) & (np.diff(time_s) <= max_gap_s)
    before = np.flatnonzero(is_gap)
    counts = frame_index[before + 1] - frame_index[before] - 1
    row = np.repeat(before, counts)
    frame = frame_index[row] + 1 + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    gap_frames = frames.take(pa.array(frame))
    share = (gap_frames["time_s"].to_numpy() - time_s[row]) / np.maximum(time_s[row + 1] - time_s[row], 1e-9)
    interpolated_xyxy = xyxy[row] + share[:, None] * (xyxy[row + 1] - xyxy[row])
    rows_before = boxes.take(pa.array(row))
    columns: dict[str, Any] = {
        "frame_index": pa.array(frame, pa.int32()),
        "time_s": gap_frames["time_s"],
        "detection_index": pa.nulls(len(row), pa.int32()),
        "is_interpolated": pa.repeat(True, len(row)),
        "confidence": pa.nulls(len(row), pa.float64()),
        **dict(zip(_CORNERS, interpolated_xyxy.T, strict=True)),
    }
    interpolated = {name: columns.get(name, rows_before[name]) for name in boxes.column_names}
    all_boxes = pa.concat_tables([boxes, pa.table(interpolated, schema=boxes.schema)])
    return all_boxes.sort_by([("track_id", "ascending"), ("frame_index", "ascending")])


def track_rows(
    boxes: pa.Table, frames: pa.Table, rate_fps: float, settings: TrackSettings
) -> tuple[pa.Table, pa.Table]:
    """Build the rows of `tracks` and `track_boxes` from detections with track ids.

    Args:
        boxes: Rows of `detections` with a column track_id, 0 for none.
        frames: The recording's rows of `frames`, sorted by frame_index.
        rate_fps: Frames per second: the last frame lasts 1 / rate_fps.
        settings: Limits below which a track counts as noise, and the gaps over which boxes are interpolated and
            fragments joined.

    Returns:
        The two tables. Tracks are numbered from 1 in the order in which they start; each has one class, the one with
        the largest sum of confidences over its boxes.
    """
    if settings.stitch_s:
        boxes = stitch_tracks(boxes, settings.stitch_s)
    noise = {name: getattr(settings, name) for name in ("min_duration_s", "min_best_confidence")}
    track_boxes = select(_TRACK_BOXES_SQL, {"boxes": boxes}, {"rate": rate_fps, **noise})
    tracks = select(_TRACKS_SQL, {"track_boxes": track_boxes}, {"rate": rate_fps})
    track_boxes = track_boxes.select(TRACK_BOXES.arrow_schema.names).cast(TRACK_BOXES.arrow_schema)
    return tracks, fill_gaps(track_boxes, frames, settings.interpolate_s)


def track_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Track the objects of one recording and store their tracks and boxes.

    Raises:
        RecordingError: The recording has no normalized video and therefore no detections.
    """
    row = read_normalized_row(recording_id, store)
    detections = store.read(DETECTIONS, [recording_id], list(_DETECTION_COLUMNS))
    detections = detections.sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])
    detections = DetectionFilter.of_detector(settings).apply(detections)
    frames = store.read(FRAMES, [recording_id], ["frame_index", "time_s"]).sort_by("frame_index")
    track_ids = assign_track_ids(detections, row["rate_fps"], settings.tracks)
    boxes = detections.append_column("track_id", pa.array(track_ids))
    tracks, track_boxes = track_rows(boxes, frames, row["rate_fps"], settings.tracks)
    store.replace(TRACKS, [recording_id], tracks)
    store.replace(TRACK_BOXES, [recording_id], track_boxes)
    track_counts = class_count_metadata("tracks", Counter(tracks["class_name"].to_pylist()))
    duration = {"mean_duration_s": float(tracks["duration_s"].to_numpy().mean())} if tracks.num_rows else {}
    interpolated_count = pc.sum(track_boxes["is_interpolated"]).as_py() or 0
    return {
        TRACKS.name: count_metadata(tracks.num_rows, **track_counts, **duration),
        TRACK_BOXES.name: count_metadata(track_boxes.num_rows, interpolated_count=interpolated_count),
    }


@stage_asset(
    group=ANALYSIS,
    tables=(TRACKS, TRACK_BOXES),
    deps=(DETECTIONS.name, FRAMES.name),
    version=lambda settings: DetectionFilter.of_detector(settings).stage_version(
        "tracks 3", {"tracks": settings.tracks}
    ),
    kinds=("numpy",),
    resource_keys=("models",),
)
def tracks(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Track the detected objects of each recording from frame to frame."""
    detector = run.settings.detections
    names_by_key = {"class_names": detector.class_names or (), "rename_classes": run.settings.rename_classes}
    run.context.resources.models.check_class_names(detector, names_by_key)
    return track_recording(recording_id, run.store, run.settings)
