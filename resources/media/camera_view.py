"""What a camera looks at: a small picture of the background of a recording, and how it differs from earlier ones.

Two pictures are compared by orientation correlation (Fitch et al., "Orientation Correlation", BMVC 2002), with doubled
angles: only the directions of edges count, not their contrast nor its sign. So light and dark may change places, as
between day and night.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH_PX, _JPEG_QUALITY = 96, 90
_BLUR_PX = 1.0
_MIN_GRADIENT = 4.0  # weaker differences between neighbouring pixels are noise
_UNMOVED_SHARE = 0.025  # of the width; nearer pictures are at the same place
_MIN_PEAK = 8.0  # deviations of the correlation at other shifts: other scenes reach 7, the same one 10 and more
_MIN_ADVANTAGE = 1.25  # of the peak at another place over that at the same place, where the clock in the picture stays
_MAX_SHIFT = 0.45  # of width and height; with less in common, a peak is chance


def summarize_view(images: Sequence[np.ndarray]) -> np.ndarray:
    """Summarize frames of a recording as a small picture of its background, without what moves.

    Args:
        images: uint8 BGR arrays of the same shape (height_px, width_px, 3), spread over the recording.

    Returns:
        uint8 grey levels, 96 pixels wide.
    """
    import cv2

    height_px = max(1, round(images[0].shape[0] * _WIDTH_PX / images[0].shape[1]))
    small = [
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (_WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
        for image in images
    ]
    return np.asarray(np.median(np.stack(small), axis=0), np.uint8)


def encode_view(view: np.ndarray) -> bytes:
    """Encode a view as JPEG, some 2 kB."""
    import cv2

    return bytes(cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes())


def decode_view(jpeg: bytes) -> np.ndarray:
    """Decode a view to uint8 grey levels."""
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE))


@dataclass(frozen=True)
class ViewComparison:
    """How a view differs from earlier ones.

    Attributes:
        same_count: Number of earlier views that show the same at the same place.
        moved_count: Number of earlier views that show the same elsewhere.
        x_share: Median shift of the picture to the right since the latter, as a share of its width; 0 without any.
        y_share: The same downwards, as a share of the height.
    """

    same_count: int = 0
    moved_count: int = 0
    x_share: float = 0.0
    y_share: float = 0.0


def compare_views(view: np.ndarray, earlier: Sequence[np.ndarray]) -> ViewComparison:
    """Compare a view with earlier ones; those of another shape, and those that resemble it nowhere, do not count.

    Args:
        view: A result of `summarize_view`.
        earlier: Results for earlier recordings of the camera.
    """
    edges = _edge_directions(view)
    shifts, same_count = [], 0
    for other in earlier:
        if other.shape != view.shape:
            continue
        shift = _find_shift(edges, _edge_directions(other))
        if shift is None:
            continue
        if shift.any():
            shifts.append(shift)
        else:
            same_count += 1
    if not shifts:
        return ViewComparison(same_count)
    x_share, y_share = np.median(shifts, axis=0) / np.array(view.shape[::-1])
    return ViewComparison(same_count, len(shifts), float(x_share), float(y_share))


def _edge_directions(view: np.ndarray) -> np.ndarray:
    """Complex field whose angle is twice that of the edge, and whose size is 1 at clear edges and 0 without."""
    import cv2

    blurred = cv2.GaussianBlur(view.astype(np.float32), (0, 0), _BLUR_PX)
    gradient = np.gradient(blurred, axis=1) + 1j * np.gradient(blurred, axis=0)
    strength = np.abs(gradient)
    floor = max(_MIN_GRADIENT / 2, float(np.median(strength)))
    return np.asarray(gradient**2 / (strength**2 + floor**2))


def _find_shift(edges: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Shift of the edges from the other ones in whole pixels, shape (2,); zero at the same place, None if unknown."""
    height_px, width_px = edges.shape
    spectrum = np.fft.fft2(edges, (2 * height_px, 2 * width_px))
    spectrum = spectrum * np.conj(np.fft.fft2(other, (2 * height_px, 2 * width_px)))
    correlation = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    deviation = float(correlation.std())
    if deviation == 0:
        return None

    def within(x_px: int, y_px: int) -> np.ndarray:
        return correlation[height_px - y_px : height_px + y_px + 1, width_px - x_px : width_px + x_px + 1]

    max_x_px, max_y_px = round(_MAX_SHIFT * width_px), round(_MAX_SHIFT * height_px)
    tolerance_px = max(1, round(_UNMOVED_SHARE * width_px))
    reachable = within(max_x_px, max_y_px)
    peak, at_place = float(reachable.max()), float(within(tolerance_px, tolerance_px).max())
    if at_place >= _MIN_PEAK * deviation and peak < _MIN_ADVANTAGE * at_place:
        return np.zeros(2)
    if peak < _MIN_PEAK * deviation or peak < _MIN_ADVANTAGE * at_place:
        return None
    row, column = np.unravel_index(int(reachable.argmax()), reachable.shape)
    return np.array([column - max_x_px, row - max_y_px], float)
