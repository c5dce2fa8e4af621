"""The callback through which long operations report their progress."""

from typing import Protocol

import numpy as np


class ReportProgress(Protocol):
    """A progress callback."""

    def __call__(self, done: int, total: int, image: np.ndarray | None = None, /) -> None:
        """Receive the progress.

        Args:
            done: Frames processed.
            total: Frames expected; 0 if unknown.
            image: A small image of a recently processed frame to show, uint8 BGR of shape (height_px, width_px, 3);
                None if there is none.
        """
        ...
