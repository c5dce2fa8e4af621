"""Association of the boxes of a recording with tracks, in one pass over its frames."""

import copy
import itertools
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from resources.config.tracking_config import TrackSettings
from resources.tracking.camera_motion import estimate_camera_motion
from resources.tracking.tracker import Tracker


class _FrameTracker(Protocol):
    """Assigns the boxes of one frame after another to tracks; see `Tracker.update`."""

    def update(self, time_s: float, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> np.ndarray: ...


class Association:
    """Assigns boxes to tracks, stretch by stretch of a recording.

    The motion of the camera is removed first. Where it is not known from the pictures, and the boxes show that the
    camera was unsteady, they are associated a second time.

    Args:
        settings: Method and thresholds.
        rate_fps: Frames per second.
        interval_s: Mean time between two analysed frames.
        known_camera_px: Position of each frame's picture relative to that of the first, as measured in the pictures;
            px, shape (frames, 2); None estimates it from the boxes.

    Attributes:
        camera_px: Position of the picture relative to that of the first frame, for each frame so far; px, shape
            (frames, 2).
    """

    def __init__(
        self, settings: TrackSettings, rate_fps: float, interval_s: float, known_camera_px: np.ndarray | None = None
    ) -> None:
        self._rate_fps, self._known_camera_px = rate_fps, known_camera_px
        self._tracker: _FrameTracker = (
            _ByteTracker(settings, 1 / interval_s) if settings.method == "bytetrack" else Tracker(settings, interval_s)
        )
        self._steady_tracker: _FrameTracker | None = None  # None while the camera was never unsteady
        self.camera_px = np.empty((0, 2))

    def assign(
        self, frame_index: np.ndarray, time_s: np.ndarray, xyxy: np.ndarray, confidence: np.ndarray,
        class_id: np.ndarray, end_frame: int,
    ) -> np.ndarray:  # fmt: skip
        """Assign the boxes of the next stretch to tracks.

        Args:
            frame_index: Sorted, shape (n,).
            time_s: Time of the frame, shape (n,).
            xyxy: Corners in pixels, shape (n, 4).
            confidence: Shape (n,).
            class_id: Shape (n,).
            end_frame: The frame after the last of the stretch.

        Returns:
            Track of each box, from 1; 0 for boxes without a track. int32 array of shape (n,).
        """
        first_frame = len(self.camera_px)
        if self._known_camera_px is not None:
            self.camera_px = self._known_camera_px[:end_frame]
            steady_xyxy = xyxy - np.tile(self.camera_px[frame_index], (1, 2))
            return _assign_frames(self._tracker, steady_xyxy, frame_index, time_s, confidence, class_id)
        before = copy.deepcopy(self._tracker) if self._steady_tracker is None else None
        frames = (frame_index, time_s, confidence, class_id)
        track_id = _assign_frames(self._tracker, xyxy, *frames)
        rows = np.flatnonzero(track_id)
        rows = rows[np.argsort(track_id[rows], kind="stable")]
        motion = estimate_camera_motion(
            track_id[rows], frame_index[rows] - first_frame, xyxy[rows], self._rate_fps, end_frame - first_frame
        )
        position = self.camera_px[-1] if first_frame else np.zeros(2)
        self.camera_px = np.concatenate([self.camera_px, position + np.cumsum(motion, axis=0)])
        if self._steady_tracker is None and not motion.any():
            return track_id
        self._steady_tracker = self._steady_tracker or before
        assert self._steady_tracker
        steady_xyxy = xyxy - np.tile(self.camera_px[frame_index], (1, 2))
        return _assign_frames(self._steady_tracker, steady_xyxy, *frames)


def _assign_frames(
    tracker: _FrameTracker, xyxy: np.ndarray, frame_index: np.ndarray, time_s: np.ndarray, confidence: np.ndarray,
    class_id: np.ndarray,
) -> np.ndarray:  # fmt: skip
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


class _ByteTracker:
    """Ultralytics' ByteTrack."""

    def __init__(self, settings: TrackSettings, rate_fps: float) -> None:
        from ultralytics.trackers.byte_tracker import BYTETracker

        options = SimpleNamespace(
            track_high_thresh=settings.high_confidence,
            track_low_thresh=settings.low_confidence,
            new_track_thresh=settings.new_track_confidence,
            track_buffer=max(1, round(settings.lost_s * rate_fps)),
            match_thresh=settings.match_threshold,
            fuse_score=True,
        )
        self._tracker: Any = BYTETracker(options)
        self._rate_fps, self._frame_count = rate_fps, 0

    def update(self, time_s: float, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> np.ndarray:
        """Assign the boxes of the next frame; frames without boxes, which age lost tracks, are counted by the time."""
        no_boxes = np.empty((0, 4), np.float32)
        for _ in range(self._frame_count, round(time_s * self._rate_fps)):
            self._tracker.update(_FrameBoxes(no_boxes, no_boxes[:, 0], no_boxes[:, 0]))
        self._frame_count = round(time_s * self._rate_fps) + 1
        matched = self._tracker.update(
            _FrameBoxes(*(values.astype(np.float32) for values in (xyxy, confidence, class_id)))
        )
        track_id = np.zeros(len(xyxy), np.int32)
        if len(matched):
            track_id[matched[:, 7].astype(int)] = matched[:, 4].astype(np.int32)
        return track_id
