"""Lines, zones and the ground: which tracks cross, enter and leave, decided with hysteresis; arrays in, arrays out.

All functions take the boxes of many tracks at once, one row per box, sorted by track and time. An object's place is one
point of its box, the anchor. A change of side counts once the anchor is clear of the border by a margin, so an object
that trembles on the border changes nothing, and one that crosses, trembles and goes on has crossed once.
"""

import itertools
from dataclasses import dataclass

import numpy as np

_END_MARGIN = 0.25


@dataclass(frozen=True)
class Changes:
    """Moments at which objects changed sides, sorted by row.

    Attributes:
        row: The row before the moment, shape (n,).
        share: How far from that row to the next, 0 to 1, shape (n,).
        sign: 1 for into the zone, or across the line from its left hand to its right; -1 for the other way, (n,).
    """

    row: np.ndarray
    share: np.ndarray
    sign: np.ndarray


def anchors(xyxy: np.ndarray, kind: str) -> np.ndarray:
    """The point of each box that counts.

    Args:
        xyxy: Corners, shape (n, 4).
        kind: bottom_centre or centre.

    Returns:
        Shape (n, 2).
    """
    middle = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    return np.column_stack([middle[:, 0], xyxy[:, 3]]) if kind == "bottom_centre" else middle


def crossings(track_id: np.ndarray, points: np.ndarray, margin_px: np.ndarray, line: np.ndarray) -> Changes:
    """When objects cross a line.

    Args:
        track_id: Shape (n,), rows of a track together.
        points: Anchors in order of time, shape (n, 2).
        margin_px: How far from the line an anchor must be to be clear of it, shape (n,).
        line: The line's points in order, shape (k, 2), k >= 2.
    """
    steps = np.zeros(max(len(points) - 1, 0), np.int64)  # net crossings from each row to the next
    share = np.zeros(len(steps))
    before, after = points[:-1], points[1:]
    for a, b in itertools.pairwise(line):
        # An end of a step on the line, or of the line on a step, belongs to one side, so no crossing is seen twice.
        side = _turn(a, b, points)
        is_right = side >= 0
        # The line's ends as seen from the step: on different sides of it if the step passes between them.
        passes = (_turn(before, after, a) >= 0) != (_turn(before, after, b) >= 0)
        hit = np.flatnonzero((is_right[:-1] != is_right[1:]) & passes)
        steps[hit] += np.where(is_right[hit + 1], 1, -1)
        share[hit] = side[hit] / (side[hit] - side[hit + 1])
    steps[track_id[1:] != track_id[:-1]] = 0
    is_clear = _is_clear(track_id, _distance(points, line), margin_px)
    return _confirmed(track_id, steps, share, is_clear)


def border_changes(
    track_id: np.ndarray, points: np.ndarray, margin_px: np.ndarray, polygon: np.ndarray
) -> tuple[Changes, np.ndarray]:
    """When objects enter and leave a zone, and in which boxes they are inside.

    Args:
        track_id: Shape (n,), rows of a track together.
        points: Anchors in order of time, shape (n, 2).
        margin_px: How far from the border an anchor must be to be clear of it, shape (n,).
        polygon: The zone's corners in order, shape (k, 2), k >= 3.

    Returns:
        The changes, and a boolean array of shape (n,).
    """
    is_within = contains(polygon, points)
    from_border = _distance(points, np.concatenate([polygon, polygon[:1]]))
    depth = np.where(is_within, from_border, -from_border)
    steps = np.diff(is_within.astype(np.int64))
    steps[track_id[1:] != track_id[:-1]] = 0
    total = depth[:-1] - depth[1:]
    share = np.clip(depth[:-1] / np.where(total == 0, 1, total), 0, 1)
    is_clear = _is_clear(track_id, from_border, margin_px)
    first = _first_rows(track_id)
    changes = _confirmed(track_id, steps, share, is_clear)
    # Where a track is before its first change: as at its first clear box, or at its first where none is clear.
    counts = np.diff(np.append(first, len(points)))
    clear_rows = np.append(np.flatnonzero(is_clear), len(points))
    first_clear = clear_rows[np.searchsorted(clear_rows, first)]
    known_at = np.where(first_clear < first + counts, first_clear, first)
    inside = np.zeros(len(points), np.int64)
    inside[changes.row + 1] += changes.sign
    inside = np.cumsum(inside)
    inside += np.repeat(is_within[known_at].astype(np.int64) - inside[known_at], counts)
    return changes, inside > 0


def contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points lie inside a polygon, by the number of its edges to their right; shape (n,)."""
    is_inside = np.zeros(len(points), bool)
    x, y = points.T
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[1] != b[1]:
            is_inside ^= ((a[1] > y) != (b[1] > y)) & (x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0])
    return is_inside


def velocities(track_id: np.ndarray, time_s: np.ndarray, points: np.ndarray, window_s: float) -> np.ndarray:
    """The velocity at each row, from the first to the last place within a window of time around it.

    Args:
        track_id: Shape (n,), rows of a track together.
        time_s: Rising within each track, shape (n,).
        points: In any unit of length, shape (n, 2).
        window_s: Length of the window.

    Returns:
        Shape (n, 2), in that unit a second; 0 where a track has a single box.
    """
    first = _first_rows(track_id)
    counts = np.diff(np.append(first, len(points)))
    # A long stride from track to track makes one rising clock of all rows.
    clock = time_s + np.repeat(np.arange(len(first)), counts) * (time_s.max(initial=0) + 2 * window_s + 1)
    start = np.searchsorted(clock, clock - window_s / 2 - 1e-9)
    end = np.searchsorted(clock, clock + window_s / 2 + 1e-9, side="right") - 1
    # Where a track has a gap longer than the window, the next box is taken.
    is_lonely = start == end
    end = np.where(is_lonely & (end + 1 < np.repeat(first + counts, counts)), end + 1, end)
    elapsed_s = time_s[end] - time_s[start]
    moved = points[end] - points[start]
    return np.asarray(np.where(elapsed_s[:, None] > 0, moved / np.where(elapsed_s == 0, 1, elapsed_s)[:, None], 0.0))


def homography(points: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """The projective map from the picture to the ground, the least squares one where there are more than four points.

    The direct linear transform on centred and scaled points (Hartley and Zisserman, "Multiple View Geometry", 4.1).

    Args:
        points: Of the picture, shape (k, 2), k >= 4.
        metres: The same on the ground, shape (k, 2).

    Returns:
        Shape (3, 3).
    """
    from_picture, from_ground = _normalization(points), _normalization(metres)
    rows = []
    for (x, y), (u, v) in zip(_mapped(from_picture, points), _mapped(from_ground, metres), strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y, -u])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y, -v])
    solution = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
    matrix = np.linalg.inv(from_ground) @ solution @ from_picture
    # The sign that makes the third coordinate positive on the points given: beyond the horizon it is negative.
    return np.asarray(matrix * np.sign((np.column_stack([points, np.ones(len(points))]) @ matrix[2]).sum()))


def to_ground(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Places on the ground in metres, shape (n, 2); NaN for points at or beyond the horizon."""
    depth = points @ matrix[2, :2] + matrix[2, 2]
    places = points @ matrix[:2, :2].T + matrix[:2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(depth[:, None] > 1e-9, places / depth[:, None], np.nan))


def _normalization(points: np.ndarray) -> np.ndarray:
    centre = points.mean(axis=0)
    scale = np.sqrt(2) / np.hypot(*(points - centre).T).mean()
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def _mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(homogeneous[:, :2] / homogeneous[:, 2:])


def _first_rows(track_id: np.ndarray) -> np.ndarray:
    """The first row of every track."""
    is_first = np.ones(len(track_id), bool)
    is_first[1:] = track_id[1:] != track_id[:-1]
    return np.flatnonzero(is_first)


def _turn(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Positive where a point lies to the right of the way from a to b, as seen in a picture whose y points down."""
    return np.asarray(
        (b[..., 0] - a[..., 0]) * (points[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (points[..., 0] - a[..., 0])
    )


def _distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of points (n, 2) to the nearest place of a line (k, 2)."""
    nearest = np.full(len(points), np.inf)
    x, y = np.ascontiguousarray(points.T)
    for (a_x, a_y), (b_x, b_y) in itertools.pairwise(line):
        way_x, way_y = b_x - a_x, b_y - a_y
        along = ((x - a_x) * way_x + (y - a_y) * way_y) / max(way_x**2 + way_y**2, 1e-12)
        np.clip(along, 0, 1, out=along)
        off_x, off_y = x - a_x - along * way_x, y - a_y - along * way_y
        np.minimum(nearest, off_x * off_x + off_y * off_y, out=nearest)
    return np.asarray(np.sqrt(nearest))


def _is_clear(track_id: np.ndarray, distance_px: np.ndarray, margin_px: np.ndarray) -> np.ndarray:
    """Which boxes are clear of a border; at the ends of a track, a part of the margin will do."""
    is_first = np.ones(len(track_id), bool)
    is_first[1:] = track_id[1:] != track_id[:-1]
    is_end = is_first | np.roll(is_first, -1)
    return np.asarray(distance_px > np.where(is_end, margin_px * _END_MARGIN, margin_px))


def _confirmed(track_id: np.ndarray, steps: np.ndarray, share: np.ndarray, is_clear: np.ndarray) -> Changes:
    """The net changes between one clear box of a track and the next; each at the last step that went its way."""
    level = np.concatenate([[0], np.cumsum(steps)])
    clear = np.flatnonzero(is_clear)
    change = np.where(track_id[clear[1:]] == track_id[clear[:-1]], np.diff(level[clear]), 0) if len(clear) else clear
    moved = np.flatnonzero(steps)
    pair = np.searchsorted(clear, moved, side="right") - 1  # the pair of clear boxes that a step lies between
    is_between = (pair >= 0) & (pair < len(change))
    moved, pair = moved[is_between], pair[is_between]
    sign = np.sign(change[pair])
    is_its_way = np.sign(steps[moved]) * sign > 0
    moved, pair, sign = moved[is_its_way], pair[is_its_way], sign[is_its_way]
    # A pair may hold several steps that way; its net change is one, so the last of them is the moment.
    is_last = np.append(pair[1:] != pair[:-1], True)[: len(pair)]
    return Changes(moved[is_last], share[moved[is_last]], sign[is_last])
