"""The detections of a recording, read stretch by stretch, so that a recording of a day fits into memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

STRETCH_ROWS = 100_000
"""A stretch has about this many detections, which take some 100 MB while they are tracked."""


@dataclass(frozen=True)
class DetectionSource:
    """The detections of one recording.

    Attributes:
        read: Takes a first frame and an end frame; returns the rows of the frames between them, sorted by frame_index
            and detection_index.
        first_row: Number of detections before each frame, and in all, shape (frames + 1,).
        frame_time_s: Time of each frame, shape (frames,).
        rate_fps: Frames per second.
        is_repeated: Whether each frame repeats the one before, and so has no detections here, shape (frames,).
        frame_span: Number of frames from each analysed frame to the next, 0 for the other frames, shape (frames,).
        stretch_rows: Detections per stretch.
    """

    read: Callable[[int, int], pa.Table]
    first_row: np.ndarray
    frame_time_s: np.ndarray
    rate_fps: float
    is_repeated: np.ndarray
    frame_span: np.ndarray
    stretch_rows: int = STRETCH_ROWS

    @property
    def interval_s(self) -> float:
        """Mean time between two analysed frames."""
        return float(len(self.frame_span) / max(int(np.count_nonzero(self.frame_span)), 1) / self.rate_fps)

    @classmethod
    def of_table(
        cls, detections: pa.Table, frame_time_s: np.ndarray, rate_fps: float, stretch_rows: int = STRETCH_ROWS
    ) -> "DetectionSource":
        """A source of rows in memory, sorted by frame_index and detection_index; every frame was analysed."""
        counts = np.bincount(detections["frame_index"].to_numpy(), minlength=len(frame_time_s))
        first_row = np.concatenate([[0], np.cumsum(counts)])

        def read(first_frame: int, end_frame: int) -> pa.Table:
            begin, end = first_row[[first_frame, end_frame]].tolist()
            return detections.slice(begin, end - begin)

        is_repeated, frame_span = np.zeros(len(frame_time_s), bool), np.ones(len(frame_time_s), int)
        return cls(read, first_row, frame_time_s, rate_fps, is_repeated, frame_span, stretch_rows)

    def in_memory(self) -> "DetectionSource":
        """The same detections, read at once."""
        rows = self.read(0, len(self.frame_time_s))
        of_table = DetectionSource.of_table(rows, self.frame_time_s, self.rate_fps, self.stretch_rows)
        return replace(of_table, is_repeated=self.is_repeated, frame_span=self.frame_span)

    def stretches(self) -> Iterator[tuple[int, int]]:
        """First frame and end frame of each stretch, in order."""
        frame, frame_count = 0, len(self.frame_time_s)
        while frame < frame_count:
            end = int(np.searchsorted(self.first_row, self.first_row[frame] + self.stretch_rows))
            end = min(max(end, frame + 1), frame_count)
            yield frame, end
            frame = end
