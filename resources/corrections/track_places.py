"""Places of a track: boxes at some times, by which the track is found again after a rerun of model or tracker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resources.corrections.correction_log import Place
from resources.geometry.box_overlap import iou

_PLACE_COUNT = 32
_MIN_IOU = 0.3
_MAX_TIME_ERROR_S = 0.15  # another run may have stored other frames
_MIN_TRACK_SHARE = 0.5  # of the places while a track lasts, at which it must lie
# Of all places, at which such tracks must lie: another detector may see an object for a part of its time only.
_MIN_SHARE, _MIN_COUNT = 0.2, 3
_MAX_DURATION_RATIO, _MAX_LONGER_S = 1.5, 1.0
_NAMES = ("time_s", "x_min_px", "y_min_px", "x_max_px", "y_max_px")


def sample_places(time_s: np.ndarray, xyxy: np.ndarray, cut_s: float | None = None) -> list[Place]:
    """Choose places of a track, evenly over its boxes.

    Args:
        time_s: Times of its boxes, in order, shape (n,).
        xyxy: The boxes, px, shape (n, 4).
        cut_s: A time at which the track is cut: as many places are chosen before it as from it on. None without a cut.
    """
    cut = len(time_s) if cut_s is None else int(np.searchsorted(time_s, cut_s - 1e-6))
    count = _PLACE_COUNT if cut_s is None else _PLACE_COUNT // 2
    parts = [np.arange(0, cut), np.arange(cut, len(time_s))]
    rows = np.concatenate([_spread(part, count) for part in parts])
    return [
        dict(zip(_NAMES, values, strict=True))
        for values in np.column_stack([time_s[rows], xyxy[rows]]).round(3).tolist()
    ]


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


@dataclass(frozen=True)
class Places:
    """Places of a track.

    Attributes:
        time_s: Shape (n,), in order.
        xyxy: px, shape (n, 4).
    """

    time_s: np.ndarray
    xyxy: np.ndarray

    @classmethod
    def of(cls, places: Sequence[Place] | None) -> "Places":
        """Build the arrays of stored places."""
        values = np.array([[place[name] for name in _NAMES] for place in places or ()], float).reshape(-1, 5)
        return cls(values[:, 0], values[:, 1:])

    def before(self, time_s: float) -> "Places":
        """The places before a time."""
        return Places(self.time_s[self.time_s < time_s - 1e-6], self.xyxy[self.time_s < time_s - 1e-6])

    def since(self, time_s: float) -> "Places":
        """The places from a time on."""
        return Places(self.time_s[self.time_s >= time_s - 1e-6], self.xyxy[self.time_s >= time_s - 1e-6])


@dataclass(frozen=True)
class FoundTracks:
    """The tracks that lie at some places.

    Attributes:
        track_ids: Their numbers, that with most places first; empty if too few places have a track.
        problem: Why they are not found, in one sentence; empty if they are.
    """

    track_ids: tuple[int, ...]
    problem: str = ""


class TrackFinder:
    """Finds tracks by places, among boxes whose tracks may change.

    Args:
        time_s: Times of the boxes, shape (n,).
        xyxy: The boxes, px, shape (n, 4); may be changed later.
        track_of_row: The track of each box, 0 for none; may be changed later.
    """

    def __init__(self, time_s: np.ndarray, xyxy: np.ndarray, track_of_row: np.ndarray) -> None:
        self._xyxy, self._track_of_row = xyxy, track_of_row
        self._order = np.argsort(time_s, kind="stable")
        self._times_s, self._first = np.unique(time_s[self._order], return_index=True)
        self._end = np.append(self._first[1:], len(time_s))

    def _tracks_at(self, places: Places, preferred: int | None) -> np.ndarray:
        """The track that lies at each place; 0 where none does."""
        tracks = np.zeros(len(places.time_s), int)
        if not len(self._times_s):
            return tracks
        right = np.searchsorted(self._times_s, places.time_s).clip(1, max(len(self._times_s) - 1, 1))
        is_left_nearer = (
            places.time_s - self._times_s[right - 1] < self._times_s[right % len(self._times_s)] - places.time_s
        )
        moments = np.where(is_left_nearer, right - 1, right % len(self._times_s))
        is_near = np.abs(self._times_s[moments] - places.time_s) <= _MAX_TIME_ERROR_S
        for place in np.flatnonzero(is_near).tolist():
            rows = self._order[self._first[moments[place]] : self._end[moments[place]]]
            overlaps = iou(self._xyxy[rows], places.xyxy[place]) * (self._track_of_row[rows] > 0)
            # Of two boxes in the same place, that of the track that was corrected.
            best = int((overlaps + 1e-6 * (self._track_of_row[rows] == (preferred or 0))).argmax())
            if overlaps[best] >= _MIN_IOU:
                tracks[place] = self._track_of_row[rows[best]]
        return tracks

    def find_all(
        self,
        places: Places,
        preferred: int | None,
        span_s: Callable[[int], tuple[float, float]],
        *,
        may_be_longer: bool = False,
    ) -> FoundTracks:
        """Find the tracks that together lie at most of some places: the parts of the object that was corrected.

        Args:
            places: The places.
            preferred: Number of the track when it was corrected.
            span_s: Gives the times of the first and the last box of a track.
            may_be_longer: Whether a track counts that lasts much longer than the places, and so is of others, too.
        """
        tracks = self._tracks_at(places, preferred)
        duration_s = float(places.time_s[-1] - places.time_s[0]) if len(tracks) else 0.0
        found, place_count, is_longer = list[tuple[int, int]](), 0, False
        for number in np.unique(tracks[tracks > 0]).tolist():
            first_s, last_s = span_s(number)
            is_meanwhile = (places.time_s >= first_s - _MAX_TIME_ERROR_S) & (
                places.time_s <= last_s + _MAX_TIME_ERROR_S
            )
            count = int((tracks == number).sum())
            if count < _MIN_TRACK_SHARE * is_meanwhile.sum():
                continue
            if not may_be_longer and last_s - first_s > _MAX_DURATION_RATIO * duration_s + _MAX_LONGER_S:
                is_longer = True
                continue
            found.append((count, number))
            place_count += count
        if found and place_count >= max(_MIN_SHARE * len(tracks), min(_MIN_COUNT, len(tracks))):
            return FoundTracks(tuple(number for _, number in sorted(found, key=lambda item: (-item[0], item[1]))))
        if is_longer:
            return FoundTracks((), "The track there now lasts much longer, so it has other objects, too.")
        return FoundTracks((), f"Only {place_count} of {len(tracks)} places of the track have a track now.")
