"""HOTA, IDF1 and MOTA of tracks against the truth, computed as TrackEval computes them.

TrackEval itself needs opencv-python, which overwrites the headless OpenCV that this project uses, and py-motmetrics
does not run on numpy 2; so the three formulas stand here.

HOTA: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021. IDF1: Ristani et
al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCV 2016 workshops. MOTA: Bernardin
and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import lap
import numpy as np

from resources.tracking import iou_matrix

_ALPHAS = np.arange(0.05, 0.99, 0.05)
_MIN_IOU = 0.5


@dataclass(frozen=True)
class Scores:
    """Shares of 1; `switches` and the two kinds of error are counts."""

    hota: float
    idf1: float
    mota: float
    switches: int
    false_positives: int
    false_negatives: int
    track_count: int


@dataclass(frozen=True)
class _Frame:
    """Numbers of the true and the found objects of a frame, and the IoU of each pair."""

    true: np.ndarray
    found: np.ndarray
    overlap: np.ndarray


def score(truth: np.ndarray, tracks: np.ndarray) -> Scores:
    """Compare tracks with the truth.

    Args:
        truth: Rows of (frame_index, object, x_min, y_min, x_max, y_max).
        tracks: Rows of the same kind.
    """
    true_number = np.unique(truth[:, 1], return_inverse=True)[1]
    track_ids, found_number = np.unique(tracks[:, 1], return_inverse=True)
    frames = []
    for index in np.union1d(truth[:, 0], tracks[:, 0]):
        one, other = truth[:, 0] == index, tracks[:, 0] == index
        overlap = iou_matrix(truth[one, 2:6], tracks[other, 2:6])
        frames.append(_Frame(true_number[one], found_number[other], overlap))
    true_count = np.bincount(true_number, minlength=1)
    found_count = np.bincount(found_number, minlength=1)
    false_positives, false_negatives, switches = _clear(frames, len(true_count))
    return Scores(
        hota=_hota(frames, true_count, found_count),
        idf1=_idf1(frames, true_count, found_count),
        mota=1 - (false_positives + false_negatives + switches) / max(len(truth), 1),
        switches=switches,
        false_positives=false_positives,
        false_negatives=false_negatives,
        track_count=len(track_ids),
    )


def _best(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment with the largest total of a matrix of values not below 0."""
    if not value.size:
        return np.empty(0, int), np.empty(0, int)
    _, column_of_row, _ = lap.lapjv(value.max() - value, extend_cost=True)
    rows = np.flatnonzero(column_of_row >= 0)
    return rows, column_of_row[rows]


def _hota(frames: Sequence[_Frame], true_count: np.ndarray, found_count: np.ndarray) -> float:
    potential = np.zeros((len(true_count), len(found_count)))
    for frame in frames:
        total = frame.overlap.sum(axis=0)[None, :] + frame.overlap.sum(axis=1)[:, None] - frame.overlap
        potential[np.ix_(frame.true, frame.found)] += frame.overlap / np.maximum(total, 1e-12)
    alignment = potential / (true_count[:, None] + found_count[None, :] - potential)
    matched = np.zeros((len(_ALPHAS), len(true_count), len(found_count)))
    for frame in frames:
        rows, columns = _best(alignment[np.ix_(frame.true, frame.found)] * frame.overlap)
        is_met = frame.overlap[rows, columns][None, :] >= _ALPHAS[:, None] - 1e-12
        for level in range(len(_ALPHAS)):
            matched[level, frame.true[rows[is_met[level]]], frame.found[columns[is_met[level]]]] += 1
    true_positives = matched.sum(axis=(1, 2))
    union = true_count[None, :, None] + found_count[None, None, :] - matched
    association = (matched * matched / union).sum(axis=(1, 2)) / np.maximum(true_positives, 1)
    detection = true_positives / (true_count.sum() + found_count.sum() - true_positives)
    return float(np.sqrt(detection * association).mean())


def _idf1(frames: Sequence[_Frame], true_count: np.ndarray, found_count: np.ndarray) -> float:
    together = np.zeros((len(true_count), len(found_count)))
    for frame in frames:
        together[np.ix_(frame.true, frame.found)] += frame.overlap >= _MIN_IOU
    rows, columns = _best(together)
    return float(2 * together[rows, columns].sum() / max(true_count.sum() + found_count.sum(), 1))


def _clear(frames: Sequence[_Frame], true_count: int) -> tuple[int, int, int]:
    """False positives, false negatives and identity switches, keeping matches from frame to frame where they hold."""
    false_positives = false_negatives = switches = 0
    last = np.full(true_count, -1)  # the newest match of each true object
    before = np.full(true_count, -1)  # that of the frame before only
    for frame in frames:
        value = np.where(frame.overlap >= _MIN_IOU - 1e-12, frame.overlap, 0.0)
        value = value + 1000 * ((before[frame.true][:, None] == frame.found[None, :]) & (value > 0))
        rows, columns = _best(value)
        is_met = value[rows, columns] > 0
        true, found = frame.true[rows[is_met]], frame.found[columns[is_met]]
        switches += int(((last[true] >= 0) & (last[true] != found)).sum())
        before[:] = -1
        last[true] = before[true] = found
        false_negatives += len(frame.true) - len(true)
        false_positives += len(frame.found) - len(found)
    return false_positives, false_negatives, switches
