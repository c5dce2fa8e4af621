"""Links between tracks and the later tracks that continue them near the same place."""

from dataclasses import dataclass, fields

import numpy as np

# Lengths are relative to the object's size (the square root of its box's area), so that one set of values serves near
# and far objects.
_MAX_DISTANCE_SIZES, _MAX_DISTANCE_SIZES_PER_S = 0.5, 0.6  # between the extrapolated positions: at no gap, per gap
_MAX_SIZE_RATIO = 1.5
_MAX_EXTRAPOLATION_S = 0.5  # an object that is not detected is assumed to keep its velocity for this long


@dataclass(frozen=True)
class TrackEnds:
    """The first boxes, or the last boxes, of n tracks.

    Attributes:
        time_s: Time of the box, shape (n,).
        centre: Centre of the box in pixels, shape (n, 2).
        velocity: Velocity in pixels per second, shape (n, 2).
        size: Square root of the box's area in pixels, shape (n,).
        class_name: Class of the object, shape (n,).
    """

    time_s: np.ndarray
    centre: np.ndarray
    velocity: np.ndarray
    size: np.ndarray
    class_name: np.ndarray

    def select(self, rows: np.ndarray) -> "TrackEnds":
        """The ends of some of the tracks, by a boolean mask or row numbers."""
        return TrackEnds(*(getattr(self, field.name)[rows] for field in fields(self)))


def link_tracks(ends: TrackEnds, starts: TrackEnds, max_gap_s: float) -> list[tuple[int, int]]:
    """Link each track to the later track that best continues it, if any.

    From either side the position is extrapolated at constant velocity to the middle of the gap, but for a limited time.
    The two positions must be close relative to the object's size, the sizes similar and the classes equal. Links are
    selected greedily, smallest distance first; each end and each start is used once.

    Args:
        ends: Last boxes of tracks.
        starts: First boxes of tracks, on the same clock.
        max_gap_s: The longest gap in seconds.

    Returns:
        Pairs of (row of ends, row of starts).
    """
    order = np.argsort(starts.time_s, kind="stable")
    starts_s = starts.time_s[order]
    first = np.searchsorted(starts_s, ends.time_s, side="right")
    counts = np.searchsorted(starts_s, ends.time_s + max_gap_s, side="right") - first
    # All pairs whose gap is short enough, as two parallel arrays of rows.
    end_row = np.repeat(np.arange(len(counts)), counts)
    start_row = order[np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())]
    gap_s = starts.time_s[start_row] - ends.time_s[end_row]
    half_s = np.minimum(gap_s[:, None] / 2, _MAX_EXTRAPOLATION_S)
    end_position = ends.centre[end_row] + ends.velocity[end_row] * half_s
    offset = end_position - starts.centre[start_row] + starts.velocity[start_row] * half_s
    end_size, start_size = ends.size[end_row], starts.size[start_row]
    mean_size = (end_size + start_size) / 2
    distance = np.hypot(*offset.T) / (mean_size * (_MAX_DISTANCE_SIZES + _MAX_DISTANCE_SIZES_PER_S * gap_s))
    size_ratio = np.maximum(end_size, start_size) / np.minimum(end_size, start_size)
    is_same_class = ends.class_name[end_row] == starts.class_name[start_row]
    is_candidate = (distance <= 1) & (size_ratio <= _MAX_SIZE_RATIO) & is_same_class
    links: list[tuple[int, int]] = []
    used_ends: set[int] = set()
    used_starts: set[int] = set()
    for pair in np.flatnonzero(is_candidate)[np.argsort(distance[is_candidate], kind="stable")]:
        end, start = int(end_row[pair]), int(start_row[pair])
        if end not in used_ends and start not in used_starts:
            used_ends.add(end)
            used_starts.add(start)
            links.append((end, start))
    return links
