"""Draws on the planes of a decoded frame, so that no frame is converted to RGB and back."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.frame import VideoFrame

if TYPE_CHECKING:
    from PIL import ImageFont

_BT709 = np.array([[0.1826, 0.6142, 0.0620], [-0.1006, -0.3386, 0.4392], [0.4392, -0.3989, -0.0403]])
_OFFSETS = np.array([16.0, 128.0, 128.0])
_TEXT_BACKGROUND = (0, 0, 0)
COVER_YUV = (110, 128, 128)
"""The grey that covers what must not be seen."""
_MIXED_PX = 4  # at the edge of a covered area, which the encoder mixes with what lies around it


@dataclass(frozen=True)
class FrameCanvas:
    """The three planes of a yuv420p frame; what is drawn changes them.

    Attributes:
        frame: The frame as one array, from which a new frame is made.
        planes: Luma at full size, and both chroma planes at half of it; views of `frame`.
        scale: Pixels of the frame, horizontally and vertically, per pixel of what is drawn.
    """

    frame: np.ndarray
    planes: tuple[np.ndarray, np.ndarray, np.ndarray]
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, frame: VideoFrame, size_px: tuple[int, int] | None = None) -> "FrameCanvas":
        """Copy a frame; its sides are even.

        Args:
            frame: The frame.
            size_px: Width and height of the picture in whose pixels is drawn; None is the frame itself.
        """
        if frame.format.name not in ("yuv420p", "yuvj420p"):
            frame = frame.reformat(format="yuv420p")
        array = frame.to_ndarray()
        height, width = frame.height, frame.width
        chroma = array[height:].reshape(2, height // 2, width // 2)
        scale = (width / size_px[0], height / size_px[1]) if size_px else (1.0, 1.0)
        return cls(array, (array[:height], chroma[0], chroma[1]), scale)

    def to_frame(self) -> VideoFrame:
        """A frame with what was drawn."""
        return av.VideoFrame.from_ndarray(self.frame, format="yuv420p")

    def draw_box(self, xyxy: Sequence[float], rgb: tuple[int, int, int], thickness_px: int) -> None:
        """Draw the outline of a box; corners in pixels."""
        import cv2

        for plane, value, scale in self._channels(rgb):
            left, top, right, bottom = (round(edge * scale) for edge in self._scaled(xyxy))
            thickness = max(1, round(thickness_px * scale * self.scale[1]))
            cv2.rectangle(plane, (left, top), (right, bottom), value, thickness)

    def draw_path(self, points: np.ndarray, rgb: tuple[int, int, int], thickness_px: int, *, is_closed: bool) -> None:
        """Draw a line through points in pixels, shape (n, 2)."""
        import cv2

        for plane, value, scale in self._channels(rgb):
            path = np.round(points * self.scale * scale).astype(np.int32)
            thickness = max(1, round(thickness_px * scale * self.scale[1]))
            cv2.polylines(plane, [path], is_closed, value, thickness)

    def draw_text(self, text: str, x_px: float, y_px: float, height_px: int, rgb: tuple[int, int, int]) -> None:
        """Draw a line of text on a dark field, moved so that it lies inside the frame.

        Args:
            text: The text.
            x_px: Left edge.
            y_px: Bottom edge.
            height_px: Height of the letters.
            rgb: Colour of the letters.
        """
        mask = text_mask(text, round(height_px * self.scale[1]))
        x_px, y_px = x_px * self.scale[0], y_px * self.scale[1]
        height, width = mask.shape
        frame_height, frame_width = self.planes[0].shape
        left = int(min(max(x_px, 0), max(0, frame_width - width))) // 2 * 2
        top = int(min(max(y_px - height, 0), max(0, frame_height - height))) // 2 * 2
        mask = mask[: frame_height - top, : frame_width - left].astype(np.uint16)
        half = mask[: mask.shape[0] // 2 * 2, : mask.shape[1] // 2 * 2]
        half = (half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2]) // 4
        ground = _to_yuv(_TEXT_BACKGROUND)
        for number, (plane, value, scale) in enumerate(self._channels(rgb)):
            part = mask if number == 0 else half
            y, x = round(top * scale), round(left * scale)
            blended = (part * value + (255 - part) * ground[number]) // 255
            plane[y : y + part.shape[0], x : x + part.shape[1]] = blended

    def make_unreadable(self, xyxy: Sequence[float]) -> None:
        """Fill a box with one grey, the same for every box, of which nothing can be recovered; corners in pixels."""
        left, top, right, bottom = self._scaled(xyxy)
        grown = (left - _MIXED_PX, top - _MIXED_PX, right + _MIXED_PX, bottom + _MIXED_PX)
        for plane, value, scale in zip(self.planes, COVER_YUV, (1.0, 0.5, 0.5), strict=True):
            left, top, right, bottom = plane_area(grown, scale, plane.shape)
            plane[top:bottom, left:right] = value

    def _scaled(self, xyxy: Sequence[float]) -> tuple[float, float, float, float]:
        """Corners in pixels of the frame."""
        (left, top, right, bottom), (x_scale, y_scale) = xyxy, self.scale
        return left * x_scale, top * y_scale, right * x_scale, bottom * y_scale

    def _channels(self, rgb: tuple[int, int, int]) -> list[tuple[np.ndarray, int, float]]:
        """Each plane with the value of a colour, and its scale."""
        return list(zip(self.planes, _to_yuv(rgb), (1.0, 0.5, 0.5), strict=True))


def plane_area(xyxy: Sequence[float], scale: float, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of a plane that a box touches: left, top, right and bottom, inside the plane and right after left.

    Args:
        xyxy: Corners in pixels of the frame.
        scale: Size of the plane in that of the frame.
        shape: Height and width of the plane.
    """
    height, width = shape[:2]
    left, top = (
        min(side, max(0, math.floor(edge * scale))) for side, edge in zip((width, height), xyxy[:2], strict=True)
    )
    right, bottom = (min(side, math.ceil(edge * scale)) for side, edge in zip((width, height), xyxy[2:], strict=True))
    return left, top, max(left, right), max(top, bottom)


@functools.cache
def _to_yuv(rgb: tuple[int, int, int]) -> list[int]:
    """BT.709, limited range."""
    return [int(value) for value in np.clip(np.round(_BT709 @ np.array(rgb) + _OFFSETS), 0, 255)]


@functools.lru_cache(maxsize=256)  # labels are the same on many frames
def text_mask(text: str, height_px: int) -> np.ndarray:
    """Draw text as a mask: 0 around the letters, 255 inside; uint8 array of shape (height_px, width), not writable."""
    from PIL import Image, ImageDraw

    font = _sized_font(max(8, round(height_px * 0.75)))
    width = max(1, round(font.getlength(text))) + height_px // 2
    image = Image.new("L", (width, height_px))
    ImageDraw.Draw(image).text((height_px // 4, height_px // 2), text, fill=255, font=font, anchor="lm")
    return np.asarray(image)


@functools.lru_cache(maxsize=8)
def _sized_font(size_px: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from resources.previews.image_encoding import load_font

    font = load_font()
    return font.font_variant(size=size_px) if hasattr(font, "font_variant") else font
