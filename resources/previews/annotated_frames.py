"""Small copies of frames with boxes and class names drawn on them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from resources.previews.image_encoding import TEXT_PX, load_font, to_array, to_pil_image

if TYPE_CHECKING:  # the media process draws nothing, so it does not load Pillow
    from PIL import ImageDraw

PREVIEW_SIDE_PX = 320

# Distinguishable on bright and dark frames, also with most forms of colour blindness.
_COLOURS = ((255, 176, 0), (100, 200, 255), (255, 110, 160), (140, 230, 90), (190, 140, 255), (255, 255, 120),
            (0, 210, 190), (255, 130, 70))  # fmt: skip
DARK_COLOURS = ("#b45f06", "#1c6fb5", "#b83280", "#2f7d32", "#6b46c1", "#8a6d00", "#00796b", "#c53030")


def class_colour(number: int) -> tuple[int, int, int]:
    """The colour of a class by its number, as RGB."""
    return _COLOURS[number % len(_COLOURS)]


def shrink_to_preview(image: np.ndarray) -> np.ndarray:
    """Copy an image so that its longer side has at most `PREVIEW_SIDE_PX` pixels.

    Args:
        image: uint8 array of shape (height_px, width_px, 3).
    """
    import cv2

    size = preview_size(image.shape[1], image.shape[0])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def preview_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height that fit into a square of `PREVIEW_SIDE_PX`, at least 1 each, never enlarged."""
    scale = min(1.0, PREVIEW_SIDE_PX / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def annotate_image(
    image: np.ndarray,
    xyxy: np.ndarray,
    names: Sequence[str],
    class_id: Sequence[int],
    polygons: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draw boxes and class names on a copy of an image; a name that would overlap an earlier one is left out.

    Args:
        image: uint8 BGR array of shape (height_px, width_px, 3); not modified.
        xyxy: Corners of the boxes as fractions of its width and height, shape (n, 4), the most important box first.
        names: Class name of each box.
        class_id: Class id of each box, which determines its colour.
        polygons: Outlines of the detection region as fractions of width and height, arrays of shape (corners, 2).

    Returns:
        uint8 BGR array of the same shape.
    """
    from PIL import ImageDraw

    canvas = to_pil_image(image)
    draw, size = ImageDraw.Draw(canvas), np.array(canvas.size)
    for polygon in polygons:
        draw.polygon([tuple(point) for point in (polygon * (size - 1)).tolist()], outline=(255, 255, 255))
    boxes = (np.clip(xyxy, 0, 1).reshape(-1, 2, 2) * (size - 1)).round().astype(int).reshape(-1, 4)
    # The most important box is drawn last, so that it is on top of the others.
    for box, number in reversed(list(zip(boxes.tolist(), class_id, strict=True))):
        draw.rectangle(box, outline=class_colour(number))
    labels: list[tuple[float, float, float, float]] = []
    for box, name, number in zip(boxes.tolist(), names, class_id, strict=True):
        text = drawable_name(name, f"class {number}")
        _draw_label(draw, box, text, class_colour(number), canvas.size, labels)
    return to_array(canvas)


def _draw_label(
    draw: "ImageDraw.ImageDraw",
    box: Sequence[int],
    text: str,
    colour: tuple[int, int, int],
    image_size: tuple[int, int],
    labels: list[tuple[float, float, float, float]],
) -> None:
    """Draw a label above a box, or inside it where there is no space above; skip it where it overlaps another label.

    Args:
        draw: The canvas.
        box: Corners of the box in pixels.
        text: Text of the label.
        colour: RGB background of the label.
        image_size: Width and height of the image in pixels.
        labels: Corners of the labels drawn so far; the new one is appended.
    """
    width, height = load_font().getlength(text) + 2, TEXT_PX + 2
    left = max(0.0, min(float(box[0]), image_size[0] - width))
    top = box[1] - height if box[1] >= height else box[1]
    label = (left, top, left + width, top + height)
    if any(_do_overlap(label, drawn_label) for drawn_label in labels):
        return
    labels.append(label)
    draw.rectangle(label, fill=colour)
    draw.text((left + 1, top + height / 2), text, fill=(0, 0, 0), font=load_font(), anchor="lm")


def _do_overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two rectangles of corners (x_min, y_min, x_max, y_max) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def drawable_name(name: str, fallback: str) -> str:
    """The name, or the fallback where the font lacks some of its letters."""
    missing_glyph = bytes(load_font().getmask("\uffff"))  # not a character: every font draws its missing-glyph box
    return fallback if any(bytes(load_font().getmask(letter)) == missing_glyph for letter in set(name)) else name
