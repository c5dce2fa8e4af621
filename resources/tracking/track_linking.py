"""Links tracks to the later tracks that continue them, each with a confidence, over a whole recording.

The score of a link is the log-likelihood ratio of two explanations: the later track is the same object after some time
without a box, or it is another object that appeared anywhere. The links with the largest total score are
selected, each end and each start used once (Huang, Wu and Nevatia, "Robust Object Tracking by Hierarchical Association
of Detection Responses", ECCV 2008). The confidence of a link is its probability among all links that compete for its
end or its start, and no link.

An object that is not detected is assumed to lose its velocity gradually (an Ornstein-Uhlenbeck process: Gillespie,
"Exact Numerical Simulation of the Ornstein-Uhlenbeck Process", Physical Review E 54, 1996). Lengths are relative to the
object's size, the square root of its box's area.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from resources.tracking.motion_model import INITIAL_SPEED_STD_SIZES_PER_S

_SPEED_MEMORY_S = 1.0  # after this time, an object keeps 37% of its velocity
_SPEED_CHANGE_STD_SIZES_PER_S = 1.0  # random change of the velocity, after one second without memory
_DRIFT_STD_SIZES = 0.3  # further deviation of the position, after one second
_HEIGHT_ERROR_STD, _HEIGHT_CHANGE_STD = 0.14, 0.15  # of the logarithm of the height: of two boxes, and after one second
_ANY_HEIGHT_STD = 0.5  # of the logarithm of the ratio of the heights of two different objects
_MEAN_GAP_S = 1.0  # times without a box are distributed exponentially with this mean
_GAP_PROBABILITY = 0.5  # that a track ends because its object is not detected for a while, and not for good
_WINDOW_ENDS, _WINDOW_OVERLAP = 1000, 200  # links are selected in overlapping windows of this many track ends


@dataclass(frozen=True)
class TrackEnds:
    """The first boxes, or the last boxes, of n tracks, smoothed.

    Attributes:
        time_s: Time of the box, shape (n,).
        centre: Centre of the box in pixels, shape (n, 2).
        velocity: Velocity in pixels per second, shape (n, 2).
        size: Width and height in pixels, shape (n, 2).
        variance: Variance of position, covariance of position and velocity, variance of velocity, relative to the
            squared size of the object, shape (n, 3).
        class_id: Class of the object, shape (n,).
    """

    time_s: np.ndarray
    centre: np.ndarray
    velocity: np.ndarray
    size: np.ndarray
    variance: np.ndarray
    class_id: np.ndarray

    def select(self, rows: np.ndarray) -> "TrackEnds":
        """The ends of some of the tracks, by a boolean mask or row numbers."""
        return TrackEnds(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Links:
    """Links between n ends and starts of tracks.

    Attributes:
        end: Row of the end, shape (n,).
        start: Row of the start, shape (n,).
        confidence: 0 to 1, shape (n,).
    """

    end: np.ndarray
    start: np.ndarray
    confidence: np.ndarray


def link_tracks(
    ends: TrackEnds, starts: TrackEnds, max_gap_s: float, min_confidence: float, start_density: np.ndarray
) -> Links:
    """Link each track to the later track that continues it, if any.

    Args:
        ends: Last boxes of tracks.
        starts: First boxes of tracks, on the same clock.
        max_gap_s: The longest gap in seconds.
        min_confidence: Links of lower confidence are left out.
        start_density: Tracks like that of each start that appear per second and pixel of the area in which there are
            objects, shape (starts,).

    Returns:
        The links, in the order of their ends in time.
    """
    order = np.argsort(ends.time_s, kind="stable")
    is_used = np.zeros(len(starts.time_s), bool)
    parts: list[Links] = []
    for rows, decided_count in _windows(order):
        links = _link_window(ends.select(rows), starts, is_used, max_gap_s, start_density)
        is_decided = links.end < decided_count
        is_used[links.start[is_decided]] = True
        keep = is_decided & (links.confidence >= min_confidence)
        parts.append(Links(rows[links.end[keep]], links.start[keep], links.confidence[keep]))
    return Links(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Links)))


def _windows(order: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Overlapping windows of the ends in time, and how many of each window's ends are decided in it."""
    begin = 0
    while True:
        rows = order[begin : begin + _WINDOW_ENDS]
        if begin + _WINDOW_ENDS >= len(order):
            yield rows, len(rows)
            return
        yield rows, _WINDOW_ENDS - _WINDOW_OVERLAP
        begin += _WINDOW_ENDS - _WINDOW_OVERLAP


