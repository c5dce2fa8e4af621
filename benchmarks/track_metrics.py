"""HOTA, IDF1 and MOTA of tracks against the ground truth, computed as TrackEval computes them.

TrackEval itself needs opencv-python, which overwrites the headless OpenCV that this project uses, and py-motmetrics
does not run on numpy 2; so the three formulas are implemented here.

HOTA: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021. IDF1: Ristani et
al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCV 2016 workshops. MOTA: Bernardin
and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import lap
import numpy as np

from resources.geometry.box_overlap import iou_matrix

_ALPHAS = np.arange(0.05, 0.99, 0.05)
_MIN_IOU = 0.5


@dataclass(frozen=True)
class Scores:
    """Scores of tracks.

    Attributes:
        hota: HOTA in [0, 1].
        det_a: Detection accuracy in [0, 1], one part of HOTA.
        ass_a: Association accuracy in [0, 1], the other part.
        idf1: IDF1 in [0, 1].
        mota: MOTA, at most 1.
        switches: Number of identity switches.
        false_positives: Number of tracked boxes without a true one.
        false_negatives: Number of true boxes without a tracked one.
        track_count: Number of tracks.
    """

    hota: float
    det_a: float
    ass_a: float
    idf1: float
    mota: float
    switches: float
    false_positives: float
    false_negatives: float
    track_count: float


@dataclass(frozen=True)
class _Frame:
    """The objects of one frame.

    Attributes:
        true: Indices of the true objects, shape (n,).
        tracked: Indices of the tracks, shape (m,).
        iou: IoU of each pair, shape (n, m).
    """

    true: np.ndarray
    tracked: np.ndarray
    iou: np.ndarray


def score_tracks(truth: np.ndarray, tracks: np.ndarray) -> Scores:
    """Compare tracks with the ground truth.

    Args:
        truth: Rows of (frame_index, object, x_min, y_min, x_max, y_max).
        tracks: Rows of the same columns, with the track as object.
    """
    true_index = np.unique(truth[:, 1], return_inverse=True)[1]
    track_ids, track_index = np.unique(tracks[:, 1], return_inverse=True)
    frames = []
    for true_rows, tracked_rows in _rows_by_frame(truth[:, 0], tracks[:, 0]):
        iou = iou_matrix(truth[true_rows, 2:6], tracks[tracked_rows, 2:6])
        frames.append(_Frame(true_index[true_rows], track_index[tracked_rows], iou))
    true_lengths = np.bincount(true_index, minlength=1)
    track_lengths = np.bincount(track_index, minlength=1)
    false_positives, false_negatives, switches = _clear_mot_errors(frames, len(true_lengths))
    hota, det_a, ass_a = _hota(frames, true_lengths, track_lengths)
    return Scores(
        hota=hota,
        det_a=det_a,
        ass_a=ass_a,
        idf1=_idf1(frames, true_lengths, track_lengths),
        mota=1 - (false_positives + false_negatives + switches) / max(len(truth), 1),
        switches=switches,
        false_positives=false_positives,
        false_negatives=false_negatives,
        track_count=len(track_ids),
    )


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of each score."""
    return Scores(*(float(np.mean([getattr(one, field.name) for one in scores])) for field in fields(Scores)))


def _rows_by_frame(*frame_indices: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The rows of each frame that occurs in any of some arrays of frame indices, one array of rows for each."""
    orders = [np.argsort(indices, kind="stable") for indices in frame_indices]
    every_frame = np.unique(np.concatenate(frame_indices))
    starts, ends = (
        [
            np.searchsorted(indices[order], every_frame, side)
            for indices, order in zip(frame_indices, orders, strict=True)
        ]
        for side in ("left", "right")
    )
    for frame in range(len(every_frame)):
        yield [order[start[frame] : end[frame]] for order, start, end in zip(orders, starts, ends, strict=True)]


def _best_assignment(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment with the largest total of a matrix of non-negative values."""
    if not value.size:
        return np.empty(0, int), np.empty(0, int)
    _, column_of_row, _ = lap.lapjv(value.max() - value, extend_cost=True)
    rows = np.flatnonzero(column_of_row >= 0)
    return rows, column_of_row[rows]


def _hota(frames: Sequence[_Frame], true_lengths: np.ndarray, track_lengths: np.ndarray) -> tuple[float, float, float]:
    """HOTA, DetA and AssA, each the mean over the levels of IoU."""
    potential = np.zeros((len(true_lengths), len(track_lengths)))
    for frame in frames:
        total = frame.iou.sum(axis=0)[None, :] + frame.iou.sum(axis=1)[:, None] - frame.iou
        potential[np.ix_(frame.true, frame.tracked)] += frame.iou / np.maximum(total, 1e-12)
    alignment = potential / (true_lengths[:, None] + track_lengths[None, :] - potential)
    matched = np.zeros((len(_ALPHAS), len(true_lengths), len(track_lengths)))
    for frame in frames:
        rows, columns = _best_assignment(alignment[np.ix_(frame.true, frame.tracked)] * frame.iou)
        is_matched = frame.iou[rows, columns][None, :] >= _ALPHAS[:, None] - 1e-12
        for level in range(len(_ALPHAS)):
            matched[level, frame.true[rows[is_matched[level]]], frame.tracked[columns[is_matched[level]]]] += 1
    true_positives = matched.sum(axis=(1, 2))
    union = true_lengths[None, :, None] + track_lengths[None, None, :] - matched
    association = (matched * matched / union).sum(axis=(1, 2)) / np.maximum(true_positives, 1)
    detection = true_positives / (true_lengths.sum() + track_lengths.sum() - true_positives)
    return float(np.sqrt(detection * association).mean()), float(detection.mean()), float(association.mean())


def _idf1(frames: Sequence[_Frame], true_lengths: np.ndarray, track_lengths: np.ndarray) -> float:
    matched_count = np.zeros((len(true_lengths), len(track_lengths)))
    for frame in frames:
        matched_count[np.ix_(frame.true, frame.tracked)] += frame.iou >= _MIN_IOU
    rows, columns = _best_assignment(matched_count)
    return float(2 * matched_count[rows, columns].sum() / max(true_lengths.sum() + track_lengths.sum(), 1))


def _clear_mot_errors(frames: Sequence[_Frame], true_count: int) -> tuple[int, int, int]:
    """False positives, false negatives and identity switches; a match of the frame before is kept if it still holds."""
    false_positives = false_negatives = switches = 0
    newest_match = np.full(true_count, -1)  # of each true object, over all frames so far
    previous_match = np.full(true_count, -1)  # in the frame before only
    for frame in frames:
        value = np.where(frame.iou >= _MIN_IOU - 1e-12, frame.iou, 0.0)
        value = value + 1000 * ((previous_match[frame.true][:, None] == frame.tracked[None, :]) & (value > 0))
        rows, columns = _best_assignment(value)
        is_matched = value[rows, columns] > 0
        true, tracked = frame.true[rows[is_matched]], frame.tracked[columns[is_matched]]
        switches += int(((newest_match[true] >= 0) & (newest_match[true] != tracked)).sum())
        previous_match[:] = -1
        newest_match[true] = previous_match[true] = tracked
        false_negatives += len(frame.true) - len(true)
        false_positives += len(frame.tracked) - len(tracked)
    return false_positives, false_negatives, switches
