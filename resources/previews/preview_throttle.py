"""Limits how often a running stage emits a preview, and passes preview images from the decoder to the detector."""

import time

import numpy as np

from resources.media.frame_reader import Image
from resources.previews.annotated_frames import shrink_to_preview

PREVIEW_INTERVAL_S, MAX_PREVIEWS_PER_RECORDING = 5.0, 40


class PreviewThrottle:
    """Limits the previews of a running stage to one per interval and to a maximum number per recording.

    The first preview is due one interval after the start, so a short stage emits none.
    """

    def __init__(self) -> None:
        self._last_s, self._last_frames_done = time.monotonic(), 0

    def is_due(self, frames_done: int, frames_total: int) -> bool:
        """Whether a preview is due now; if so, the interval starts again. A call costs next to nothing.

        Args:
            frames_done: Frames processed so far.
            frames_total: Frames expected; 0 if unknown.
        """
        now_s = time.monotonic()
        if (
            now_s - self._last_s < PREVIEW_INTERVAL_S
            or frames_done - self._last_frames_done < frames_total / MAX_PREVIEWS_PER_RECORDING
        ):
            return False
        self._last_s, self._last_frames_done = now_s, frames_done
        return True


class PreviewFrame:
    """Passes a small copy of a frame, when a preview is due, from the decoding thread to the thread that has its boxes.

    Args:
        frames_total: Frames expected; 0 if unknown.
    """

    def __init__(self, frames_total: int) -> None:
        self._throttle, self._frames_total = PreviewThrottle(), frames_total
        self._pending: tuple[int, np.ndarray] | None = None

    def store_if_due(self, position: int, image: Image) -> None:
        """Store a small copy of a frame if a preview is due and no earlier copy is pending.

        Args:
            position: Position of the frame in the order of processing.
            image: uint8 of shape (height_px, width_px, 3), in main memory or on a GPU.
        """
        if self._pending is None and self._throttle.is_due(position, self._frames_total):
            self._pending = position, shrink_to_preview(image if isinstance(image, np.ndarray) else image.cpu().numpy())

    def take(self, position: int) -> np.ndarray | None:
        """Remove and return the small copy of the frame at a position; None if none was stored."""
        if self._pending is None or self._pending[0] != position:
            return None
        image, self._pending = self._pending[1], None
        return image
