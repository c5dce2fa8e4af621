"""The rectangle of a frame on which a model runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resources.config.section import Polygon
from resources.media.frame_reader import Image

_MARGIN_SHARE = 0.05  # of the frame's width and height, so that objects on the polygons' edge are completely visible


@dataclass(frozen=True)
class DetectionRegion:
    """The rectangle of a frame that encloses some polygons; without polygons, the whole frame.

    Attributes:
        left_px: Left edge of the rectangle.
        top_px: Top edge of the rectangle.
        width_px: Width of the rectangle.
        height_px: Height of the rectangle.
        polygons: Corners in pixels of the whole frame, arrays of shape (corners, 2).
    """

    left_px: int
    top_px: int
    width_px: int
    height_px: int
    polygons: tuple[np.ndarray, ...] = ()

    @classmethod
    def from_polygons(cls, polygons: Sequence[Polygon], width_px: int, height_px: int) -> "DetectionRegion":
        """Compute the region of some polygons.

        Args:
            polygons: Corners as shares of the frame's width and height.
            width_px: Width of the frame.
            height_px: Height of the frame.
        """
        if not polygons:
            return cls(0, 0, width_px, height_px)
        size_px = np.array([width_px, height_px])
        corners = [np.array(polygon, np.float64) * size_px for polygon in polygons]
        all_corners = np.concatenate(corners)
        low = np.floor((all_corners.min(axis=0) - _MARGIN_SHARE * size_px).clip(0)).astype(int)
        high = np.ceil(np.minimum(all_corners.max(axis=0) + _MARGIN_SHARE * size_px, size_px)).astype(int)
        return cls(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]), tuple(corners))

    def crop(self, image: Image) -> Image:
        """Crop a frame's image of shape (height_px, width_px, 3) to the rectangle; the result is a view."""
        return image[self.top_px : self.top_px + self.height_px, self.left_px : self.left_px + self.width_px]