def _link_window(
    ends: TrackEnds, starts: TrackEnds, is_used: np.ndarray, max_gap_s: float, start_density: np.ndarray
) -> Links:
    """Select the links of the ends of one window, sorted by time."""
    import lap

    candidates = np.flatnonzero(
        ~is_used
        & (starts.time_s > ends.time_s.min(initial=np.inf))
        & (starts.time_s <= ends.time_s.max(initial=-np.inf) + max_gap_s)
    )
    candidates = candidates[np.argsort(starts.time_s[candidates], kind="stable")]
    starts_s = starts.time_s[candidates]
    first = np.searchsorted(starts_s, ends.time_s, side="right")
    counts = np.searchsorted(starts_s, ends.time_s + max_gap_s, side="right") - first
    # All pairs whose gap is short enough, as two parallel arrays of rows.
    end = np.repeat(np.arange(len(counts)), counts)
    column = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    is_same_class = ends.class_id[end] == starts.class_id[candidates[column]]
    end, column = end[is_same_class], column[is_same_class]
    score = score_links(ends.select(end), starts.select(candidates[column]), start_density[candidates[column]])
    odds = np.exp(np.clip(score, -50, 50))
    end_odds, start_odds = 1 + np.bincount(end, odds, len(counts)), 1 + np.bincount(column, odds, len(candidates))
    confidence = odds / np.maximum(end_odds[end], start_odds[column])
    is_likely = score > 0
    gain = np.zeros((len(counts), len(candidates)))
    gain[end[is_likely], column[is_likely]] = score[is_likely]
    used_rows, used_columns = np.flatnonzero(gain.any(axis=1)), np.flatnonzero(gain.any(axis=0))
    if not len(used_rows):
        return Links(np.empty(0, int), np.empty(0, int), np.empty(0))
    gain = gain[np.ix_(used_rows, used_columns)]
    _, column_of_row, _ = lap.lapjv(gain.max() - gain, extend_cost=True)
    rows = np.flatnonzero(column_of_row >= 0)
    rows = rows[gain[rows, column_of_row[rows]] > 0]
    confidence_matrix = np.zeros((len(counts), len(candidates)))
    confidence_matrix[end, column] = confidence
    link_end, link_column = used_rows[rows], used_columns[column_of_row[rows]]
    return Links(link_end, candidates[link_column], confidence_matrix[link_end, link_column])


def score_links(ends: TrackEnds, starts: TrackEnds, start_density: np.ndarray) -> np.ndarray:
    """Log-likelihood ratio of each pair of an end and a start: same object, against another one.

    Args:
        ends: n ends.
        starts: n later starts.
        start_density: See `link_tracks`, shape (n,).

    Returns:
        Shape (n,).
    """
    gap_s = starts.time_s - ends.time_s
    end_size, start_size = (np.sqrt(side.size.clip(1).prod(axis=1)) for side in (ends, starts))
    size = (end_size + start_size) / 2
    kept = np.exp(-gap_s / _SPEED_MEMORY_S)
    carried_s = _SPEED_MEMORY_S * (1 - kept)
    position, covariance, speed = _variance_after_gap(ends.variance, gap_s) + starts.variance.T
    offset = (starts.centre - ends.centre - ends.velocity * carried_s[:, None]) / size[:, None]
    turn = (starts.velocity - ends.velocity * kept[:, None]) / size[:, None]
    determinant = np.maximum(position * speed - covariance**2, 1e-12)
    squares = [(values**2).sum(axis=1) for values in (offset, turn)]
    distance = speed * squares[0] - 2 * covariance * (offset * turn).sum(axis=1) + position * squares[1]
    same = -distance / determinant / 2 - np.log(determinant) - 2 * np.log(2 * np.pi)
    any_speed = INITIAL_SPEED_STD_SIZES_PER_S**2 / 4 + starts.variance[:, 2]
    start_speed = ((starts.velocity / size[:, None]) ** 2).sum(axis=1)
    other = -start_speed / any_speed / 2 - np.log(2 * np.pi * any_speed) + np.log(start_density * size**2)
    growth = np.log(starts.size[:, 1].clip(1) / ends.size[:, 1].clip(1))
    height_variance = _HEIGHT_ERROR_STD**2 + _HEIGHT_CHANGE_STD**2 * gap_s
    same += -(growth**2) / height_variance / 2 - np.log(height_variance) / 2
    other += -((growth / _ANY_HEIGHT_STD) ** 2) / 2 - np.log(_ANY_HEIGHT_STD)
    return np.asarray(same + np.log(_GAP_PROBABILITY / _MEAN_GAP_S) - gap_s / _MEAN_GAP_S - other)


def _variance_after_gap(variance: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
    """Variance of the state of an object after a gap, shape (3, n), from that at its last box, shape (n, 3)."""
    position, covariance, speed = variance.T
    memory_s = _SPEED_MEMORY_S
    kept = np.exp(-gap_s / memory_s)
    carried_s = memory_s * (1 - kept)
    noise = _SPEED_CHANGE_STD_SIZES_PER_S**2
    return np.stack(
        [
            position
            + 2 * carried_s * covariance
            + carried_s**2 * speed
            + noise * memory_s**2 * (gap_s - 2 * carried_s + memory_s / 2 * (1 - kept**2))
            + _DRIFT_STD_SIZES**2 * gap_s,
            kept * (covariance + carried_s * speed) + noise * carried_s**2 / 2,
            kept**2 * speed + noise * memory_s / 2 * (1 - kept**2),
        ]
    )
