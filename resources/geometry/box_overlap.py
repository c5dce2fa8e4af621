"""Overlap of upright boxes."""

import numpy as np


def iou(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of boxes, element by element, with numpy's broadcasting.

    Args:
        boxes_a: Corners x_min, y_min, x_max and y_max along the last axis, shape (..., 4).
        boxes_b: The same, of a shape that broadcasts with that of `boxes_a`.

    Returns:
        Array of the broadcast shape without the last axis, 0 to 1.
    """
    width = np.minimum(boxes_a[..., 2], boxes_b[..., 2]) - np.maximum(boxes_a[..., 0], boxes_b[..., 0])
    height = np.minimum(boxes_a[..., 3], boxes_b[..., 3]) - np.maximum(boxes_a[..., 1], boxes_b[..., 1])
    intersection = width.clip(0) * height.clip(0)
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (boxes_a, boxes_b)]
    return np.asarray(intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-9))


def iou_matrix(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of each pair of boxes, xyxy of shapes (n, 4) and (m, 4): shape (n, m)."""
    return iou(boxes_a[:, None, :], boxes_b[None, :, :])
