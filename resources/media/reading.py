"""Reads frames of a normalized video."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from resources.media.opening import opened


def read_frames(
    path: Path, pixel_format: str = "bgr24", wanted: Sequence[int] | None = None
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Decode a normalized video.

    Args:
        path: The MP4 file.
        pixel_format: Format of the arrays, as ffmpeg names it.
        wanted: Ascending frame indices; None yields all. Only these are converted.

    Yields:
        (frame_index, picture), the picture a uint8 array of shape (height_px, width_px, 3) for bgr24 and rgb24.
    """
    remaining = iter(wanted) if wanted is not None else None
    next_wanted = next(remaining, None) if remaining is not None else None
    with opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            if remaining is None:
                yield index, frame.to_ndarray(format=pixel_format)
            elif index == next_wanted:
                yield index, frame.to_ndarray(format=pixel_format)
                next_wanted = next(remaining, None)
                if next_wanted is None:
                    return


def stored_frame_count(path: Path) -> int:
    """Frames that the header of a normalized video lists."""
    with opened(path) as container:
        return container.streams.video[0].frames
