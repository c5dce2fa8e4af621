"""Zones and lines: which tracks cross a line, enter a zone and leave it, decided with hysteresis.

All functions take the boxes of many tracks at once, one row per box, sorted by track and time. The position of an
object is one point of its box, the anchor point. A change of side counts once the anchor point is farther from the
border than a margin: an object that jitters on the border changes nothing, and one that crosses the border with jitter
crosses it once.
"""

import itertools
from dataclasses import dataclass

import numpy as np

_TRACK_END_MARGIN = 0.25  # fraction of the margin that suffices at the first and the last box of a track
_ON_FRAME_EDGE = 0.01  # shapes drawn this near to the edge of the frame, as a share of its size, reach it


@dataclass(frozen=True)
class SideChanges:
    """Changes of side, sorted by row.

    Attributes:
        row: The row before the change, shape (n,).
        fraction: Position of the change between the row and the next one, 0 to 1, shape (n,).
        sign: 1 for into the zone, or across the line from its left to its right; -1 for the opposite, shape (n,).
    """

    row: np.ndarray
    fraction: np.ndarray
    sign: np.ndarray


def anchor_points(xyxy: np.ndarray, anchor: str) -> np.ndarray:
    """The anchor point of each box.

    Args:
        xyxy: Corners, shape (n, 4).
        anchor: bottom_centre or centre.

    Returns:
        Anchor points, shape (n, 2).
    """
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    return np.column_stack([centre[:, 0], xyxy[:, 3]]) if anchor == "bottom_centre" else centre


def extend_beyond_frame(points: np.ndarray, size_px: tuple[int, int], *, is_closed: bool) -> np.ndarray:
    """Continue a shape beyond the frame where it reaches the frame's edge.

    The anchor of an object that the frame cuts off lies on the edge, or by smoothing beyond it, and nothing can go
    further: there the edge is no border.

    Args:
        points: Corners of a zone or points of a line in order, shape (k, 2).
        size_px: Width and height of the frame.
        is_closed: Whether they are the corners of a zone.

    Returns:
        The points, with further ones outside the frame.
    """
    size = np.array(size_px, float)
    tolerance = _ON_FRAME_EDGE * size
    # Which way leads out of the frame from each point, for both axes: -1, 1, or 0 where the point is not on an edge.
    outwards = (points >= size - tolerance).astype(int) - (points <= tolerance)
    extended: list[np.ndarray] = []
    if not is_closed and outwards[0].any():
        extended.append(points[0] + outwards[0] * size)
    for position, point in enumerate(points):
        extended.append(point)
        after = (position + 1) % len(points)
        shared = np.where(outwards[position] == outwards[after], outwards[position], 0)
        if is_closed and shared.any():
            extended += [point + shared * size, points[after] + shared * size]
    if not is_closed and outwards[-1].any():
        extended.append(points[-1] + outwards[-1] * size)
    return np.array(extended)


def find_line_crossings(
    track_id: np.ndarray, points: np.ndarray, margin_px: np.ndarray, line: np.ndarray
) -> SideChanges:
    """Find the times at which objects cross a line.

    Args:
        track_id: Shape (n,), the rows of a track consecutive.
        points: Anchor points in order of time, shape (n, 2).
        margin_px: Distance from the line at which an anchor point is clear of it, shape (n,).
        line: The line's points in order, shape (k, 2), k >= 2.
    """
    steps = np.zeros(max(len(points) - 1, 0), np.int64)  # net crossings from each row to the next
    fraction = np.zeros(len(steps))
    before, after = points[:-1], points[1:]
    for a, b in itertools.pairwise(line):
        # An end of a step on the line, or of the line on a step, belongs to one side, so no crossing counts twice.
        side = _turn(a, b, points)
        is_right = side >= 0
        # The step crosses the segment if the ends of the segment are on different sides of the step.
        separates_ends = (_turn(before, after, a) >= 0) != (_turn(before, after, b) >= 0)
        crossing = np.flatnonzero((is_right[:-1] != is_right[1:]) & separates_ends)
        steps[crossing] += np.where(is_right[crossing + 1], 1, -1)
        fraction[crossing] = side[crossing] / (side[crossing] - side[crossing + 1])
    steps[track_id[1:] != track_id[:-1]] = 0
    is_clear = _is_clear(track_id, _distance_px(points, line), margin_px)
    return _confirm_changes(track_id, steps, fraction, is_clear)


