"""Following objects from frame to frame by where they were and how they moved: no pixels, no model, no torch.

The tracker takes frames one by one and knows their times, so decimated, irregular and interrupted footage needs no
other settings. It is a Kalman filter on the box and an assignment in rounds: sure boxes first, then unsure ones that
continue a track (Zhang et al., "ByteTrack", ECCV 2022), then boxes within reach of where a fast or briefly unseen
object may have got to (after Yang et al., "Hard to Track Objects with Irregular Motions and Similar Appearances? Make
It Easier by Buffering the Matching Space", WACV 2023; here the buffer is what the filter does not know).
"""

from dataclasses import dataclass, fields

import numpy as np

from resources.settings import TrackSettings

# The motion model. Lengths are in sizes of the object (the square root of its area), times in seconds, so that one set
# of values serves near and far objects at any frame rate.
_MEASURED = 0.05  # how far a detected box is off
_SWAY = 0.2  # how far an object strays from its course in a second
_TURN = 0.4  # how much its speed changes in a second
_START_SPEED = 2.0  # how fast it may be when first seen
_RESIZE = 0.4  # how much its box changes in a second
_MEASURED_SIZE = 0.1  # how far a detected box's width and height are off

_WEAK_MATCH_COST = 0.5  # largest cost of a match with an unsure box, and within reach
_REACH = 2.0  # how many standard deviations an object may be away from where it should be
_RECENT_S = 0.5  # an unsure box continues only tracks seen this recently
_SECOND_BOX_IOU = 0.55  # a new box overlapping a followed object more than this is that object again
_OTHER_CLASS_COST = 0.1
_NEWCOMER_S, _NEWCOMER_FRAMES = 0.3, 2.5  # a track may be unseen for as long as it was seen before, or as these say


