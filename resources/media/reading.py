"""Reads frames of a normalized video."""

import functools
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from resources.media.opening import opened

# Red's and blue's weight in luma (ITU-R BT.601 and BT.709), by what the frame says; silent means BT.601, as swscale
# takes it.
_BT709, _BT601 = (0.2126, 0.0722), (0.299, 0.114)
SHRINKABLE = (2, 3)
"""How many times smaller a picture can be made for less than it costs to make it whole."""


class Converter:
    """Makes arrays of a video's frames: setting a conversion up costs more than the conversion, so it is kept.

    Args:
        pixel_format: Format of the arrays, as ffmpeg names it.
        shrunk_by: 1, or one of `SHRINKABLE` by which width and height can be divided: pictures are made so many times
            smaller, of a normalized video's frames and in bgr24.
    """

    def __init__(self, pixel_format: str = "bgr24", shrunk_by: int = 1) -> None:
        self._pixel_format, self._shrunk_by, self._reformatter = pixel_format, shrunk_by, VideoReformatter()
        # Kept, because fresh memory costs as much as what is written there.
        self._samples = np.empty((0, 0, 3), np.uint8)

    def array(self, frame: VideoFrame) -> np.ndarray:
        """The picture of a frame, a uint8 array of shape (height_px, width_px, 3) for bgr24 and rgb24."""
        if self._shrunk_by > 1:
            return self._shrunk(frame)
        return self._reformatter.reformat(frame, format=self._pixel_format, threads=1).to_ndarray()

    def _shrunk(self, frame: VideoFrame) -> np.ndarray:
        """A picture as linear interpolation shrinks it, made of no more luma and chroma samples than that needs.

        Halved, each pixel is the mean of four that share their chroma, so the colours' matrix may be applied to the
        mean as well as to each of the four. Of nine pixels, interpolation takes the one in the middle.
        """
        import cv2

        width_px, height_px = frame.width // self._shrunk_by, frame.height // self._shrunk_by
        if self._samples.shape != (height_px, width_px, 3):
            self._samples = np.empty((height_px, width_px, 3), np.uint8)
        planes = []
        for plane, sampled in zip(frame.planes, (1, 2, 2), strict=True):
            values = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            values = values[:, : frame.width // sampled]
            if values.shape != (height_px, width_px):
                how = cv2.INTER_AREA if self._shrunk_by == 2 else cv2.INTER_NEAREST_EXACT
                values = cv2.resize(values, (width_px, height_px), interpolation=how)
            planes.append(values)
        cv2.merge(planes, self._samples)
        matrix, offset = bgr_matrix(frame.colorspace == Colorspace.ITU709, frame.color_range == ColorRange.JPEG)
        return np.asarray(cv2.transform(self._samples, np.column_stack([matrix.T, offset])))


@functools.cache
def bgr_matrix(is_bt709: bool, is_full: bool) -> tuple[np.ndarray, np.ndarray]:
    """What makes blue, green and red of luma and chroma.

    Args:
        is_bt709: Whether the colours are those of ITU-R BT.709, else of BT.601.
        is_full: Whether values fill the whole range from 0 to 255.

    Returns:
        A float64 matrix of shape (3, 3), for rows of luma and both chroma values, and what is added, of shape (3,).

    ITU-R BT.709-6, items 3.2 to 3.5, solved for the three colours.
    """
    red, blue = _BT709 if is_bt709 else _BT601
    green = 1 - red - blue
    u_to_b, v_to_r = 2 * (1 - blue), 2 * (1 - red)
    light = 1.0 if is_full else 255 / 219
    colour = 1.0 if is_full else 255 / 224
    matrix = np.array(
        [
            [light, light, light],
            [u_to_b * colour, -u_to_b * blue / green * colour, 0.0],
            [0.0, -v_to_r * red / green * colour, v_to_r * colour],
        ]
    )
    return matrix, -np.array([0.0 if is_full else 16.0, 128.0, 128.0]) @ matrix


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
