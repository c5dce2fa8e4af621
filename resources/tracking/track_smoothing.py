"""Smooths tracks with all of their boxes, earlier and later ones, and estimates the boxes in their gaps.

A Kalman filter runs forwards, and the smoother of Rauch, Tung and Striebel ("Maximum Likelihood Estimates of Linear
Dynamic Systems", AIAA Journal 1965) backwards. All tracks of a call are filtered together, box by box.
"""

from dataclasses import dataclass

import numpy as np

from resources.tracking.motion_model import (
    BOX_CENTRE_STD_SIZES,
    BOX_SIZE_STD_SIZES,
    RESIZE_STD_SIZES,
    initial_variance,
    noise_factor,
    predict_variance,
)


@dataclass(frozen=True)
class SmoothedBoxes:
    """The estimated state of an object at each of n rows.

    Attributes:
        centre: px, shape (n, 2).
        velocity: px/s, shape (n, 2).
        size: Width and height, px, shape (n, 2).
        variance: Variance of position, covariance of position and velocity, variance of velocity, relative to the
            squared size of the object, shape (n, 3).
    """

    centre: np.ndarray
    velocity: np.ndarray
    size: np.ndarray
    variance: np.ndarray

    @property
    def xyxy(self) -> np.ndarray:
        """Corners in pixels, shape (n, 4)."""
        return np.concatenate([self.centre - self.size / 2, self.centre + self.size / 2], axis=1)


def track_starts(track_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of each track, of rows sorted by track."""
    first = np.flatnonzero(np.diff(track_id, prepend=-1))
    return first, np.diff(np.append(first, len(track_id)))


def gap_rows(track_id: np.ndarray, frame_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames in the gaps of tracks, of rows sorted by track and frame.

    Returns:
        The row before the gap, and the frame, of each missing box.
    """
    before = np.flatnonzero((np.diff(track_id) == 0) & (np.diff(frame_index) > 1))
    counts = frame_index[before + 1] - frame_index[before] - 1
    row = np.repeat(before, counts)
    return row, frame_index[row] + 1 + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def smooth_boxes(track_id: np.ndarray, time_s: np.ndarray, xyxy: np.ndarray, confidence: np.ndarray) -> SmoothedBoxes:
    """Smooth the boxes of tracks.

    Args:
        track_id: Sorted, not negative, shape (n,).
        time_s: Ascending within each track, shape (n,).
        xyxy: Corners in pixels, shape (n, 4); without meaning where there is no detection.
        confidence: NaN where there is no detection, never at the first row of a track; shape (n,).
    """
    first, length = track_starts(track_id)
    order = np.argsort(-length, kind="stable")
    first, length = first[order], length[order]
    # How many tracks have a row at each position; they come first in the order.
    counts = np.searchsorted(-length, -np.arange(1, length.max(initial=0) + 1), side="right")
    box_centre, box_size = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
    is_box, factor = ~np.isnan(confidence), noise_factor(np.nan_to_num(confidence, nan=1.0))
    rows = first
    centre, velocity, size = box_centre.copy(), np.zeros_like(box_centre), box_size.copy()
    variance, size_variance = initial_variance(factor), BOX_SIZE_STD_SIZES**2 * factor
    predicted_centre, predicted_variance = np.empty_like(centre), np.empty_like(variance)
    predicted_size_variance = np.empty_like(size_variance)
    for position in range(1, len(counts)):
        rows = first[: counts[position]] + position
        before = rows - 1
        elapsed_s = time_s[rows] - time_s[before]
        prior = predict_variance(variance[before], elapsed_s)
        predicted_variance[rows] = prior
        predicted_centre[rows] = centre[before] + velocity[before] * elapsed_s[:, None]
        error = box_centre[rows] - predicted_centre[rows]
        gain = np.where(is_box[rows], 1 / (prior[:, 0] + BOX_CENTRE_STD_SIZES**2 * factor[rows]), 0)[:, None]
        gain = gain * prior[:, :2]
        centre[rows] = predicted_centre[rows] + gain[:, :1] * error
        velocity[rows] = velocity[before] + gain[:, 1:] * error
        variance[rows, :2] = (1 - gain[:, :1]) * prior[:, :2]
        variance[rows, 2] = prior[:, 2] - gain[:, 1] * prior[:, 1]
        prior_size = size_variance[before] + RESIZE_STD_SIZES**2 * elapsed_s
        predicted_size_variance[rows] = prior_size
        size_gain = np.where(is_box[rows], prior_size / (prior_size + BOX_SIZE_STD_SIZES**2 * factor[rows]), 0)
        size[rows] = size[before] + size_gain[:, None] * (box_size[rows] - size[before])
        size_variance[rows] = (1 - size_gain) * prior_size
    for position in range(len(counts) - 2, -1, -1):
        rows = first[: counts[position + 1]] + position
        after = rows + 1
        gain_2x2 = _smoother_gain(variance[rows], predicted_variance[after], time_s[after] - time_s[rows])
        error = np.stack([centre[after] - predicted_centre[after], velocity[after] - velocity[rows]], axis=1)
        correction = gain_2x2 @ error
        centre[rows] += correction[:, 0]
        velocity[rows] += correction[:, 1]
        change = _as_matrices(variance[after] - predicted_variance[after])
        variance[rows] += (gain_2x2 @ change @ gain_2x2.transpose(0, 2, 1)).reshape(-1, 4)[:, [0, 1, 3]]
        size_gain = size_variance[rows] / predicted_size_variance[after]
        size[rows] += size_gain[:, None] * (size[after] - size[rows])
    return SmoothedBoxes(centre, velocity, size, variance)


def _smoother_gain(variance: np.ndarray, predicted: np.ndarray, elapsed_s: np.ndarray) -> np.ndarray:
    """Gain of the backward pass: variance times transposed transition times inverse of the predicted variance.

    Args:
        variance: Of the filtered state, shape (n, 3).
        predicted: Of the state predicted for the next row, shape (n, 3).
        elapsed_s: Time to the next row, shape (n,).

    Returns:
        Shape (n, 2, 2).
    """
    moved = _as_matrices(variance)
    moved[:, :, 0] += moved[:, :, 1] * elapsed_s[:, None]
    inverse = _as_matrices(predicted[:, ::-1])
    inverse[:, 0, 1] *= -1
    inverse[:, 1, 0] *= -1
    determinant = predicted[:, 0] * predicted[:, 2] - predicted[:, 1] ** 2
    return np.asarray(moved @ inverse / np.maximum(determinant, 1e-12)[:, None, None])


def _as_matrices(variance: np.ndarray) -> np.ndarray:
    return variance[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
