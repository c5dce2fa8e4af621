"""Whether a frame still shows what the last one that the model saw shows."""

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from resources.footage import frames
from resources.media.reading import Converter
from resources.region import Region

_CELLS_WIDE = 80
_MAX_DECODING_THREADS = 16
_CHANGED_BY = 10  # levels, of a video's 219, by which the mean brightness or colour of a cell must differ


def changed_pictures(
    path: Path, wanted: Sequence[int], rate_fps: Fraction, unchanged: "Unchanged", *, shrunk_by: int = 1
) -> Generator[np.ndarray | None, None, None]:
    """Decode frames of a normalized video, and make pictures only of those that show something new.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.
        unchanged: Compares the frames.
        shrunk_by: How many times smaller pictures are made; see `Converter`.

    Yields:
        uint8 BGR arrays of shape (height_px, width_px, 3), None for a frame that looks like the last one that is given.
    """
    converter = Converter(shrunk_by=shrunk_by)
    # With one more than there are cores, as FFmpeg would have it, they wait longer for each other.
    threads = min(os.cpu_count() or 1, _MAX_DECODING_THREADS)
    with closing(frames(path, wanted, rate_fps, thread_count=threads)) as source:
        for frame in source:
            yield None if unchanged.since_last(frame) else converter.array(frame)


class Unchanged:
    """Compares frames, cell by cell, with the last one that was not the same.

    Args:
        region: The part of the frames that is looked at.
        fresh_every: Every so many frames one counts as changed whatever it looks like.
    """

    def __init__(self, region: Region, fresh_every: int | None = None) -> None:
        self._region, self._fresh_every, self._count = region, fresh_every, 0
        self._seen: np.ndarray | None = None

    def since_last(self, frame: VideoFrame) -> bool:
        """Whether no cell has changed.

        Args:
            frame: One of a normalized video: 8 bits, a plane of brightness and two of colour at half its size.
        """
        import cv2

        cells = self._cells(frame)
        is_due = self._fresh_every is not None and self._count % self._fresh_every == 0
        self._count += 1
        if not is_due and self._seen is not None and cv2.norm(cells, self._seen, cv2.NORM_INF) <= _CHANGED_BY:
            return True
        self._seen = cells
        return False

    def _cells(self, frame: VideoFrame) -> np.ndarray:
        """Mean brightness and both colour differences of the region's cells, one below the other."""
        region = self._region
        wide = min(_CELLS_WIDE, region.width_px)
        high = max(1, round(region.height_px * wide / region.width_px))
        cells = np.empty((3, high, wide), np.uint8)
        for plane, size_px, mean in zip(frame.planes, (1, 2, 2), cells, strict=True):
            values = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            rows = slice(region.top_px // size_px, -(-(region.top_px + region.height_px) // size_px))
            columns = slice(region.left_px // size_px, -(-(region.left_px + region.width_px) // size_px))
            _shrink(values[rows, columns], mean)
        return cells.reshape(3 * high, wide)


def _shrink(values: np.ndarray, into: np.ndarray) -> None:
    """Means of rectangles; large planes are halved first, which costs a third of averaging over all in one step."""
    import cv2

    while values.shape[1] >= 4 * into.shape[1] and not any(side % 2 for side in values.shape):
        values = cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.resize(values, into.shape[::-1], dst=into, interpolation=cv2.INTER_AREA)
