"""tracks: one row per object (recording_id, track_id); track_boxes: one per object per frame of it.

Made from stored detections alone: no pixels, no model.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    class_counts,
    count_metadata,
    table_asset,
    table_checks,
)
from resources.arrow_sql import select
from resources.errors import RecordingError
from resources.schema import DETECTIONS, FRAMES, RECORDINGS, TRACK_BOXES, TRACKS
from resources.settings import Settings, TrackSettings, current_settings, settings_version
from resources.storage import Store
from resources.tracking import TrackEnds, Tracker, link_tracks
from resources.wall_clock import with_times

STAGE = Stage("tracks", (TRACKS, TRACK_BOXES))
_CODE_VERSION = settings_version("tracks 2", current_settings().tracks)
_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
_SHARED = ("recording_id", "frame_index", "detection_index", "time_s", "captured_at_utc", "class_id", "class_name",
           "confidence", *_CORNERS)  # fmt: skip
_END_SPEED_OVER_S = 0.5  # the speed at a track's end is that of its last half second

# Each track gets one class, the one with the most confidence, and a number in the order in which tracks start.
_KEPT_SQL = """
WITH tracked AS (SELECT * FROM boxes WHERE track_id > 0),
votes AS (
    SELECT track_id, class_id, class_name,
        row_number() OVER (PARTITION BY track_id ORDER BY sum(confidence) DESC, class_id) AS place
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
WHERE place = 1
ORDER BY new_id, frame_index
"""

_TRACKS_SQL = """
WITH centres AS (SELECT *, (x_min_px + x_max_px) / 2 AS x, (y_min_px + y_max_px) / 2 AS y FROM kept),
moves AS (
    SELECT *, x - lag(x) OVER way AS dx, y - lag(y) OVER way AS dy FROM centres
    WINDOW way AS (PARTITION BY track_id ORDER BY frame_index)
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


def follow(detections: pa.Table, rate_fps: float, settings: TrackSettings) -> np.ndarray:
    """Tell which detections are the same object.

    Args:
        detections: Rows of `detections` of one recording, sorted by frame_index and detection_index.
        rate_fps: Frames per second.
        settings: Method and thresholds.

    Returns:
        int32 array of shape (rows,): the track of each detection, 0 for none.
    """
    xyxy = corners(detections)
    confidence, class_id = detections["confidence"].to_numpy(), detections["class_id"].to_numpy()
    frame_index, time_s = detections["frame_index"].to_numpy(), detections["time_s"].to_numpy()
    if settings.method == "bytetrack":
        return _follow_with_bytetrack(frame_index, xyxy, confidence, class_id, rate_fps, settings)
    tracker = Tracker(settings, 1 / rate_fps)
    track_id = np.zeros(len(xyxy), np.int32)
    edges = [*np.flatnonzero(np.diff(frame_index, prepend=-1)).tolist(), len(xyxy)]
    for begin, end in itertools.pairwise(edges):
        rows = slice(begin, end)
        track_id[rows] = tracker.update(float(time_s[begin]), xyxy[rows], confidence[rows], class_id[rows])
    return track_id


class _FrameBoxes:
    """The boxes of one frame as Ultralytics' trackers read them."""

    def __init__(self, xyxy: np.ndarray, conf: np.ndarray, cls: np.ndarray) -> None:
        self.xyxy, self.conf, self.cls = xyxy, conf, cls

    @property
    def xywh(self) -> np.ndarray:
        """Centre and size, shape (n, 4)."""
        return np.concatenate([(self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)

    def __getitem__(self, kept: np.ndarray) -> "_FrameBoxes":
        return _FrameBoxes(self.xyxy[kept], self.conf[kept], self.cls[kept])

    def __len__(self) -> int:
        return len(self.conf)


def _follow_with_bytetrack(
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
    edges = np.searchsorted(frame_index, np.arange(frame_count + 1))  # frames without boxes count, too
    for begin, end in itertools.pairwise(edges):
        matched = tracker.update(boxes[np.arange(begin, end)])
        if len(matched):
            track_id[begin + matched[:, 7].astype(int)] = matched[:, 4].astype(np.int32)
    return track_id


def corners(boxes: pa.Table) -> np.ndarray:
    """The corners of boxes as an array (rows, 4) in pixels."""
    return np.stack([boxes[name].to_numpy() for name in _CORNERS], axis=1)


def track_ends(boxes: pa.Table) -> tuple[np.ndarray, TrackEnds, TrackEnds]:
    """Where and how fast tracks begin and end.

    Args:
        boxes: Rows with a column track_id, sorted by it and frame_index.

    Returns:
        The tracks' numbers, their first ends and their last ends, in the order of the rows.
    """
    track_id, first = np.unique(boxes["track_id"].to_numpy(), return_index=True)
    last = np.append(first[1:], boxes.num_rows)[: len(first)] - 1
    time_s, class_id, xyxy = boxes["time_s"].to_numpy(), boxes["class_id"].to_numpy(), corners(boxes)
    centre, size = (xyxy[:, :2] + xyxy[:, 2:]) / 2, np.sqrt((xyxy[:, 2:] - xyxy[:, :2]).clip(1).prod(axis=1))

    def ends(at: np.ndarray, inner: np.ndarray) -> TrackEnds:
        elapsed_s = time_s[inner] - time_s[at]
        velocity = (centre[inner] - centre[at]) / np.where(elapsed_s == 0, np.inf, elapsed_s)[:, None]
        return TrackEnds(time_s[at], centre[at], velocity, size[at], class_id[at])

    # Tracks follow each other in the rows, so adding a long stride makes one rising clock of all their times.
    clock = time_s + np.repeat(np.arange(len(first)), last - first + 1) * (
        time_s.max(initial=0) + 2 * _END_SPEED_OVER_S
    )
    after = np.minimum(np.searchsorted(clock, clock[first] + _END_SPEED_OVER_S), last)
    before = np.maximum(np.searchsorted(clock, clock[last] - _END_SPEED_OVER_S), first)
    return track_id, ends(first, after), ends(last, before)


def stitch(boxes: pa.Table, max_gap_s: float) -> pa.Table:
    """Join tracks of which one goes on where the other ended.

    Args:
        boxes: Detections with a column track_id, 0 for none.
        max_gap_s: The longest time between them.

    Returns:
        The same rows, of which those of a later fragment carry the number of the first.
    """
    tracked = select("SELECT * FROM boxes WHERE track_id > 0 ORDER BY track_id, frame_index", {"boxes": boxes})
    numbers, starts, ends = track_ends(tracked)
    new_number = {int(number): int(number) for number in numbers}
    pairs = link_tracks(ends, starts, max_gap_s)
    for end, start in sorted(pairs, key=lambda pair: float(starts.time_s[pair[1]])):
        new_number[int(numbers[start])] = new_number[int(numbers[end])]
    renamed = [new_number.get(number, 0) for number in boxes["track_id"].to_pylist()]
    return boxes.set_column(boxes.column_names.index("track_id"), "track_id", pa.array(renamed, pa.int32()))


def fill_gaps(boxes: pa.Table, frames: pa.Table, max_gap_s: float) -> pa.Table:
    """Put a box, marked is_interpolated, into every frame in which a track was briefly not seen.

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
    of_frame = frames.take(pa.array(frame))
    share = (of_frame["time_s"].to_numpy() - time_s[row]) / np.maximum(time_s[row + 1] - time_s[row], 1e-9)
    between = xyxy[row] + share[:, None] * (xyxy[row + 1] - xyxy[row])
    filled = boxes.take(pa.array(row))
    changed: dict[str, Any] = {
        "frame_index": pa.array(frame, pa.int32()),
        "time_s": of_frame["time_s"],
        "captured_at_utc": of_frame["captured_at_utc"],
        "detection_index": pa.nulls(len(row), pa.int32()),
        "is_interpolated": pa.repeat(True, len(row)),
        "confidence": pa.nulls(len(row), pa.float64()),
        **dict(zip(_CORNERS, between.T, strict=True)),
    }
    filled = pa.table({name: changed.get(name, filled[name]) for name in boxes.column_names}, schema=boxes.schema)
    joined = pa.concat_tables([boxes, filled])
    return joined.sort_by([("track_id", "ascending"), ("frame_index", "ascending")])


def track_rows(
    boxes: pa.Table, frames: pa.Table, rate_fps: float, settings: TrackSettings
) -> tuple[pa.Table, pa.Table]:
    """Rows of `tracks` and `track_boxes` from detections that have a track.

    Args:
        boxes: Rows of `detections` with a column track_id, 0 for none.
        frames: The recording's rows of `frames`, sorted by frame_index.
        rate_fps: Frames per second: the last frame lasts 1 / rate_fps.
        settings: What is noise, which gaps are filled and which fragments joined.

    Returns:
        The two tables; tracks are numbered from 1 in the order in which they start, and each has one class, the one
        with the most confidence over its boxes.
    """
    if settings.stitch_s:
        boxes = stitch(boxes, settings.stitch_s)
    noise = {name: getattr(settings, name) for name in ("min_duration_s", "min_best_confidence")}
    kept = select(_KEPT_SQL, {"boxes": boxes}, {"rate": rate_fps, **noise})
    tracks = select(_TRACKS_SQL, {"kept": kept}, {"rate": rate_fps})
    kept = kept.select(TRACK_BOXES.arrow_schema.names).cast(TRACK_BOXES.arrow_schema)
    return tracks, fill_gaps(kept, frames, settings.interpolate_s)


def track_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Follow the objects of one recording and store them.

    Raises:
        RecordingError: The recording has no normalized video and so no detections yet.
    """
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    if row is None or row["frame_count"] is None:
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    found = store.read(DETECTIONS, [recording_id], list(_SHARED))
    found = with_times(found, row["started_at_utc"])
    found = found.sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])
    frames = store.read(FRAMES, [recording_id], ["frame_index", "time_s", "captured_at_utc"]).sort_by("frame_index")
    frames = with_times(frames, row["started_at_utc"])
    boxes = found.append_column("track_id", pa.array(follow(found, row["rate_fps"], settings.tracks)))
    tracks, track_boxes = track_rows(boxes, frames, row["rate_fps"], settings.tracks)
    store.replace(TRACKS, [recording_id], tracks)
    store.replace(TRACK_BOXES, [recording_id], track_boxes)
    per_class = class_counts("tracks", Counter(tracks["class_name"].to_pylist()))
    lasted = {"mean_duration_s": float(tracks["duration_s"].to_numpy().mean())} if tracks.num_rows else {}
    interpolated_count = pc.sum(track_boxes["is_interpolated"]).as_py() or 0
    return {
        TRACKS.name: count_metadata(tracks.num_rows, **per_class, **lasted),
        TRACK_BOXES.name: count_metadata(track_boxes.num_rows, interpolated_count=interpolated_count),
    }


@multi_asset(
    specs=[
        table_asset(
            table, group=ANALYSIS, code_version=_CODE_VERSION, deps=[DETECTIONS.name, FRAMES.name], kinds=("numpy",)
        )
        for table in (TRACKS, TRACK_BOXES)
    ],
    check_specs=table_checks(TRACKS, TRACK_BOXES),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def tracks(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Follow objects from frame to frame."""
    yield from STAGE.each_recording(context, store, lambda r, _: track_recording(r, store, settings))
