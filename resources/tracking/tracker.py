"""Multi-object tracking by position and motion: no pixels, no model, no torch.

The tracker takes frames one by one with their times, so that videos with skipped frames, variable frame rate or gaps
need no other settings. It combines a Kalman filter on the box with assignment in rounds: boxes of high confidence
first, then boxes of low confidence that continue a track (Zhang et al., "ByteTrack", ECCV 2022), then boxes within
reach of the position to which a fast or briefly undetected object may have moved (after Yang et al., "Hard to Track
Objects with Irregular Motions and Similar Appearances? Make It Easier by Buffering the Matching Space", WACV 2023; here
the buffer is the uncertainty of the filter).
"""

from dataclasses import dataclass, fields

import numpy as np

from resources.config.tracking_config import TrackSettings
from resources.geometry.box_overlap import iou, iou_matrix
from resources.tracking.motion_model import (
    BOX_CENTRE_STD_SIZES,
    BOX_SIZE_STD_SIZES,
    RESIZE_STD_SIZES,
    initial_variance,
    noise_factor,
    predict_variance,
)

_MAX_FALLBACK_COST = 0.5  # largest cost of a match of the second and third round
_REACH_STDS = 2.0  # the third round extends boxes by this many standard deviations of the predicted position
_LOW_CONFIDENCE_MAX_AGE_S = 0.5  # a box of low confidence continues only tracks that had a box this recently
_DUPLICATE_BOX_IOU = 0.55  # an unmatched box that overlaps a matched one by more than this starts no track
_CLASS_CHANGE_COST = 0.1
# A track may be without a box for as long as it had boxes before, but at least for the longer of these two; at low
# frame rates even a long track must survive some missed frames.
_MIN_LOST_S, _MIN_LOST_FRAMES = 0.3, 2.5
_MAX_LOST_FRAMES = 4.5


