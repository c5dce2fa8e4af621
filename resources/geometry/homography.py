"""Projection of image points to the ground plane."""

import numpy as np


def fit_homography(points: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """Fit the homography from the image to the ground plane, by least squares where there are more than four points.

    The direct linear transform on normalized points (Hartley and Zisserman, "Multiple View Geometry", 4.1).

    Args:
        points: Points in the image, in pixels, shape (k, 2), k >= 4.
        metres: The same points on the ground, in metres, shape (k, 2).

    Returns:
        Homography, shape (3, 3).
    """
    normalize_image, normalize_ground = _normalization(points), _normalization(metres)
    rows = []
    for (x, y), (u, v) in zip(_apply(normalize_image, points), _apply(normalize_ground, metres), strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y, -u])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y, -v])
    solution = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
    matrix = np.linalg.inv(normalize_ground) @ solution @ normalize_image
    # The sign that makes the third coordinate positive at these points, so that it is negative beyond the horizon.
    return np.asarray(matrix * np.sign((np.column_stack([points, np.ones(len(points))]) @ matrix[2]).sum()))


def project_to_ground(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Project image points to the ground plane.

    Args:
        matrix: Homography, shape (3, 3).
        points: Points in the image, in pixels, shape (n, 2).

    Returns:
        Positions on the ground in metres, shape (n, 2); NaN for points at or beyond the horizon.
    """
    depth = points @ matrix[2, :2] + matrix[2, 2]
    positions = points @ matrix[:2, :2].T + matrix[:2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(depth[:, None] > 1e-9, positions / depth[:, None], np.nan))


def _normalization(points: np.ndarray) -> np.ndarray:
    """The transform that moves the centroid to the origin and scales the mean distance from it to the root of 2."""
    centre = points.mean(axis=0)
    scale = np.sqrt(2) / np.hypot(*(points - centre).T).mean()
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a projective transform to points of shape (n, 2)."""
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(homogeneous[:, :2] / homogeneous[:, 2:])
