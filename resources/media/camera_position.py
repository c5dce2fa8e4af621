"""Follows how a moving camera shifts the picture, from small pictures of the frames.

Each frame is compared with a reference picture, not with the frame before, so that the errors of a shaking camera do
not add up: the first frame is a reference, and where the picture has moved far from all references its frame becomes
one. A camera that turns back finds the references of its way again. Corners of the reference are found again in the
frame (Lucas-Kanade: Bouguet, "Pyramidal Implementation of the Lucas Kanade Feature Tracker", 2001), and the shift that
most of them agree on is that of the camera. Turning about the optical axis and zoom are not followed.

Most cameras stand still, and most of their frames are recognized as unmoved without it: the difference of a block of
pixels from the reference, divided by the difference that a shift by a pixel would make, estimates its shift.
"""

import itertools
from dataclasses import dataclass

import numpy as np

_BLOCKS = (16, 9)  # of a picture, for the test whether it has moved at all
_UNMOVED_PX = 0.3  # the picture counts as unmoved below this; also shifts that are measured
_MIN_GRADIENT = 1.0  # blocks with a smaller mean difference between neighbouring pixels show no movement
_MIN_TEXTURED_BLOCKS = 8
_CELL_CORNERS, _CORNER_QUALITY, _CORNER_DISTANCE_PX = 8, 0.02, 6  # of each cell of the grid
_MIN_EIGENVALUE = 1e-4
_WINDOW_PX, _PYRAMID_LEVELS = 11, 2
_AGREEMENT_PX = 0.7  # corners whose shifts differ by less agree
_MIN_AGREEING, _MIN_AGREEING_SHARE = 8, 0.25  # of the corners that are found again
_GRID, _MIN_AGREEING_CELLS = (4, 3), 5  # of the picture: a single large object covers fewer of its cells
_MIN_UNMOVED_SHARE = 0.4  # with as many unmoved corners, compared with those that agree, the camera stands still
_MAX_SHIFT_SHARE = 0.2  # of width and height; a frame shifted further becomes a reference
_MAX_REFERENCES = 64
_REFRESH_FRAMES = 500  # an unmoved reference is replaced after this many frames, because light and objects change
_MAX_LOST_FRAMES = 5  # after as many frames that match no reference, the next one becomes one


@dataclass
class _Reference:
    """A picture with a known position.

    Attributes:
        luma: uint8, shape (height, width).
        position_px: Shift of its content from that of the first frame, shape (2,).
        gradient: Mean difference between neighbouring pixels of each block.
        corners: Places that can be found again, float32, shape (n, 1, 2).
        frame_index: The frame that it shows.
    """

    luma: np.ndarray
    position_px: np.ndarray
    gradient: np.ndarray
    corners: np.ndarray
    frame_index: int

    @classmethod
    def of(cls, luma: np.ndarray, position_px: np.ndarray, frame_index: int) -> "_Reference":
        import cv2

        steps_x = cv2.absdiff(luma[:, 1:], luma[:, :-1]).astype(np.float32)
        steps_y = cv2.absdiff(luma[1:], luma[:-1]).astype(np.float32)
        gradient = (_block_means(steps_x) + _block_means(steps_y)) / 2
        return cls(luma.copy(), position_px, gradient, _find_corners(luma), frame_index)


def _find_corners(luma: np.ndarray) -> np.ndarray:
    """The best corners of each cell of the grid, because a large object may have the best of the whole picture."""
    import cv2

    edges = [np.linspace(0, size, count + 1).astype(int) for size, count in zip(luma.shape[::-1], _GRID, strict=True)]
    found = [np.empty((0, 1, 2), np.float32)]
    for left, right in itertools.pairwise(edges[0].tolist()):
        for top, bottom in itertools.pairwise(edges[1].tolist()):
            cell = luma[top:bottom, left:right]
            corners = cv2.goodFeaturesToTrack(cell, _CELL_CORNERS, _CORNER_QUALITY, _CORNER_DISTANCE_PX)
            if corners is not None:
                found.append(corners + np.array([left, top], np.float32))
    return np.concatenate(found)


