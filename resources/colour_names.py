"""Names of dominant colours: the eleven basic colour terms, by lightness, chroma and hue in CIELAB."""

from collections.abc import Sequence

import numpy as np

COLOUR_NAMES = ("black", "grey", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
"""The basic colour terms of Berlin and Kay, "Basic Color Terms", 1969."""
_BLACK, _GREY, _WHITE, _RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _PURPLE, _PINK, _BROWN = range(11)
_BLACK_BELOW, _WHITE_ABOVE = 22.0, 78.0  # lightness of pixels without a hue
_DARK_BELOW = 14.0  # lightness below which a hue is not seen
_GREY_BELOW = 9.0  # chroma; pixels of a dark picture have less of it
_HUES = (  # the last hue angle of each colour, in degrees
    (45.0, _RED), (68.0, _ORANGE), (108.0, _YELLOW), (195.0, _GREEN), (312.0, _BLUE), (335.0, _PURPLE), (352.0, _PINK),
    (360.0, _RED),
)  # fmt: skip
_BROWN_BELOW, _PINK_ABOVE = 55.0, 62.0  # lightness of dark orange, and of light red
_MAX_PIXELS = 4096


def measure_colours(image: np.ndarray) -> Sequence[tuple[str, float]]:
    """Measure which share of an image's pixels has each colour.

    Args:
        image: uint8 BGR array of shape (height_px, width_px, 3).

    Returns:
        Names of colours with their shares, most frequent first; colours that no pixel has are left out.
    """
    labels = _label_pixels(image)
    shares = np.bincount(labels, minlength=len(COLOUR_NAMES)) / len(labels)
    order = np.argsort(-shares, kind="stable")
    return [(COLOUR_NAMES[index], float(shares[index])) for index in order if shares[index] > 0]


def _label_pixels(image: np.ndarray) -> np.ndarray:
    """Index of the colour of each pixel, of large images of some of them; shape (n,)."""
    import cv2

    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / _MAX_PIXELS)))
    bgr = np.ascontiguousarray(image[::step, ::step]).astype(np.float32) / 255
    lightness, a, b = cv2.cvtColor(bgr, cv2.COLOR_BGR2LAB).reshape(-1, 3).T
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    labels = np.array([colour for _, colour in _HUES])[np.searchsorted([last for last, _ in _HUES[:-1]], hue)]
    is_reddish = labels == _RED
    labels[
        ((labels == _ORANGE) | (is_reddish & (hue > 25) & (hue < 180))) & (lightness < _BROWN_BELOW) & (chroma < 50)
    ] = _BROWN
    labels[(labels == _YELLOW) & (lightness < _BROWN_BELOW) & (hue < 90)] = _BROWN
    labels[is_reddish & (lightness > _PINK_ABOVE) & (chroma < 60)] = _PINK
    is_grey = chroma < _GREY_BELOW + 0.03 * lightness
    labels[is_grey] = np.where(
        lightness[is_grey] < _BLACK_BELOW, _BLACK, np.where(lightness[is_grey] > _WHITE_ABOVE, _WHITE, _GREY)
    )
    labels[lightness < _DARK_BELOW] = _BLACK
    return np.asarray(labels)
