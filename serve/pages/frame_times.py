"""The PTS of every frame of a normalized video, by which a page knows which frame a browser shows."""

import functools
from pathlib import Path

import av
import numpy as np

from serve.pages.mp4_times import read_header_times


def read_frame_times(path: Path) -> np.ndarray:
    """Read the PTS of all frames in order of display, on the clock that browsers give as mediaTime.

    Nothing is decoded: the times are in the header of an MP4 file, or else in its packets. A file is read again once
    its size or mtime has changed.

    Args:
        path: The video.

    Returns:
        Seconds, ascending, shape (frame_count,).
    """
    status = path.stat()
    return _read_times(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _read_times(path: Path, mtime_ns: int, size_bytes: int) -> np.ndarray:
    times_s = read_header_times(path)
    return _read_packet_times(path) if times_s is None else times_s


def _read_packet_times(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pts = [
            packet.pts
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size and not packet.is_discard
        ]
        times_s = np.sort(np.array(pts, np.int64)) * float(stream.time_base or 1)
    # Players move a start before zero to zero, and leave a later start where it is.
    return times_s - min(times_s[0], 0.0) if len(times_s) else times_s