@dataclass
class _Tracks:
    """The live tracks: an entry of every array for each."""

    track_id: np.ndarray  # (n,)
    class_id: np.ndarray  # (n,) of its newest box
    centre: np.ndarray  # (n, 2) where it should be now, px
    velocity: np.ndarray  # (n, 2) px/s
    size: np.ndarray  # (n, 2) width and height, px
    variance: np.ndarray  # (n, 3) of position, position with velocity, velocity; in squares of its size
    size_variance: np.ndarray  # (n,) in squares of its size
    first_s: np.ndarray  # (n,) when it was first seen
    seen_s: np.ndarray  # (n,) when it was last seen

    def __len__(self) -> int:
        return len(self.track_id)

    @classmethod
    def new(cls, first_id: int, xyxy: np.ndarray, class_id: np.ndarray, time_s: float) -> "_Tracks":
        count = len(xyxy)
        return cls(
            track_id=np.arange(first_id, first_id + count),
            class_id=np.array(class_id),
            centre=(xyxy[:, :2] + xyxy[:, 2:]) / 2,
            velocity=np.zeros((count, 2)),
            size=xyxy[:, 2:] - xyxy[:, :2],
            variance=np.tile([_MEASURED**2, 0.0, _START_SPEED**2], (count, 1)),
            size_variance=np.full(count, _MEASURED_SIZE**2),
            first_s=np.full(count, time_s),
            seen_s=np.full(count, time_s),
        )

    def kept(self, chosen: np.ndarray) -> "_Tracks":
        return _Tracks(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def joined(self, other: "_Tracks") -> "_Tracks":
        return _Tracks(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    @property
    def xyxy(self) -> np.ndarray:
        return np.concatenate([self.centre - self.size / 2, self.centre + self.size / 2], axis=1)


class Tracker:
    """Gives every box of a video the number of the object it shows.

    Its whole state is in this object: stored and loaded again it goes on as if it had not been interrupted.

    Args:
        settings: Thresholds.
        frame_s: Time from one frame to the next, as a rule.
    """

    def __init__(self, settings: TrackSettings, frame_s: float) -> None:
        self._settings = settings
        self._newcomer_s = max(_NEWCOMER_S, _NEWCOMER_FRAMES * frame_s)
        self._time_s = 0.0
        self._next_id = 1
        self._tracks = _Tracks.new(1, np.empty((0, 4)), np.empty(0, np.int64), 0.0)

    def update(self, time_s: float, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> np.ndarray:
        """Take the next frame.

        Args:
            time_s: When it was taken; not before the one before it. Frames without boxes may be left out.
            xyxy: Corners in pixels, shape (n, 4).
            confidence: Shape (n,).
            class_id: Shape (n,). An object may change its class, at a price.

        Returns:
            int32 array of shape (n,): the object's number, from 1; 0 for boxes that belong to none.
        """
        settings = self._settings
        self._predict(time_s)
        tracks = self._tracks
        is_sure = confidence >= settings.high_confidence
        is_unsure = ~is_sure & (confidence >= settings.low_confidence)
        row_of_box = np.full(len(xyxy), -1)
        if len(tracks):
            overlap = _height_modulated(tracks.xyxy[:, None, :], xyxy[None, :, :])
            price = _OTHER_CLASS_COST * (tracks.class_id[:, None] != class_id[None, :])
            anybody = np.ones(len(tracks), bool)
            _match(row_of_box, 1 - overlap * confidence + price, anybody, is_sure, settings.match_threshold)
            is_recent = tracks.seen_s >= time_s - _RECENT_S
            _match(row_of_box, 1 - overlap + price, is_recent, is_unsure, _WEAK_MATCH_COST)
            if (is_sure & (row_of_box < 0)).any():
                scale = np.sqrt(tracks.size.prod(axis=1))
                reach_px = _REACH * scale * np.sqrt(tracks.variance[:, 0])
                outwards = reach_px[:, None, None] * np.array([-1.0, -1.0, 1.0, 1.0])
                within_reach = _height_modulated(tracks.xyxy[:, None, :] + outwards, xyxy[None, :, :] + outwards)
                _match(row_of_box, 1 - within_reach + price, anybody, is_sure, _WEAK_MATCH_COST)
            self._correct(row_of_box, xyxy, confidence, class_id)
        return self._numbers(row_of_box, xyxy, confidence, class_id)

    def _predict(self, time_s: float) -> None:
        """Move the tracks to a time and drop those that were unseen for too long."""
        elapsed_s, self._time_s = time_s - self._time_s, time_s
        old = self._tracks
        allowed_s = np.minimum(self._settings.lost_s, np.maximum(self._newcomer_s, old.seen_s - old.first_s))
        tracks = old.kept(time_s - old.seen_s <= allowed_s + 1e-9)
        position, both, speed = tracks.variance.T
        # A velocity that wanders at random, integrated over the time that has passed.
        position = position + 2 * elapsed_s * both + elapsed_s**2 * speed + _TURN**2 * elapsed_s**3 / 3
        both = both + elapsed_s * speed + _TURN**2 * elapsed_s**2 / 2
        tracks.variance = np.stack([position + _SWAY**2 * elapsed_s, both, speed + _TURN**2 * elapsed_s], axis=1)
        tracks.centre = tracks.centre + tracks.velocity * elapsed_s
        tracks.size_variance = tracks.size_variance + _RESIZE**2 * elapsed_s
        self._tracks = tracks

    def _correct(self, row_of_box: np.ndarray, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> None:
        """Let each matched track learn from its box; an unsure box is trusted less."""
        tracks = self._tracks
        is_met = row_of_box >= 0
        rows, boxes = row_of_box[is_met], xyxy[is_met]
        doubt = 1 / np.maximum(confidence[is_met], 0.1)
        position, both, speed = tracks.variance[rows].T
        total = position + _MEASURED**2 * doubt
        gain, speed_gain = position / total, both / total
        surprise = (boxes[:, :2] + boxes[:, 2:]) / 2 - tracks.centre[rows]
        tracks.centre[rows] += gain[:, None] * surprise
        tracks.velocity[rows] += speed_gain[:, None] * surprise
        tracks.variance[rows] = np.stack([(1 - gain) * position, (1 - gain) * both, speed - speed_gain * both], axis=1)
        spread = tracks.size_variance[rows]
        gain = spread / (spread + _MEASURED_SIZE**2 * doubt)
        tracks.size[rows] += gain[:, None] * (boxes[:, 2:] - boxes[:, :2] - tracks.size[rows])
        tracks.size_variance[rows] = (1 - gain) * spread
        tracks.class_id[rows] = class_id[is_met]
        tracks.seen_s[rows] = self._time_s

    def _numbers(
        self, row_of_box: np.ndarray, xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray
    ) -> np.ndarray:
        """The track of each box, where new ones start with the boxes that fit nobody."""
        is_met = row_of_box >= 0
        track_id = np.zeros(len(xyxy), np.int32)
        track_id[is_met] = self._tracks.track_id[row_of_box[is_met]]
        is_new = ~is_met & (confidence >= self._settings.new_track_confidence)
        if is_new.any() and is_met.any():
            is_new[is_new] = iou_matrix(xyxy[is_new], xyxy[is_met]).max(axis=1) <= _SECOND_BOX_IOU
        if is_new.any():
            started = _Tracks.new(self._next_id, xyxy[is_new], class_id[is_new], self._time_s)
            track_id[is_new] = started.track_id
            self._next_id += len(started)
            self._tracks = self._tracks.joined(started)
        return track_id


def _match(row_of_box: np.ndarray, cost: np.ndarray, of_tracks: np.ndarray, of_boxes: np.ndarray, limit: float) -> None:
    """Match free tracks with free boxes at the least total cost; fills in `row_of_box`.

    Args:
        row_of_box: Shape (boxes,): the row of the track that a box continues, -1 while there is none.
        cost: Shape (tracks, boxes).
        of_tracks: Which tracks take part, of those that are free.
        of_boxes: Which boxes take part, of those that are free.
        limit: Costlier matches are not made.
    """
    import lap

    is_free = of_tracks.copy()
    is_free[row_of_box[row_of_box >= 0]] = False
    rows, columns = np.flatnonzero(is_free), np.flatnonzero(of_boxes & (row_of_box < 0))
    if len(rows) and len(columns):
        _, column_of_row, _ = lap.lapjv(cost[np.ix_(rows, columns)], extend_cost=True, cost_limit=limit)
        is_met = column_of_row >= 0
        row_of_box[columns[column_of_row[is_met]]] = rows[is_met]


def iou_matrix(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4), as an array (n, m)."""
    return _overlap(one[:, None, :], other[None, :, :])


def _height_modulated(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union times that of the vertical extents alone.

    Objects at other distances from the camera have other heights and ground lines, so this tells them apart (Yang et
    al., "Hybrid-SORT: Weak Cues Matter for Online Multi-Object Tracking", AAAI 2024).
    """
    shared = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    whole = np.maximum(one[..., 3], other[..., 3]) - np.minimum(one[..., 1], other[..., 1])
    return np.asarray(_overlap(one, other) * shared.clip(0) / np.maximum(whole, 1e-9))


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    width = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    height = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    shared = width.clip(0) * height.clip(0)
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-9))


@dataclass(frozen=True)
class TrackEnds:
    """One end, the first or the last, of each of n tracks."""

    time_s: np.ndarray  # (n,) when it was there
    centre: np.ndarray  # (n, 2) where, px
    velocity: np.ndarray  # (n, 2) px/s
    size: np.ndarray  # (n,) the square root of its area, px
    class_id: np.ndarray  # (n,)

    def chosen(self, which: np.ndarray) -> "TrackEnds":
        """Those of some of the tracks."""
        return TrackEnds(*(getattr(self, field.name)[which] for field in fields(self)))


_LINK_REACH, _LINK_REACH_PER_S, _LINK_RESIZE = 0.5, 0.6, 1.5
_STEADY_S = 0.5  # an object out of sight is thought to keep its speed for this long


def link_tracks(ended: TrackEnds, started: TrackEnds, max_gap_s: float) -> list[tuple[int, int]]:
    """Say which tracks go on where others end.

    From either side the object is followed into the gap at its speed, half-way but not for long; the two places must
    be close, in sizes of the object, the sizes alike and the classes equal. The best fits are taken first, each end and
    start once.

    Args:
        ended: Last ends of tracks.
        started: First ends of tracks, on the same clock.
        max_gap_s: The longest gap.

    Returns:
        Pairs of (row of ended, row of started).
    """
    order = np.argsort(started.time_s, kind="stable")
    starts_s = started.time_s[order]
    first = np.searchsorted(starts_s, ended.time_s, side="right")
    counts = np.searchsorted(starts_s, ended.time_s + max_gap_s, side="right") - first
    one = np.repeat(np.arange(len(counts)), counts)
    other = order[np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())]
    gap_s = started.time_s[other] - ended.time_s[one]
    half_s = np.minimum(gap_s[:, None] / 2, _STEADY_S)
    apart = ended.centre[one] + ended.velocity[one] * half_s - started.centre[other] + started.velocity[other] * half_s
    size = (ended.size[one] + started.size[other]) / 2
    misfit = np.hypot(*apart.T) / (size * (_LINK_REACH + _LINK_REACH_PER_S * gap_s))
    growth = np.maximum(ended.size[one], started.size[other]) / np.minimum(ended.size[one], started.size[other])
    fits = (misfit <= 1) & (growth <= _LINK_RESIZE) & (ended.class_id[one] == started.class_id[other])
    links: list[tuple[int, int]] = []
    used_ends: set[int] = set()
    used_starts: set[int] = set()
    for pair in np.flatnonzero(fits)[np.argsort(misfit[fits], kind="stable")]:
        end, start = int(one[pair]), int(other[pair])
        if end not in used_ends and start not in used_starts:
            used_ends.add(end)
            used_starts.add(start)
            links.append((end, start))
    return links