def find_zone_transitions(
    track_id: np.ndarray, points: np.ndarray, margin_px: np.ndarray, polygon: np.ndarray
) -> tuple[SideChanges, np.ndarray]:
    """Find the times at which objects enter and leave a zone, and the boxes in which they are inside.

    Args:
        track_id: Shape (n,), the rows of a track consecutive.
        points: Anchor points in order of time, shape (n, 2).
        margin_px: Distance from the border at which an anchor point is clear of it, shape (n,).
        polygon: The zone's corners in order, shape (k, 2), k >= 3.

    Returns:
        The changes, and whether the object is inside at each box, bool array of shape (n,).
    """
    is_within = polygon_contains(polygon, points)
    distance_px = _distance_px(points, np.concatenate([polygon, polygon[:1]]))
    depth = np.where(is_within, distance_px, -distance_px)
    steps = np.diff(is_within.astype(np.int64))
    steps[track_id[1:] != track_id[:-1]] = 0
    total = depth[:-1] - depth[1:]
    fraction = np.clip(depth[:-1] / np.where(total == 0, 1, total), 0, 1)
    is_clear = _is_clear(track_id, distance_px, margin_px)
    first = _first_rows(track_id)
    changes = _confirm_changes(track_id, steps, fraction, is_clear)
    # Before its first change a track is on the side of its first clear box, or of its first box if none is clear.
    counts = np.diff(np.append(first, len(points)))
    clear_rows = np.append(np.flatnonzero(is_clear), len(points))
    first_clear = clear_rows[np.searchsorted(clear_rows, first)]
    reference_row = np.where(first_clear < first + counts, first_clear, first)
    inside = np.zeros(len(points), np.int64)
    inside[changes.row + 1] += changes.sign
    inside = np.cumsum(inside)
    inside += np.repeat(is_within[reference_row].astype(np.int64) - inside[reference_row], counts)
    return changes, inside > 0


