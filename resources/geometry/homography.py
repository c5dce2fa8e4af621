"""Projection of image points to the ground plane."""

import itertools

import numpy as np


def fit_homography(points: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """Fit the homography from the image to the ground plane, by least squares where there are more than four points.

    Args:
        points: Points in the image, in pixels or in parts of the frame's size, shape (k, 2), k >= 4.
        metres: The same points on the ground, in metres, shape (k, 2).

    Returns:
        Homography, shape (3, 3), whose third coordinate is positive in front of the horizon.

    Raises:
        ValueError: The points leave the homography open, or are not in the order of the positions.
    """
    import cv2  # takes 0.2 s, and only stages with a ground plane need it

    for name, positions in (("points", points), ("metres", metres)):
        if _leave_homography_open(positions):
            raise ValueError(f"too many of the {name} lie on one line: choose four corners of an area")
    # OpenCV computes with 32-bit positions, too coarse for the coordinates of a national grid.
    centre = metres.mean(axis=0)
    matrix, _ = cv2.findHomography(points, metres - centre)
    depth = np.column_stack([points, np.ones(len(points))]) @ matrix[2] if matrix is not None else np.zeros(len(points))
    if matrix is None or not ((depth > 0).all() or (depth < 0).all()):
        raise ValueError(
            "no view of flat ground has these points at these metres, since some of them would lie beyond the horizon: "
            "give the metres in the order of the points"
        )
    return np.asarray([[1, 0, centre[0]], [0, 1, centre[1]], [0, 0, 1]] @ matrix * np.sign(depth[0]))


def project_to_ground(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Project image points to the ground plane.

    Args:
        matrix: Homography, shape (3, 3).
        points: Points in the image, in the unit in which the homography was fitted, shape (n, 2).

    Returns:
        Positions on the ground in metres, shape (n, 2); NaN for points at or beyond the horizon.
    """
    depth = points @ matrix[2, :2] + matrix[2, 2]
    positions = points @ matrix[:2, :2].T + matrix[:2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(depth[:, None] > 1e-9, positions / depth[:, None], np.nan))


def _leave_homography_open(points: np.ndarray) -> bool:
    """Whether fewer than two points lie off a line through two others, so that several homographies fit."""
    points = np.unique(points, axis=0)
    tolerance = 1e-6 * np.ptp(points, axis=0).max() ** 2
    for a, b in itertools.combinations(points, 2):
        offset = (b[0] - a[0]) * (points[:, 1] - a[1]) - (b[1] - a[1]) * (points[:, 0] - a[0])
        if np.count_nonzero(np.abs(offset) > tolerance) < 2:
            return True
    return len(points) < 4