class CameraPosition:
    """Follows the shift of the picture over a video."""

    def __init__(self) -> None:
        self._references: list[_Reference] = []
        self._position_px = np.zeros(2)
        self._frame_count = self._lost_count = 0
        self._previous: tuple[np.ndarray, np.ndarray] | None = None  # picture and position of the last known frame

    def add(self, small_luma: np.ndarray) -> tuple[float, float]:
        """Measure the next frame.

        Args:
            small_luma: Its luma, uint8, shape (height, width), some 180 pixels high. Where the shape changes, the
                measurement starts again from the last position.

        Returns:
            How far its content lies right of, and below, that of the first frame, in pixels of the small picture. A
            frame that shows something else than those before has the position of the last one that does not.
        """
        frame_index, self._frame_count = self._frame_count, self._frame_count + 1
        if not self._references or self._references[0].luma.shape != small_luma.shape:
            self._references = [_Reference.of(small_luma, self._position_px, frame_index)]
            self._previous = None  # of another shape, it cannot be compared
            return self._position()
        distances = [np.abs(reference.position_px - self._position_px).max() for reference in self._references]
        number = int(np.argmin(distances))
        reference = self._references[number]
        shift_px = self._measure(reference, small_luma)
        is_near = shift_px is not None
        if shift_px is None and self._previous is not None:  # less of the previous frame has left the picture
            reference = _Reference.of(*self._previous, frame_index)
            shift_px = self._measure(reference, small_luma)
        self._lost_count = 0 if shift_px is not None else self._lost_count + 1
        if shift_px is None:
            if self._lost_count > _MAX_LOST_FRAMES:
                self._add_reference(small_luma, frame_index)
            return self._position()
        self._position_px = reference.position_px + shift_px
        self._previous = small_luma.copy(), self._position_px
        if not is_near:
            self._add_reference(small_luma, frame_index)
        elif not shift_px.any() and frame_index - reference.frame_index > _REFRESH_FRAMES:
            self._references[number] = _Reference.of(small_luma, reference.position_px, frame_index)
        elif (np.abs(shift_px) > _MAX_SHIFT_SHARE * np.array(small_luma.shape[::-1])).any():
            self._add_reference(small_luma, frame_index)
        return self._position()

    def _position(self) -> tuple[float, float]:
        return float(self._position_px[0]), float(self._position_px[1])

    def _add_reference(self, luma: np.ndarray, frame_index: int) -> None:
        self._references = self._references[-_MAX_REFERENCES + 1 :]
        self._references.append(_Reference.of(luma, self._position_px, frame_index))
        self._lost_count = 0

    def _measure(self, reference: _Reference, luma: np.ndarray) -> np.ndarray | None:
        """Shift of a picture from a reference, exactly 0 if it is unmoved; None if they do not match."""
        import cv2

        is_textured = reference.gradient >= _MIN_GRADIENT
        if is_textured.sum() >= _MIN_TEXTURED_BLOCKS:
            difference = _block_means(cv2.absdiff(luma, reference.luma))[is_textured]
            if np.median(difference / reference.gradient[is_textured]) < _UNMOVED_PX:
                return np.zeros(2)
        if len(reference.corners) < _MIN_AGREEING:
            return None
        # The search begins where the previous frame was.
        expected = reference.corners + (self._position_px - reference.position_px).astype(np.float32)
        places, is_found, _ = cv2.calcOpticalFlowPyrLK(
            reference.luma,
            luma,
            reference.corners,
            expected.copy(),
            winSize=(_WINDOW_PX, _WINDOW_PX),
            maxLevel=_PYRAMID_LEVELS,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            minEigThreshold=_MIN_EIGENVALUE,
        )
        is_found = is_found.ravel() > 0
        shifts, corners = (places - reference.corners)[is_found, 0], reference.corners[is_found, 0]
        cells = (corners * np.array(_GRID) / luma.shape[::-1]).astype(int) @ np.array([1, _GRID[0]])
        return _largest_agreement(shifts, cells)


def _largest_agreement(shifts: np.ndarray, cells: np.ndarray) -> np.ndarray | None:
    """Mean of the largest group of shifts that agree, shape (2,); None if too few do, or in one part of the picture.

    Args:
        shifts: Of each corner, shape (n, 2).
        cells: Cell of the grid in which each corner is, shape (n,).
    """
    if len(shifts) < _MIN_AGREEING:
        return None
    agrees = np.abs(shifts[:, None] - shifts[None]).max(axis=2) < _AGREEMENT_PX
    counts = agrees.sum(axis=1)
    best = int(np.argmax(counts))
    is_unmoved = np.abs(shifts).max(axis=1) < _UNMOVED_PX
    for is_agreeing, min_count in (
        (is_unmoved, max(_MIN_AGREEING, _MIN_UNMOVED_SHARE * counts[best])),
        (agrees[best], max(_MIN_AGREEING, _MIN_AGREEING_SHARE * len(shifts))),
    ):
        if is_agreeing.sum() >= min_count and len(np.unique(cells[is_agreeing])) >= _MIN_AGREEING_CELLS:
            mean: np.ndarray = shifts[is_agreeing].mean(axis=0).astype(float)
            return np.zeros(2) if is_agreeing is is_unmoved or np.abs(mean).max() < _UNMOVED_PX else mean
    return None


def _block_means(values: np.ndarray) -> np.ndarray:
    import cv2

    return np.asarray(cv2.resize(values.astype(np.float32, copy=False), _BLOCKS, interpolation=cv2.INTER_AREA))
