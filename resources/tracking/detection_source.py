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
        stretch_rows: Detections per stretch.
    """

    read: Callable[[int, int], pa.Table]
    first_row: np.ndarray
    frame_time_s: np.ndarray
    rate_fps: float
    is_repeated: np.ndarray
    stretch_rows: int = STRETCH_ROWS

    @classmethod
    def of_table(
        cls, detections: pa.Table, frame_time_s: np.ndarray, rate_fps: float, stretch_rows: int = STRETCH_ROWS
    ) -> "DetectionSource":
        """A source of rows in memory, sorted by frame_index and detection_index."""
        counts = np.bincount(detections["frame_index"].to_numpy(), minlength=len(frame_time_s))
        first_row = np.concatenate([[0], np.cumsum(counts)])

        def read(first_frame: int, end_frame: int) -> pa.Table:
            begin, end = first_row[[first_frame, end_frame]].tolist()
            return detections.slice(begin, end - begin)

        return cls(read, first_row, frame_time_s, rate_fps, np.zeros(len(frame_time_s), bool), stretch_rows)

    def in_memory(self) -> "DetectionSource":
        """The same detections, read at once."""
        rows = self.read(0, len(self.frame_time_s))
        of_table = DetectionSource.of_table(rows, self.frame_time_s, self.rate_fps, self.stretch_rows)
        return replace(of_table, is_repeated=self.is_repeated)

    def stretches(self) -> Iterator[tuple[int, int]]:
        """First frame and end frame of each stretch, in order."""
        frame, frame_count = 0, len(self.frame_time_s)
        while frame < frame_count:
            end = int(np.searchsorted(self.first_row, self.first_row[frame] + self.stretch_rows))
            end = min(max(end, frame + 1), frame_count)
            yield frame, end
            frame = end
