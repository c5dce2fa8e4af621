"""How far two models, or two engines of one model, find the same boxes in the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SURE, POSSIBLE = 0.35, 0.25


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes of one frame: corners (n, 4) in pixels, confidence (n,), class (n,)."""

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """How far one side's boxes are the reference's.

    A box is sure from a confidence of 0.35 up; its partner is a box of the same class on the other side from 0.25 up.

    Attributes:
        reference_count: Sure boxes of the reference.
        recall: Share of them with a partner at IoU 0.5; 1 if there are none.
        precision: Share of this side's sure boxes with a partner in the reference at IoU 0.5; 1 if there are none.
        recall_iou90: As recall, at IoU 0.9.
        precision_iou90: As precision, at IoU 0.9.
        confidence_shift: Mean confidence of the partners of the reference's sure boxes less that of these.
    """

    reference_count: int
    recall: float
    precision: float
    recall_iou90: float
    precision_iou90: float
    confidence_shift: float


def iou_matrix(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4), as an array (n, m)."""
    overlap = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2])
    shared = overlap.clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-9))


def best_overlaps(one: FrameBoxes, other: FrameBoxes) -> tuple[np.ndarray, np.ndarray]:
    """For each sure box of `one`, the overlap with its nearest possible partner in `other`, and what it gains by it.

    Returns:
        IoU of shape (n,), 0 where there is none of its class; and the partner's confidence less the box's own, shape
        (n,), 0 where there is none.
    """
    sure, possible = one.confidence >= SURE, other.confidence >= POSSIBLE
    if not sure.any() or not possible.any():
        return np.zeros(int(sure.sum())), np.zeros(int(sure.sum()))
    overlap = iou_matrix(one.xyxy[sure], other.xyxy[possible])
    overlap *= one.class_id[sure][:, None] == other.class_id[possible][None, :]
    nearest = overlap.argmax(axis=1)
    best = overlap.max(axis=1)
    return best, np.where(best > 0, other.confidence[possible][nearest] - one.confidence[sure], 0.0)


def partners(one: FrameBoxes, other: FrameBoxes, min_iou: float) -> tuple[int, int]:
    """How many sure boxes of `one` have a possible partner of their class in `other`, and how many there are."""
    best, _ = best_overlaps(one, other)
    return int((best >= min_iou).sum()), len(best)


def agreement_of(reference: Sequence[FrameBoxes], found: Sequence[FrameBoxes]) -> Agreement:
    """How far what was found is what the reference found, over pictures in the same order."""
    there = [best_overlaps(one, other) for one, other in zip(reference, found, strict=True)]
    back = [best_overlaps(other, one) for one, other in zip(reference, found, strict=True)]
    recalled, shift = (np.concatenate([pair[side] for pair in there] or [np.zeros(0)]) for side in (0, 1))
    returned = np.concatenate([pair[0] for pair in back] or [np.zeros(0)])

    def share(overlaps: np.ndarray, min_iou: float) -> float:
        return float((overlaps >= min_iou).mean()) if len(overlaps) else 1.0

    paired = shift[recalled >= 0.5]
    return Agreement(
        len(recalled),
        share(recalled, 0.5),
        share(returned, 0.5),
        share(recalled, 0.9),
        share(returned, 0.9),
        float(paired.mean()) if len(paired) else 0.0,
    )
