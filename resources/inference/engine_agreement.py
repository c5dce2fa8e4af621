"""Agreement of two models, or of two engines of one model: how many of their boxes in the same frames match."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resources.geometry.box_overlap import iou_matrix

MIN_CONFIDENCE, MIN_MATCH_CONFIDENCE = 0.35, 0.25


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes of one frame: corners (n, 4) in pixels, confidence (n,), class (n,)."""

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """Agreement of an engine with the reference.

    Boxes with a confidence of at least 0.35 are compared; a match is a box of the same class on the other side with a
    confidence of at least 0.25.

    Attributes:
        reference_count: Compared boxes of the reference.
        recall: Share of them with a match at IoU 0.5; 1 if there are none.
        precision: Share of the engine's compared boxes with a match in the reference at IoU 0.5; 1 if there are none.
        recall_iou90: As recall, at IoU 0.9.
        precision_iou90: As precision, at IoU 0.9.
        confidence_shift: Mean confidence of the matches of the reference's boxes, minus that of these boxes.
    """

    reference_count: int
    recall: float
    precision: float
    recall_iou90: float
    precision_iou90: float
    confidence_shift: float


def find_best_matches(boxes: FrameBoxes, other_boxes: FrameBoxes) -> tuple[np.ndarray, np.ndarray]:
    """Find the best match of each compared box among the boxes of the other side.

    Args:
        boxes: Boxes of one side; the n boxes with a confidence of at least 0.35 are compared.
        other_boxes: Boxes of the other side; those with a confidence of at least 0.25 can be matches.

    Returns:
        The IoU with the best match of the same class, shape (n,), 0 if there is none; and the match's confidence minus
        the box's, shape (n,), 0 if there is none.
    """
    is_compared, can_match = boxes.confidence >= MIN_CONFIDENCE, other_boxes.confidence >= MIN_MATCH_CONFIDENCE
    if not is_compared.any() or not can_match.any():
        return np.zeros(int(is_compared.sum())), np.zeros(int(is_compared.sum()))
    iou = iou_matrix(boxes.xyxy[is_compared], other_boxes.xyxy[can_match])
    iou *= boxes.class_id[is_compared][:, None] == other_boxes.class_id[can_match][None, :]
    best_index = iou.argmax(axis=1)
    best_iou = iou.max(axis=1)
    shift = other_boxes.confidence[can_match][best_index] - boxes.confidence[is_compared]
    return best_iou, np.where(best_iou > 0, shift, 0.0)


def count_matches(boxes: FrameBoxes, other_boxes: FrameBoxes, min_iou: float) -> tuple[int, int]:
    """Count the compared boxes of one side that have a match on the other side.

    Args:
        boxes: Boxes of one side; those with a confidence of at least 0.35 are compared.
        other_boxes: Boxes of the other side in the same frame.
        min_iou: Smallest IoU of a match.

    Returns:
        The number of boxes with a match, and the number of compared boxes.
    """
    best_iou, _ = find_best_matches(boxes, other_boxes)
    return int((best_iou >= min_iou).sum()), len(best_iou)


def measure_agreement(reference: Sequence[FrameBoxes], engine: Sequence[FrameBoxes]) -> Agreement:
    """Measure the agreement of an engine's boxes with the reference's, over the same frames in the same order."""
    pairs = list(zip(reference, engine, strict=True))
    reference_matches = [find_best_matches(reference_boxes, boxes) for reference_boxes, boxes in pairs]
    engine_matches = [find_best_matches(boxes, reference_boxes) for reference_boxes, boxes in pairs]
    reference_iou = np.concatenate([iou for iou, _ in reference_matches] or [np.zeros(0)])
    shift = np.concatenate([shift for _, shift in reference_matches] or [np.zeros(0)])
    engine_iou = np.concatenate([iou for iou, _ in engine_matches] or [np.zeros(0)])

    def share(iou: np.ndarray, min_iou: float) -> float:
        return float((iou >= min_iou).mean()) if len(iou) else 1.0

    matched_shift = shift[reference_iou >= 0.5]
    return Agreement(
        len(reference_iou),
        share(reference_iou, 0.5),
        share(engine_iou, 0.5),
        share(reference_iou, 0.9),
        share(engine_iou, 0.9),
        float(matched_shift.mean()) if len(matched_shift) else 0.0,
    )
