"""tracks: one row per object (recording_id, track_id); track_boxes: one per object per frame it is seen in.

Made from stored detections alone: no pixels, no model.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    recordings_partitions,
    table_asset,
    table_checks,
)
from resources.arrow_sql import select
from resources.errors import RecordingError
from resources.schema import DETECTIONS, RECORDINGS, TRACK_BOXES, TRACKS
from resources.settings import Settings, TrackSettings, current_settings, settings_version
from resources.storage import Store

STAGE = Stage("tracks", (TRACKS, TRACK_BOXES))
_CODE_VERSION = settings_version("tracks 1", current_settings().tracks)
_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
_SHARED = ("recording_id", "frame_index", "detection_index", "time_s", "captured_at_utc", "class_id", "class_name",
           "confidence", *_CORNERS)  # fmt: skip

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
    HAVING count(*) / $rate >= $min_duration_s
)
SELECT tracked.* EXCLUDE (class_id, class_name, track_id), new_id AS track_id, votes.class_id, votes.class_name
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
    coalesce(sum(sqrt(dx * dx + dy * dy)), 0) AS path_px
FROM moves GROUP BY track_id ORDER BY track_id
"""


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


def follow(detections: pa.Table, frame_count: int, rate_fps: float, settings: TrackSettings) -> np.ndarray:
    """Tell which detections are the same object, with ByteTrack.

    Args:
        detections: Rows of `detections` of one recording, sorted by frame_index and detection_index.
        frame_count: Frames of the normalized video; frames without boxes count too.
        rate_fps: Frames per second, which turns the settings' seconds into frames.
        settings: Thresholds.

    Returns:
        int32 array of shape (rows,): the track of each detection, 0 for none.

    ByteTrack: Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022.
    """
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
    xyxy = np.stack([detections[name].to_numpy() for name in _CORNERS], axis=1).astype(np.float32)
    confidence = detections["confidence"].to_numpy().astype(np.float32)
    class_id = detections["class_id"].to_numpy().astype(np.float32)
    starts = np.searchsorted(detections["frame_index"].to_numpy(), np.arange(frame_count + 1))
    track_id = np.zeros(len(confidence), np.int32)
    for begin, end in itertools.pairwise(starts):
        frame = slice(int(begin), int(end))
        matched = tracker.update(_FrameBoxes(xyxy[frame], confidence[frame], class_id[frame]))
        if len(matched):
            track_id[begin + matched[:, 7].astype(int)] = matched[:, 4].astype(np.int32)
    return track_id


def track_rows(boxes: pa.Table, rate_fps: float, min_duration_s: float) -> tuple[pa.Table, pa.Table]:
    """Rows of `tracks` and `track_boxes` from detections that have a track.

    Args:
        boxes: Rows of `detections` with a column track_id, 0 for none.
        rate_fps: Frames per second: the last frame lasts 1 / rate_fps.
        min_duration_s: Tracks seen in fewer frames than last this long are dropped.

    Returns:
        The two tables; tracks are numbered from 1 in the order in which they start, and each has one class, the one
        with the most confidence over its boxes.
    """
    values = {"rate": rate_fps, "min_duration_s": min_duration_s}
    kept = select(_KEPT_SQL, {"boxes": boxes}, values)
    tracks = select(_TRACKS_SQL, {"kept": kept}, {"rate": rate_fps})
    return tracks, kept.select(TRACK_BOXES.arrow_schema.names)


def track_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Follow the objects of one recording and store them.

    Raises:
        RecordingError: The recording has no normalized video and so no detections yet.
    """
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    if row is None or row["frame_count"] is None:
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    found = store.read(DETECTIONS, [recording_id], list(_SHARED))
    found = found.sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])
    track_id = follow(found, row["frame_count"], row["rate_fps"], settings.tracks)
    boxes = found.append_column("track_id", pa.array(track_id))
    tracks, track_boxes = track_rows(boxes, row["rate_fps"], settings.tracks.min_duration_s)
    store.replace(TRACKS, [recording_id], tracks)
    store.replace(TRACK_BOXES, [recording_id], track_boxes)
    per_class = dict(Counter(tracks["class_name"].to_pylist()).most_common())
    return {
        TRACKS.name: count_metadata(tracks.num_rows, tracks_per_class=per_class),
        TRACK_BOXES.name: count_metadata(track_boxes.num_rows),
    }


@multi_asset(
    specs=[
        table_asset(table, group=ANALYSIS, code_version=_CODE_VERSION, deps=[DETECTIONS.name], kinds=("ultralytics",))
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
