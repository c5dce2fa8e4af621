"""Estimates from the boxes alone how an unsteady camera moved from frame to frame.

The displacement of a tracked box is the object's own movement, which changes slowly, plus the shake of the camera,
which all boxes of a frame share, plus the error of the box. The object's movement is estimated as the mean displacement
of its neighbouring frames. What is left over is correlated between the boxes of a frame exactly if the camera shakes,
so the mean product of two boxes' remainders is the variance of the shake (the "between groups" component of a
random-effects analysis of variance; Searle, Casella and McCulloch, "Variance Components", 1992, 3.6). The shake of a
frame is the mean remainder of its boxes, shrunk by that variance and robust against single wrong matches (Huber). A
steady pan is left to the objects' own movements.
"""

import numpy as np

_WINDOW_S = 0.5  # an object's own movement is its mean displacement over this time before and after a frame
_ROUNDS = 4  # of estimating the movements of the objects and that of the camera in turn
_HUBER_STDS = 1.5
_MIN_SHARE = 0.05  # with a smaller share of the variance of a box's error, the camera counts as fixed


def estimate_camera_motion(
    track_id: np.ndarray, frame_index: np.ndarray, xyxy: np.ndarray, rate_fps: float, frame_count: int
) -> np.ndarray:
    """Estimate the shake of the camera from the boxes of tracked objects.

    Args:
        track_id: Sorted, shape (n,).
        frame_index: From 0, ascending within each track, shape (n,).
        xyxy: Corners in pixels, shape (n, 4).
        rate_fps: Frames per second.
        frame_count: Number of frames.

    Returns:
        Displacement of the picture from the frame before, px, shape (frame_count, 2); 0 along an axis without shake.
    """
    centre, size = (xyxy[:, :2] + xyxy[:, 2:]) / 2, np.sqrt((xyxy[:, 2:] - xyxy[:, :2]).clip(1).prod(axis=1))
    before = np.flatnonzero((np.diff(track_id) == 0) & (np.diff(frame_index) == 1))
    moved, size, frame = centre[before + 1] - centre[before], size[before], frame_index[before + 1]
    motion = np.zeros((frame_count, 2))
    if not len(before):
        return motion
    # The frames of one track follow those of another: an offset per track makes all of them ascend.
    window = max(1, round(_WINDOW_S * rate_fps))
    clock = track_id[before].astype(np.int64) * (frame_count + 2 * window + 1) + frame
    first, end = np.searchsorted(clock, clock - window), np.searchsorted(clock, clock + window, side="right")
    pair_count = max(int((np.bincount(frame) * (np.bincount(frame) - 1)).sum()), 1)
    for _ in range(_ROUNDS):
        total = np.concatenate([np.zeros((1, 2)), np.cumsum(moved - motion[frame], axis=0)])
        remainder = moved - (total[end] - total[first]) / (end - first)[:, None]
        for axis in range(2):
            motion[:, axis] = _common_motion(remainder[:, axis], size, frame, pair_count, frame_count)
    return motion


def _common_motion(
    remainder: np.ndarray, size: np.ndarray, frame: np.ndarray, pair_count: int, frame_count: int
) -> np.ndarray:
    """What the remainders of each frame's boxes have in common, along one axis, shape (frame_count,)."""
    sums, squares = (np.bincount(frame, values, frame_count) for values in (remainder, remainder**2))
    shake_variance = (sums**2 - squares).sum() / pair_count
    error_std = np.maximum(1.4826 * np.median(np.abs(remainder / size)) * size, 1e-6)
    if shake_variance <= _MIN_SHARE * np.median(error_std) ** 2:
        return np.zeros(frame_count)
    weight = 1 / error_std**2
    motion = np.zeros(frame_count)
    for _ in range(3):
        robust_weight = weight * np.minimum(
            1, _HUBER_STDS / np.maximum(np.abs(remainder - motion[frame]) / error_std, 1e-9)
        )
        if not motion.any():
            robust_weight = weight
        motion = np.bincount(frame, robust_weight * remainder, frame_count) / (
            np.bincount(frame, robust_weight, frame_count) + 1 / shake_variance
        )
    return motion
