"""Whether a frame still shows what the last one that the model saw shows."""

import itertools
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
from av.video.frame import VideoFrame

from resources.footage import frames
from resources.inference.prefetch import Prefetch
from resources.media.reading import Converter
from resources.region import Region

_CELLS_WIDE = 80
_MAX_DECODING_THREADS = 16
_PARTS_AT_ONCE, _PICTURES_AHEAD = 4, 2  # of each part so many pictures wait for their turn
_CHANGED_BY = 10  # levels, of a video's 219, by which the mean brightness or colour of a cell must differ

_Changed: TypeAlias = tuple[int, "np.ndarray | None"]
"""How many frames look like the last picture that was given, and the next that does not; None at the end."""


def changed_pictures(
    path: Path, wanted: Sequence[int], rate_fps: Fraction, region: Region, part_frames: int, *, shrunk_by: int = 1
) -> Generator[np.ndarray | None, None, None]:
    """Decode frames of a normalized video, and make pictures only of those that show something new.

    Each part begins with a frame that counts as new, and is looked at by itself: several parts at once, because threads
    that decode one of them wait for each other, and where one is held up by the network the next go on.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.
        region: The part of the frames that is compared.
        part_frames: How many of the wanted frames are a part.
        shrunk_by: How many times smaller pictures are made; see `Converter`.

    Yields:
        uint8 BGR arrays of shape (height_px, width_px, 3), None for a frame that looks like the last one that is given.
    """
    parts = [wanted[first : first + part_frames] for first in range(0, len(wanted), part_frames)]
    at_once = max(1, min(len(parts), _PARTS_AT_ONCE))
    # With one more than there are cores, as FFmpeg would have it, they wait longer for each other.
    thread_count = min(os.cpu_count() or 1, _MAX_DECODING_THREADS // at_once)

    def begun(part: Sequence[int]) -> Prefetch[_Changed]:
        source = frames(path, part, rate_fps, thread_count=thread_count)
        return Prefetch(_changed(source, Unchanged(region), Converter(shrunk_by=shrunk_by), given_up), _PICTURES_AHEAD)

    ahead, given_up = deque[Prefetch[_Changed]](), threading.Event()
    try:
        ahead.extend(begun(part) for part in parts[:at_once])
        for number, part in enumerate(parts):
            count = 0
            for unchanged_count, picture in ahead[0]:
                yield from itertools.repeat(None, unchanged_count)
                count += unchanged_count
                if picture is not None:
                    yield picture
                    count += 1
            if count < len(part):
                return  # the file ends early: what a later part finds is of other frames than those that come next
            ahead.popleft().close()
            ahead.extend(begun(later) for later in parts[number + at_once : number + at_once + 1])
    finally:
        given_up.set()
        for prefetch in ahead:
            prefetch.close()


def _changed(
    source: Generator[VideoFrame, None, None], unchanged: "Unchanged", converter: Converter, given_up: threading.Event
) -> Generator[_Changed, None, None]:
    unchanged_count = 0
    with closing(source):
        for frame in source:
            if given_up.is_set():
                return
            if unchanged.since_last(frame):
                unchanged_count += 1
                continue
            yield unchanged_count, converter.array(frame)
            unchanged_count = 0
    yield unchanged_count, None


class Unchanged:
    """Compares frames, cell by cell, with the last one that was not the same.

    Args:
        region: The part of the frames that is looked at.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._seen: np.ndarray | None = None

    def since_last(self, frame: VideoFrame) -> bool:
        """Whether no cell has changed.

        Args:
            frame: One of a normalized video: 8 bits, a plane of brightness and two of colour at half its size.
        """
        import cv2

        cells = self._cells(frame)
        if self._seen is not None and cv2.norm(cells, self._seen, cv2.NORM_INF) <= _CHANGED_BY:
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
