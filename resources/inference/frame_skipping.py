"""Frame skipping: no inference on frames that have not changed since the last frame that the model received."""

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

from resources.inference.detection_region import DetectionRegion
from resources.inference.prefetch import Prefetch
from resources.media.frame_converter import FrameConverter
from resources.media.frame_reader import decode_frames

_MAX_CELLS_PER_ROW = 80
_MAX_DECODING_THREADS = 16
_CONCURRENT_CHUNKS = 4
_PREFETCHED_IMAGES = 2  # of each chunk
_MAX_UNCHANGED_LEVELS = 10  # of 219: a cell is unchanged if its mean luma and chroma differ by at most this

_ChangedImage: TypeAlias = tuple[int, "np.ndarray | None"]
"""The number of unchanged frames since the previous image, and the next changed image; None at the end."""


def decode_changed_frames(
    path: Path,
    frame_indices: Sequence[int],
    rate_fps: Fraction,
    region: DetectionRegion,
    chunk_frame_count: int,
    *,
    downscale_factor: int = 1,
) -> Generator[np.ndarray | None, None, None]:
    """Decode frames of a normalized video, and convert only the changed ones to images.

    The frames are processed in chunks, each independent of the others; its first frame counts as changed. Several
    chunks are decoded at once: the threads that decode one chunk wait for each other, and while one chunk waits for the
    network the next ones continue.

    Args:
        path: The MP4 file.
        frame_indices: Ascending frame indices.
        rate_fps: The video's constant rate.
        region: The region in which frames are compared.
        chunk_frame_count: Number of the requested frames in a chunk.
        downscale_factor: By how much images are downscaled; see `FrameConverter`.

    Yields:
        One uint8 BGR array of shape (height_px, width_px, 3) per changed frame, None per unchanged frame; fewer where
        the file ends early.
    """
    starts = range(0, len(frame_indices), chunk_frame_count)
    chunks = [frame_indices[start : start + chunk_frame_count] for start in starts]
    concurrent_count = max(1, min(len(chunks), _CONCURRENT_CHUNKS))
    # FFmpeg's default of one thread more than there are cores makes the threads wait longer for each other.
    thread_count = min(os.cpu_count() or 1, _MAX_DECODING_THREADS // concurrent_count)

    def prefetch(chunk: Sequence[int]) -> Prefetch[_ChangedImage]:
        frames = decode_frames(path, chunk, rate_fps, thread_count=thread_count)
        converter = FrameConverter(downscale_factor)
        return Prefetch(_convert_changed(frames, ChangeDetector(region), converter, is_stopped), _PREFETCHED_IMAGES)

    prefetches, is_stopped = deque[Prefetch[_ChangedImage]](), threading.Event()
    try:
        prefetches.extend(prefetch(chunk) for chunk in chunks[:concurrent_count])
        for number, chunk in enumerate(chunks):
            frame_count = 0
            for unchanged_count, image in prefetches[0]:
                yield from itertools.repeat(None, unchanged_count)
                frame_count += unchanged_count
                if image is not None:
                    yield image
                    frame_count += 1
            if frame_count < len(chunk):
                return  # the file ends early: images of later chunks would be taken for these missing frames
            prefetches.popleft().close()
            prefetches.extend(
                prefetch(next_chunk) for next_chunk in chunks[number + concurrent_count : number + concurrent_count + 1]
            )
    finally:
        is_stopped.set()
        for open_prefetch in prefetches:
            open_prefetch.close()


def _convert_changed(
    frames: Generator[VideoFrame, None, None],
    change_detector: "ChangeDetector",
    converter: FrameConverter,
    is_stopped: threading.Event,
) -> Generator[_ChangedImage, None, None]:
    unchanged_count = 0
    with closing(frames):
        for frame in frames:
            if is_stopped.is_set():
                return
            if change_detector.is_unchanged(frame):
                unchanged_count += 1
                continue
            yield unchanged_count, converter.to_bgr(frame)
            unchanged_count = 0
    yield unchanged_count, None


class ChangeDetector:
    """Compares each frame, cell by cell, with the last changed frame.

    Args:
        region: The region in which frames are compared.
    """

    def __init__(self, region: DetectionRegion) -> None:
        self._region = region
        self._last_changed_cells: np.ndarray | None = None

    def is_unchanged(self, frame: VideoFrame) -> bool:
        """Whether no cell differs from the last changed frame; a changed frame becomes the last changed frame.

        Args:
            frame: A frame of a normalized video (8-bit 4:2:0): a plane of luma, and two of chroma at half its size.
        """
        import cv2

        cells = self._mean_by_cell(frame)
        last_cells = self._last_changed_cells
        if last_cells is not None and cv2.norm(cells, last_cells, cv2.NORM_INF) <= _MAX_UNCHANGED_LEVELS:
            return True
        self._last_changed_cells = cells
        return False

    def _mean_by_cell(self, frame: VideoFrame) -> np.ndarray:
        """Compute the mean luma and both mean chroma values of the region's cells, shape (3 * rows, columns)."""
        region = self._region
        column_count = min(_MAX_CELLS_PER_ROW, region.width_px)
        row_count = max(1, round(region.height_px * column_count / region.width_px))
        means = np.empty((3, row_count, column_count), np.uint8)
        for plane, subsampling, plane_means in zip(frame.planes, (1, 2, 2), means, strict=True):
            values = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            rows = slice(region.top_px // subsampling, -(-(region.top_px + region.height_px) // subsampling))
            columns = slice(region.left_px // subsampling, -(-(region.left_px + region.width_px) // subsampling))
            _average_cells(values[rows, columns], plane_means)
        return means.reshape(3 * row_count, column_count)


def _average_cells(values: np.ndarray, means: np.ndarray) -> None:
    """Write the means of a plane's cells into `means`.

    Large planes are halved first, which costs a third of averaging over whole cells in one step.
    """
    import cv2

    while values.shape[1] >= 4 * means.shape[1] and not any(side % 2 for side in values.shape):
        values = cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.resize(values, means.shape[::-1], dst=means, interpolation=cv2.INTER_AREA)
