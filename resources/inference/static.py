"""Whether a picture still shows what the last one that the model saw shows."""

import numpy as np

_CELLS_WIDE = 80
_CHANGED_BY = 12.0  # levels of 255 by which the mean brightness or colour of a cell must differ


class Unchanged:
    """Compares pictures, cell by cell, with the last one that was not the same.

    Args:
        fresh_every: Every so many pictures one counts as changed whatever it looks like; None means never.
    """

    def __init__(self, fresh_every: int | None) -> None:
        self._fresh_every, self._count = fresh_every, 0
        self._seen: np.ndarray | None = None

    def since_last(self, picture: np.ndarray) -> bool:
        """Whether no cell has changed.

        Args:
            picture: uint8 BGR array of shape (height_px, width_px, 3).
        """
        cells = _cells(picture)
        is_due = self._fresh_every is not None and self._count % self._fresh_every == 0
        self._count += 1
        if not is_due and self._seen is not None and np.abs(cells - self._seen).max() <= _CHANGED_BY:
            return True
        self._seen = cells
        return False


def _cells(picture: np.ndarray) -> np.ndarray:
    """Mean brightness and both colour differences of the picture's cells, float32 of shape (cells, cells, 3)."""
    import cv2

    height_px, width_px = picture.shape[:2]
    wide = min(_CELLS_WIDE, width_px)
    high = max(1, round(height_px * wide / width_px))
    small = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb), np.float32)