@dataclass
class _Tracks:
    """The active tracks, an entry of every array for each.

    Attributes:
        track_id: Shape (n,).
        class_id: Class of the newest box, shape (n,).
        centre: Predicted centre now, px, shape (n, 2).
        velocity: px/s, shape (n, 2).
        size: Width and height, px, shape (n, 2).
        variance: Variance of position, covariance of position and velocity, variance of velocity, relative to the
            squared size of the object, shape (n, 3).
        size_variance: Relative to the squared size of the object, shape (n,).
        first_s: Time of the first box, shape (n,).
        last_s: Time of the newest box, shape (n,).
    """

    track_id: np.ndarray
    class_id: np.ndarray
    centre: np.ndarray
    velocity: np.ndarray
    size: np.ndarray
    variance: np.ndarray
    size_variance: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray

    def __len__(self) -> int:
        return len(self.track_id)

    @classmethod
    def start(cls, first_id: int, xyxy: np.ndarray, class_id: np.ndarray, time_s: float) -> "_Tracks":
        """Start a track with each box, numbered from `first_id` on."""
        count = len(xyxy)
        return cls(
            track_id=np.arange(first_id, first_id + count),
            class_id=np.array(class_id),
            centre=(xyxy[:, :2] + xyxy[:, 2:]) / 2,
            velocity=np.zeros((count, 2)),
            size=xyxy[:, 2:] - xyxy[:, :2],
            variance=initial_variance(np.ones(count)),
            size_variance=np.full(count, BOX_SIZE_STD_SIZES**2),
            first_s=np.full(count, time_s),
            last_s=np.full(count, time_s),
        )

    def select(self, rows: np.ndarray) -> "_Tracks":
        return _Tracks(*(getattr(self, field.name)[rows] for field in fields(self)))

    def concatenate(self, other: "_Tracks") -> "_Tracks":
        return _Tracks(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    @property
    def xyxy(self) -> np.ndarray:
        """Corners of the predicted boxes, shape (n, 4)."""
        return np.concatenate([self.centre - self.size / 2, self.centre + self.size / 2], axis=1)


class Tracker:
    """Assigns the boxes of a video's frames to tracks.

    The complete state is in this object: pickled and loaded again, it continues as if it had not been interrupted.

    Args:
        settings: Thresholds.
        frame_interval_s: Nominal time between frames.
    """

    def __init__(self, settings: TrackSettings, frame_interval_s: float) -> None:
        self._settings = settings
        self._min_lost_s = max(_MIN_LOST_S, _MIN_LOST_FRAMES * frame_interval_s)
        self._max_lost_s = max(settings.lost_s, _MAX_LOST_FRAMES * frame_interval_s)
        self._time_s = 0.0
        self._next_id = 1
        self._tracks = _Tracks.start(1, np.empty((0, 4)), np.empty(0, np.int64), 0.0)

    def update(self, time_s: float, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> np.ndarray:
        """Assign the boxes of the next frame to tracks.

        Args:
            time_s: Time of the frame, not before that of the previous one. Frames without boxes may be left out.
            xyxy: Corners in pixels, shape (n, 4).
            confidence: Shape (n,).
            class_id: Shape (n,). An object may change its class, at a cost.

        Returns:
            Track id of each box, from 1; 0 for boxes without a track. int32 array of shape (n,).
        """
        settings = self._settings
        self._predict(time_s)
        tracks = self._tracks
        is_high = confidence >= settings.high_confidence
        is_low = ~is_high & (confidence >= settings.low_confidence)
        track_of_box = np.full(len(xyxy), -1)
        if len(tracks):
            similarity = _height_modulated_iou(tracks.xyxy[:, None, :], xyxy[None, :, :])
            class_cost = _CLASS_CHANGE_COST * (tracks.class_id[:, None] != class_id[None, :])
            every_track = np.ones(len(tracks), bool)
            cost = 1 - similarity * confidence + class_cost
            _match(track_of_box, cost, every_track, is_high, settings.match_threshold)
            is_recent = tracks.last_s >= time_s - _LOW_CONFIDENCE_MAX_AGE_S
            _match(track_of_box, 1 - similarity + class_cost, is_recent, is_low, _MAX_FALLBACK_COST)
            if (is_high & (track_of_box < 0)).any():
                scale_px = np.sqrt(tracks.size.prod(axis=1))
                reach_px = _REACH_STDS * scale_px * np.sqrt(tracks.variance[:, 0])
                extension = reach_px[:, None, None] * np.array([-1.0, -1.0, 1.0, 1.0])
                similarity = _height_modulated_iou(tracks.xyxy[:, None, :] + extension, xyxy[None, :, :] + extension)
                _match(track_of_box, 1 - similarity + class_cost, every_track, is_high, _MAX_FALLBACK_COST)
            self._correct(track_of_box, xyxy, confidence, class_id)
        return self._assign_track_ids(track_of_box, xyxy, confidence, class_id)

    def _predict(self, time_s: float) -> None:
        """Predict the tracks' positions at a time, and end the tracks that had no box for too long."""
        elapsed_s, self._time_s = time_s - self._time_s, time_s
        active = self._tracks
        max_lost_s = np.minimum(self._max_lost_s, np.maximum(self._min_lost_s, active.last_s - active.first_s))
        tracks = active.select(time_s - active.last_s <= max_lost_s + 1e-9)
        tracks.variance = predict_variance(tracks.variance, elapsed_s)
        tracks.centre = tracks.centre + tracks.velocity * elapsed_s
        tracks.size_variance = tracks.size_variance + RESIZE_STD_SIZES**2 * elapsed_s
        self._tracks = tracks

    def _correct(
        self, track_of_box: np.ndarray, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray
    ) -> None:
        """Update each matched track with its box."""
        tracks = self._tracks
        is_matched = track_of_box >= 0
        rows, boxes = track_of_box[is_matched], xyxy[is_matched]
        factor = noise_factor(confidence[is_matched])
        position, covariance, speed = tracks.variance[rows].T
        innovation_variance = position + BOX_CENTRE_STD_SIZES**2 * factor
        gain, speed_gain = position / innovation_variance, covariance / innovation_variance
        innovation = (boxes[:, :2] + boxes[:, 2:]) / 2 - tracks.centre[rows]
        tracks.centre[rows] += gain[:, None] * innovation
        tracks.velocity[rows] += speed_gain[:, None] * innovation
        tracks.variance[rows] = np.stack(
            [(1 - gain) * position, (1 - gain) * covariance, speed - speed_gain * covariance], axis=1
        )
        size_variance = tracks.size_variance[rows]
        gain = size_variance / (size_variance + BOX_SIZE_STD_SIZES**2 * factor)
        tracks.size[rows] += gain[:, None] * (boxes[:, 2:] - boxes[:, :2] - tracks.size[rows])
        tracks.size_variance[rows] = (1 - gain) * size_variance
        tracks.class_id[rows] = class_id[is_matched]
        tracks.last_s[rows] = self._time_s

    def _assign_track_ids(
        self, track_of_box: np.ndarray, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray
    ) -> np.ndarray:
        """Return the track id of each box; unmatched boxes of sufficient confidence start tracks."""
        is_matched = track_of_box >= 0
        track_id = np.zeros(len(xyxy), np.int32)
        track_id[is_matched] = self._tracks.track_id[track_of_box[is_matched]]
        is_new = ~is_matched & (confidence >= self._settings.new_track_confidence)
        if is_new.any() and is_matched.any():
            is_new[is_new] = iou_matrix(xyxy[is_new], xyxy[is_matched]).max(axis=1) <= _DUPLICATE_BOX_IOU
        if is_new.any():
            started = _Tracks.start(self._next_id, xyxy[is_new], class_id[is_new], self._time_s)
            track_id[is_new] = started.track_id
            self._next_id += len(started)
            self._tracks = self._tracks.concatenate(started)
        return track_id


def _match(
    track_of_box: np.ndarray,
    cost: np.ndarray,
    track_mask: np.ndarray,
    box_mask: np.ndarray,
    max_cost: float,
) -> None:
    """Match unmatched tracks with unmatched boxes at the least total cost; fills in `track_of_box`.

    Args:
        track_of_box: Row of the track that a box continues, -1 while it has none, shape (boxes,).
        cost: Shape (tracks, boxes).
        track_mask: Which tracks take part, shape (tracks,).
        box_mask: Which boxes take part, shape (boxes,).
        max_cost: Pairs with a higher cost are not matched.
    """
    import lap

    is_unmatched = track_mask.copy()
    is_unmatched[track_of_box[track_of_box >= 0]] = False
    rows, columns = np.flatnonzero(is_unmatched), np.flatnonzero(box_mask & (track_of_box < 0))
    if len(rows) and len(columns):
        _, column_of_row, _ = lap.lapjv(cost[np.ix_(rows, columns)], extend_cost=True, cost_limit=max_cost)
        is_matched = column_of_row >= 0
        track_of_box[columns[column_of_row[is_matched]]] = rows[is_matched]


def _height_modulated_iou(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection over union times that of the vertical extents alone.

    Objects at different distances from the camera have different heights and ground lines, so this distinguishes them
    (Yang et al., "Hybrid-SORT: Weak Cues Matter for Online Multi-Object Tracking", AAAI 2024).
    """
    shared = np.minimum(boxes_a[..., 3], boxes_b[..., 3]) - np.maximum(boxes_a[..., 1], boxes_b[..., 1])
    whole = np.maximum(boxes_a[..., 3], boxes_b[..., 3]) - np.minimum(boxes_a[..., 1], boxes_b[..., 1])
    return np.asarray(iou(boxes_a, boxes_b) * shared.clip(0) / np.maximum(whole, 1e-9))
