"""Resizing of images to a network's input, and mapping of points back to frame pixels, as Ultralytics does it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from resources.inference.weights_description import STRIDE_PX, ModelWeights

PADDING_GREY = 114


class InputFit(Protocol):
    """How images of one size are resized to a network's input."""

    @property
    def input_width_px(self) -> int:
        """Width of the network's input."""
        ...

    @property
    def input_height_px(self) -> int:
        """Height of the network's input."""
        ...

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Resize a uint8 image of shape (height_px, width_px, 3) to (input_height_px, input_width_px, 3)."""
        ...


@dataclass(frozen=True)
class Letterbox:
    """Scaling and padding of an image to the network's input, and the inverse for points.

    The same geometry as Ultralytics' `LetterBox`: scaled to the longer side, padded to a multiple of the stride, or to
    the only input size of an exported network. `scale_y` differs from `scale` only if the image is stretched.
    """

    input_width_px: int
    input_height_px: int
    scaled_width_px: int
    scaled_height_px: int
    left_px: int
    top_px: int
    scale: float
    scale_y: float

    @classmethod
    def for_stride(cls, width_px: int, height_px: int, image_size_px: int, stride_px: int = STRIDE_PX) -> "Letterbox":
        """Compute the letterbox into an input whose sides are multiples of a stride.

        Args:
            width_px: Width of the image.
            height_px: Height of the image.
            image_size_px: Longer side of the scaled image.
            stride_px: The network's largest stride.
        """
        scale = min(image_size_px / width_px, image_size_px / height_px)
        scaled_width, scaled_height = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        return cls._with_padding(
            scaled_width, scaled_height, -scaled_width % stride_px, -scaled_height % stride_px, scale
        )

    @classmethod
    def for_input_size(cls, width_px: int, height_px: int, input_width_px: int, input_height_px: int) -> "Letterbox":
        """Compute the letterbox into an input of exactly this size."""
        scale = min(input_width_px / width_px, input_height_px / height_px)
        scaled_width, scaled_height = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        return cls._with_padding(
            scaled_width, scaled_height, input_width_px - scaled_width, input_height_px - scaled_height, scale
        )

    @classmethod
    def stretched(cls, width_px: int, height_px: int, input_width_px: int, input_height_px: int) -> "Letterbox":
        """Compute the letterbox without padding, which does not keep the shape of the image."""
        scale_x, scale_y = input_width_px / width_px, input_height_px / height_px
        return cls(input_width_px, input_height_px, input_width_px, input_height_px, 0, 0, scale_x, scale_y)

    @classmethod
    def _with_padding(cls, width_px: int, height_px: int, pad_x_px: int, pad_y_px: int, scale: float) -> "Letterbox":
        # An odd pixel of padding goes to the right and to the bottom, as in Ultralytics.
        left, top = round(pad_x_px / 2 - 0.1), round(pad_y_px / 2 - 0.1)
        return cls(width_px + pad_x_px, height_px + pad_y_px, width_px, height_px, left, top, scale, scale)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """See `InputFit.apply`."""
        import cv2

        size = (self.scaled_width_px, self.scaled_height_px)
        if (self.input_width_px, self.input_height_px) == size:
            return image if image.shape[1::-1] == size else cv2.resize(image, size)
        letterboxed = np.empty((self.input_height_px, self.input_width_px, 3), np.uint8)
        bottom_px, right_px = self.top_px + size[1], self.left_px + size[0]
        for padding in (
            letterboxed[: self.top_px],
            letterboxed[bottom_px:],
            letterboxed[self.top_px : bottom_px, : self.left_px],
            letterboxed[self.top_px : bottom_px, right_px:],
        ):
            padding[:] = PADDING_GREY
        inside = letterboxed[self.top_px : bottom_px, self.left_px : right_px]
        if image.shape[1::-1] == size:
            inside[:] = image
        else:
            cv2.resize(image, size, dst=inside)
        return letterboxed

    def to_frame_pixels(self, xy: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
        """Map points from input pixels to pixels of the image before letterboxing, clipped to its edges.

        Args:
            xy: x and y in turn along the last axis, shape (..., 2 * points).
            width_px: Width of the image before letterboxing.
            height_px: Height of that image.

        Returns:
            float32 array of the same shape.
        """
        count = xy.shape[-1] // 2
        unscaled = (xy - np.array([self.left_px, self.top_px] * count, np.float32)) / np.array(
            [self.scale, self.scale_y] * count, np.float32
        )
        return np.clip(unscaled, 0, np.array([width_px, height_px] * count, np.float32))


@dataclass(frozen=True)
class CentreCrop:
    """Resizing of an image to a classifier's input: the shorter side is scaled to the input's, the centre cropped."""

    input_width_px: int
    input_height_px: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        """See `InputFit.apply`."""
        from PIL import Image  # its scaling averages over all pixels, unlike OpenCV's linear interpolation

        height_px, width_px = image.shape[:2]
        scale = max(self.input_width_px / width_px, self.input_height_px / height_px)
        size = (
            max(self.input_width_px, int(width_px * scale)),
            max(self.input_height_px, int(height_px * scale)),
        )
        scaled_image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        left, top = round((size[0] - self.input_width_px) / 2), round((size[1] - self.input_height_px) / 2)
        return np.ascontiguousarray(scaled_image[top : top + self.input_height_px, left : left + self.input_width_px])


def choose_input_fit(
    model: ModelWeights, width_px: int, height_px: int, image_size_px: int | None
) -> Letterbox | CentreCrop:
    """Choose how images of one size are resized to a model's input.

    Args:
        model: The weights; an exported network with a single input size keeps that size.
        width_px: Width of the images.
        height_px: Height of the images.
        image_size_px: Longer side of the input; None means the size that the model was trained with.
    """
    size_px = image_size_px or model.image_size_px
    if model.task == "classify":
        return CentreCrop(model.input_width_px or size_px, model.input_height_px or size_px)
    if model.network is not None and model.network.resize == "stretch":
        return Letterbox.stretched(
            width_px, height_px, model.input_width_px or size_px, model.input_height_px or size_px
        )
    if model.input_width_px and model.input_height_px:
        return Letterbox.for_input_size(width_px, height_px, model.input_width_px, model.input_height_px)
    return Letterbox.for_stride(width_px, height_px, size_px, model.stride_px)