def polygon_contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points are inside a polygon, by the number of its edges to their right; shape (n,)."""
    is_inside = np.zeros(len(points), bool)
    x, y = points.T
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[1] != b[1]:
            is_inside ^= ((a[1] > y) != (b[1] > y)) & (x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0])
    return is_inside


def velocities(track_id: np.ndarray, time_s: np.ndarray, points: np.ndarray, window_s: float) -> np.ndarray:
    """The velocity at each row, from the first to the last position within a time window around it.

    Args:
        track_id: Shape (n,), the rows of a track consecutive.
        time_s: Increasing within each track, shape (n,).
        points: Positions in any unit of length, shape (n, 2).
        window_s: Length of the window.

    Returns:
        Velocities in the unit of `points` per second, shape (n, 2); 0 where a track has a single box.
    """
    first = _first_rows(track_id)
    counts = np.diff(np.append(first, len(points)))
    clock = _common_clock(track_id, time_s, window_s)
    start = np.searchsorted(clock, clock - window_s / 2 - 1e-9)
    end = np.searchsorted(clock, clock + window_s / 2 + 1e-9, side="right") - 1
    # In a gap longer than the window, the velocity is measured to the next box.
    has_one_box = start == end
    end = np.where(has_one_box & (end + 1 < np.repeat(first + counts, counts)), end + 1, end)
    elapsed_s = time_s[end] - time_s[start]
    distance = points[end] - points[start]
    return np.asarray(np.where(elapsed_s[:, None] > 0, distance / np.where(elapsed_s == 0, 1, elapsed_s)[:, None], 0.0))


def interpolate_points(track_id: np.ndarray, time_s: np.ndarray, points: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """Points of which some are interpolated between those before and after them of the same track.

    Args:
        track_id: Shape (n,), the rows of a track consecutive.
        time_s: Increasing within each track, shape (n,).
        points: Shape (n, 2).
        is_open: Which are interpolated, shape (n,); the first and the last of a track stay as they are.
    """
    is_first = _is_first_row(track_id)
    is_open = is_open & ~is_first & ~np.roll(is_first, -1)
    if not is_open.any():
        return points
    clock, interpolated = _common_clock(track_id, time_s, 0.0), points.copy()
    for axis in (0, 1):
        interpolated[is_open, axis] = np.interp(clock[is_open], clock[~is_open], points[~is_open, axis])
    return interpolated


def _common_clock(track_id: np.ndarray, time_s: np.ndarray, window_s: float) -> np.ndarray:
    """One increasing clock of all rows, so that one search serves all tracks; rows of two tracks are a window apart."""
    # Times before 0 are those of a preceding recording.
    span_s = float(np.ptp(time_s)) if len(time_s) else 0.0
    number = np.cumsum(_is_first_row(track_id)) - 1
    return np.asarray(time_s + number * (span_s + 2 * window_s + 1))


def _first_rows(track_id: np.ndarray) -> np.ndarray:
    """The first row of every track."""
    return np.flatnonzero(_is_first_row(track_id))


def _is_first_row(track_id: np.ndarray) -> np.ndarray:
    """Whether each row is the first of its track, shape (n,)."""
    is_first = np.ones(len(track_id), bool)
    is_first[1:] = track_id[1:] != track_id[:-1]
    return is_first


def _turn(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cross product of a-b and a-point: positive where the point is to the right of a-b in an image (y points down)."""
    return np.asarray(
        (b[..., 0] - a[..., 0]) * (points[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (points[..., 0] - a[..., 0])
    )


def _distance_px(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of points (n, 2) to the nearest point of a polyline (k, 2)."""
    squared = np.full(len(points), np.inf)
    x, y = np.ascontiguousarray(points.T)
    for (a_x, a_y), (b_x, b_y) in itertools.pairwise(line):
        segment_x, segment_y = b_x - a_x, b_y - a_y
        along = ((x - a_x) * segment_x + (y - a_y) * segment_y) / max(segment_x**2 + segment_y**2, 1e-12)
        np.clip(along, 0, 1, out=along)
        offset_x, offset_y = x - a_x - along * segment_x, y - a_y - along * segment_y
        np.minimum(squared, offset_x * offset_x + offset_y * offset_y, out=squared)
    return np.asarray(np.sqrt(squared))


def _is_clear(track_id: np.ndarray, distance_px: np.ndarray, margin_px: np.ndarray) -> np.ndarray:
    """Which boxes are clear of a border; at the ends of a track, a fraction of the margin suffices."""
    is_first = _is_first_row(track_id)
    is_end = is_first | np.roll(is_first, -1)
    return np.asarray(distance_px > np.where(is_end, margin_px * _TRACK_END_MARGIN, margin_px))


def _confirm_changes(
    track_id: np.ndarray, steps: np.ndarray, fraction: np.ndarray, is_clear: np.ndarray
) -> SideChanges:
    """The net changes between consecutive clear boxes of a track, each at the last step in its direction.

    Args:
        track_id: Shape (n,).
        steps: Net changes from each row to the next, shape (n - 1,).
        fraction: Position of the change between the two rows, shape (n - 1,).
        is_clear: Which boxes are clear of the border, shape (n,).
    """
    level = np.concatenate([[0], np.cumsum(steps)])
    clear = np.flatnonzero(is_clear)
    change = np.where(track_id[clear[1:]] == track_id[clear[:-1]], np.diff(level[clear]), 0) if len(clear) else clear
    rows = np.flatnonzero(steps)
    pair = np.searchsorted(clear, rows, side="right") - 1  # the pair of clear boxes around a step
    is_between = (pair >= 0) & (pair < len(change))
    rows, pair = rows[is_between], pair[is_between]
    sign = np.sign(change[pair])
    is_in_direction = np.sign(steps[rows]) * sign > 0
    rows, pair, sign = rows[is_in_direction], pair[is_in_direction], sign[is_in_direction]
    # A pair may have several steps in its direction; its net change is one, so the last of them is the time.
    is_last = np.append(pair[1:] != pair[:-1], True)[: len(pair)]
    return SideChanges(rows[is_last], fraction[rows[is_last]], sign[is_last])
