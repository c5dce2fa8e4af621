"""Images as JPEG within a size limit, images embedded in Markdown, and the font for text on images."""

import base64
import functools
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the media process draws nothing, so it does not load Pillow
    from PIL import Image, ImageFont


MAX_FRAME_BYTES, MAX_SHEET_BYTES = 15_000, 20_000
_JPEG_QUALITIES = (75, 60, 45, 30, 15)
TEXT_PX = 11
MARGIN_PX = 4


def encode_jpeg(image: np.ndarray, max_bytes: int) -> bytes:
    """Encode an image as JPEG of limited size: first the quality is reduced, then the resolution.

    Args:
        image: uint8 BGR array of shape (height_px, width_px, 3).
        max_bytes: The largest size; only an image of a single pixel may exceed it.
    """
    pil_image = to_pil_image(image)
    while True:
        for quality in _JPEG_QUALITIES:
            buffer = io.BytesIO()
            pil_image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= max_bytes or pil_image.size == (1, 1):
                return buffer.getvalue()
        pil_image = pil_image.resize((max(1, pil_image.width * 3 // 4), max(1, pil_image.height * 3 // 4)))


def embed_in_markdown(image: bytes | str, alt_text: str) -> str:
    """Embed an image in Markdown as a data URL, for Dagster's UI.

    Args:
        image: A JPEG file, or an SVG document.
        alt_text: Description of the image for screen readers.
    """
    subtype, content = ("svg+xml", image.encode()) if isinstance(image, str) else ("jpeg", image)
    return f"![{alt_text}](data:image/{subtype};base64,{base64.b64encode(content).decode()})"


@functools.cache
def load_font() -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """Load DejaVu Sans (Latin, Greek, Cyrillic, Arabic) from matplotlib's files; else the default font of Pillow."""
    from PIL import ImageFont

    matplotlib = importlib.util.find_spec("matplotlib")
    for folder in matplotlib.submodule_search_locations or () if matplotlib else ():
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.exists():
            return ImageFont.truetype(file, TEXT_PX)
    return ImageFont.load_default(TEXT_PX)


def to_pil_image(image: np.ndarray) -> "Image.Image":
    """Convert a BGR array to a Pillow image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))


def to_array(image: "Image.Image") -> np.ndarray:
    """Convert a Pillow image to a BGR array of shape (height_px, width_px, 3)."""
    return np.asarray(image)[..., ::-1]
