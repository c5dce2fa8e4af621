"""Reads frames of a normalized video."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from resources.media.opening import opened


class Converter:
    """Makes arrays of a video's frames: setting a conversion up costs more than the conversion, so it is kept.

    Args:
        pixel_format: Format of the arrays, as ffmpeg names it.
    """

    def __init__(self, pixel_format: str = "bgr24") -> None:
        self._pixel_format, self._reformatter = pixel_format, VideoReformatter()

    def array(self, frame: VideoFrame) -> np.ndarray:
        """The picture of a frame, a uint8 array of shape (height_px, width_px, 3) for bgr24 and rgb24."""
        return self._reformatter.reformat(frame, format=self._pixel_format, threads=1).to_ndarray()


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
        converter = Converter(pixel_format)
        for index, frame in enumerate(container.decode(stream)):
            if remaining is None:
                yield index, converter.array(frame)
            elif index == next_wanted:
                yield index, converter.array(frame)
                next_wanted = next(remaining, None)
                if next_wanted is None:
                    return


def stored_frame_count(path: Path) -> int:
    """Frames that the header of a normalized video lists."""
    with opened(path) as container:
        return container.streams.video[0].frames
