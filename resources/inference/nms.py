"""Non-maximum suppression of upright and oriented boxes."""

from dataclasses import dataclass

import numpy as np

_CLASS_OFFSET_PX = 7680.0  # moves the boxes of different classes apart, so that one pass of NMS serves all classes
_NMS_ROWS = 256  # bounds the memory that many candidates need


@dataclass(frozen=True)
class Candidates:
    """Boxes that pass the confidence threshold, best first, in pixels of the network's input.

    Attributes:
        xyxy: float32 array of shape (n, 4), corners; for the task obb, centre, width and height.
        confidence: float32 array of shape (n,).
        class_id: int32 array of shape (n,).
        extra: float32 array of shape (n, values): mask coefficients, keypoints or the rotation.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    extra: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, indices: np.ndarray | slice) -> "Candidates":
        """Select candidates by indices, a boolean mask or a slice."""
        return Candidates(self.xyxy[indices], self.confidence[indices], self.class_id[indices], self.extra[indices])


def suppress_overlaps(candidates: Candidates, iou_threshold: float, *, is_oriented: bool) -> np.ndarray:
    """Select the boxes that remain after non-maximum suppression within each class.

    Args:
        candidates: Boxes, best first.
        iou_threshold: A box that overlaps a better one of its class by more than this is dropped.
        is_oriented: Whether the boxes are oriented; their overlap is then the probabilistic IoU.

    Returns:
        Ascending indices of the remaining boxes.
    """
    if is_oriented:
        overlap = probabilistic_iou(np.concatenate([candidates.xyxy, candidates.extra[:, -1:]], axis=1))
        overlap *= candidates.class_id[:, None] == candidates.class_id[None, :]
        # As Ultralytics does it for oriented boxes: any better box drops a box, even one that is itself dropped.
        return np.flatnonzero(~(np.triu(overlap, 1) > iou_threshold).any(axis=0))
    offset = (candidates.class_id * _CLASS_OFFSET_PX)[:, None].astype(np.float32)
    return greedy_nms(candidates.xyxy + offset, iou_threshold)


def greedy_nms(xyxy: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Select boxes by greedy non-maximum suppression, all of one class.

    Args:
        xyxy: Corners, shape (n, 4), best first.
        iou_threshold: A box that overlaps a better one by more than this is dropped.

    Returns:
        Ascending indices of the remaining boxes.
    """
    left, top, right, bottom = np.ascontiguousarray(xyxy.T)
    area = (right - left) * (bottom - top)
    is_kept = np.ones(len(xyxy), bool)
    # A block of boxes is compared with all that follow: box by box, calling numpy would take most of the time.
    for first in range(0, len(xyxy), _NMS_ROWS):
        block, following = (slice(first, first + _NMS_ROWS), None), slice(first, None)
        width = np.minimum(right[block], right[following]) - np.maximum(left[block], left[following])
        height = np.minimum(bottom[block], bottom[following]) - np.maximum(top[block], top[following])
        intersection = width.clip(0) * height.clip(0)
        drops = np.triu(~(intersection <= iou_threshold * (area[block] + area[following] - intersection)), 1)
        for index in np.flatnonzero(drops.any(axis=1)):
            if is_kept[first + index]:
                is_kept[following] &= ~drops[index]
    return np.flatnonzero(is_kept)


def probabilistic_iou(boxes: np.ndarray) -> np.ndarray:
    """Compute the overlap of oriented boxes, each modelled as a normal distribution.

    Args:
        boxes: Centre x, centre y, width, height and rotation in radians, shape (n, 5).

    Returns:
        float array of shape (n, n), 0 to 1.

    Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for Object Detection", 2021.
    """
    x, y = boxes[:, 0], boxes[:, 1]
    width_variance, height_variance = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    # a, b and c are the entries of the covariance matrix [[a, c], [c, b]].
    a, b = width_variance * cos**2 + height_variance * sin**2, width_variance * sin**2 + height_variance * cos**2
    c = (width_variance - height_variance) * cos * sin
    epsilon = 1e-7
    sum_a, sum_b, sum_c = a[:, None] + a, b[:, None] + b, c[:, None] + c
    dx, dy = x[:, None] - x, y[:, None] - y
    determinant = sum_a * sum_b - sum_c**2
    distance = (sum_a * dy**2 + sum_b * dx**2) / (determinant + epsilon) / 4
    distance += sum_c * -dx * dy / (determinant + epsilon) / 2
    root_determinant = np.sqrt((a * b - c**2).clip(0))
    distance += np.log(determinant / (4 * root_determinant[:, None] * root_determinant + epsilon) + epsilon) / 2
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance.clip(epsilon, 100)) + epsilon))
