"""The motion model of tracked boxes, which association and smoothing share.

The velocity of a box's centre is a random walk (the "continuous white noise acceleration" model of Bar-Shalom, Li and
Kirubarajan, "Estimation with Applications to Tracking and Navigation", 2001, 6.2.2), width and height are random walks.
Lengths are relative to the object's size (the square root of its box's area), times are in seconds, so that one set of
values serves near and far objects at any frame rate. A STD is a standard deviation.
"""

import numpy as np

BOX_CENTRE_STD_SIZES = 0.07  # error of a detected box's centre
BOX_SIZE_STD_SIZES = 0.15  # error of a detected box's width and height
INITIAL_SPEED_STD_SIZES_PER_S = 2.0  # speed of an object when it is first detected
RESIZE_STD_SIZES = 0.3  # change of the box's width and height, after one second
_DRIFT_STD_SIZES = 0.2  # deviation from constant velocity, after one second
_SPEED_CHANGE_STD_SIZES_PER_S = 0.4  # change of the velocity, after one second


def noise_factor(confidence: np.ndarray) -> np.ndarray:
    """Factor of the variance of a detected box: its error is taken as inverse to its confidence."""
    return np.asarray(1 / np.maximum(confidence, 0.1))


def initial_variance(factor: np.ndarray) -> np.ndarray:
    """Variance of an object's state at its first box.

    Args:
        factor: See `noise_factor`, shape (n,).

    Returns:
        Variance of the position, covariance of position and velocity, variance of the velocity, relative to the squared
        size of the object; shape (n, 3).
    """
    speed = np.full(len(factor), INITIAL_SPEED_STD_SIZES_PER_S**2)
    return np.column_stack([BOX_CENTRE_STD_SIZES**2 * factor, np.zeros(len(factor)), speed])


def predict_variance(variance: np.ndarray, elapsed_s: np.ndarray | float) -> np.ndarray:
    """Variance of a state after some time without a box, shape (n, 3) as in `initial_variance`."""
    position, covariance, speed = variance.T
    speed_change = _SPEED_CHANGE_STD_SIZES_PER_S**2
    position = position + 2 * elapsed_s * covariance + elapsed_s**2 * speed + speed_change * elapsed_s**3 / 3
    covariance = covariance + elapsed_s * speed + speed_change * elapsed_s**2 / 2
    return np.column_stack([position + _DRIFT_STD_SIZES**2 * elapsed_s, covariance, speed + speed_change * elapsed_s])
