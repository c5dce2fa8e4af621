"""The rule by which the observations of a track decide its class, and every other attribute of it."""

import numpy as np

UNSURE = "unsure"
"""The value where the observations do not decide; the descriptions of the columns state the rule, too."""
_MIN_OBSERVATIONS = 3
_MIN_SHARE = 0.6


def is_decided(votes: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """Whether a value is that of its track: at least 3 observations, at least 60 % of which have it.

    Args:
        votes: Number of observations with the most frequent value, by track, shape (n,).
        observations: Number of all observations, shape (n,).
    """
    return np.asarray((observations >= _MIN_OBSERVATIONS) & (votes >= _MIN_SHARE * observations - 1e-9))
