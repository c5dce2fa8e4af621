"""Stretches of a recording in which more moves than usually, by the stored motion of its frames."""

import numpy as np

_MEDIAN_S = 0.4  # longer than the pulse of a keyframe, or of a single damaged frame
_MIN_STRETCH_S = 0.5
_CALM_PERCENTILE = 25
_MIN_RISE, _MIN_RATIO, _MIN_SPREADS = 0.15, 1.3, 6.0
"""Above the calm quarter: grey levels, as a share of it, and in spreads of it; motion has to exceed all three."""
_PORTION_FRAMES = 100_000


def motion_stretches(motion: np.ndarray, rate_fps: float) -> list[tuple[int, int]]:
    """First and last frame of each stretch in which clearly more moves than in the calm quarter of a recording.

    A camera's noise, rain and trees are in the calm quarter, too, so that they are no motion. Where something moves in
    more than three quarters of the time, only what moves more is.

    Args:
        motion: Mean absolute difference of each frame from the one before, 0 to 255, shape (n,).
        rate_fps: Frame rate.
    """
    if len(motion) < 2:
        return []
    smooth = _running_median(motion, max(1, round(_MEDIAN_S * rate_fps) // 2))
    calm = float(np.percentile(smooth, _CALM_PERCENTILE))
    spread = float(np.median(np.abs(smooth[smooth <= calm] - calm)))
    limit = max(calm + _MIN_RISE, calm * _MIN_RATIO, calm + _MIN_SPREADS * spread)
    edges = np.flatnonzero(np.diff((smooth > limit).astype(np.int8), prepend=0, append=0))
    stretches = [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
    return [(first, last) for first, last in stretches if last - first + 1 >= _MIN_STRETCH_S * rate_fps]


def _running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Median of each value and those within a reach on both sides."""
    padded = np.pad(values.astype(np.float32), reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    portions = [
        np.median(windows[start : start + _PORTION_FRAMES], axis=1) for start in range(0, len(values), _PORTION_FRAMES)
    ]
    return np.concatenate(portions)
