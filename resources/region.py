"""The part of a picture that a model looks at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from resources.footage import Picture
from resources.inference.postprocessing import Found
from resources.settings import Polygon

_MARGIN = 0.05  # of the picture, so that objects at the polygons' edge are seen whole


@dataclass(frozen=True)
class Region:
    """A rectangle of the picture that encloses some polygons; without polygons, the whole picture.

    Attributes:
        left_px: Left edge of the rectangle.
        top_px: Top edge of the rectangle.
        width_px: Width of the rectangle.
        height_px: Height of the rectangle.
        polygons: Corners in pixels of the picture, arrays of shape (corners, 2).
    """

    left_px: int
    top_px: int
    width_px: int
    height_px: int
    polygons: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, polygons: Sequence[Polygon], width_px: int, height_px: int) -> "Region":
        """The region of polygons whose corners are shares of a picture's width and height."""
        if not polygons:
            return cls(0, 0, width_px, height_px)
        size = np.array([width_px, height_px])
        corners = [np.array(polygon, np.float64) * size for polygon in polygons]
        every = np.concatenate(corners)
        low = np.floor((every.min(axis=0) - _MARGIN * size).clip(0)).astype(int)
        high = np.ceil(np.minimum(every.max(axis=0) + _MARGIN * size, size)).astype(int)
        return cls(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]), tuple(corners))

    def cut(self, picture: Picture) -> Picture:
        """The rectangle of a picture of shape (height_px, width_px, 3), a view of it."""
        return picture[self.top_px : self.top_px + self.height_px, self.left_px : self.left_px + self.width_px]

    def back(self, found: Found, *, of_picture: bool = False) -> Found:
        """What was found in the rectangle, in pixels of the whole picture: boxes with their centre in a polygon.

        Args:
            found: What was found.
            of_picture: Whether it was said of the rectangle as a whole, and so is kept wherever its centre lies.
        """
        if not self.polygons:
            return found
        by = np.array([self.left_px, self.top_px], np.float32)
        xyxy = found.xyxy + np.tile(by, 2)
        centres = (xyxy[:, :2] + xyxy[:, 2:]) / 2
        is_kept = np.any([is_inside(centres, polygon) for polygon in self.polygons], axis=0)
        kept = np.flatnonzero(is_kept | of_picture)
        shift = np.array([*by, 0], np.float32)
        return replace(
            found,
            xyxy=xyxy[kept],
            confidence=found.confidence[kept],
            class_id=found.class_id[kept],
            keypoints=None if found.keypoints is None else found.keypoints[kept] + shift,
            oriented=None if found.oriented is None else found.oriented[kept] + np.array([*by, 0, 0, 0], np.float32),
            polygons=None if found.polygons is None else [found.polygons[index] + by for index in kept],
            mask_areas=None if found.mask_areas is None else found.mask_areas[kept],
        )


def is_inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Which points lie in a polygon, by the even-odd rule.

    Args:
        points: Shape (n, 2).
        polygon: Corners in turn, shape (corners, 2).

    Returns:
        bool array of shape (n,).
    """
    x, y = points[:, :1], points[:, 1:]
    x_here, y_here = polygon[:, 0], polygon[:, 1]
    x_next, y_next = np.roll(x_here, -1), np.roll(y_here, -1)
    spans = (y_here > y) != (y_next > y)
    rise = np.where(y_next == y_here, 1.0, y_next - y_here)
    crosses = x < x_here + (y - y_here) * (x_next - x_here) / rise
    return np.asarray((spans & crosses).sum(axis=1) % 2 == 1)
