"""PTS of the frames of an MP4 file, from the tables in its header: 20 times as fast as reading its packets."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_MAX_HEADER_BYTES = 200_000_000
_MAX_FRAME_COUNT = 20_000_000  # nine days; a damaged table can name 10^18 frames


def read_header_times(path: Path) -> np.ndarray | None:
    """Read the PTS of all frames in order of display.

    Args:
        path: The file.

    Returns:
        Seconds, ascending; None if the file is no MP4 with one plain video track, as with fragments or several edits,
        or whose header is damaged, so that its packets must be read.
    """
    try:
        return _read_times(path)
    except struct.error:
        return None


def _read_times(path: Path) -> np.ndarray | None:
    """`read_header_times`, which may read behind the end of a damaged header."""
    header = _read_header(path)
    if header is None:
        return None
    tracks = [
        track for name, track in _boxes(header) if name == b"trak" and _find(track, b"mdia", b"hdlr")[8:12] == b"vide"
    ]
    if len(tracks) != 1 or any(name == b"mvex" for name, _ in _boxes(header)):
        return None
    media = _find(tracks[0], b"mdia")
    table = _find(media, b"minf", b"stbl")
    shift = _edit_shift(_find(tracks[0], b"edts", b"elst"))
    timing = _find(media, b"mdhd")
    if shift is None or not timing:
        return None
    timescale = struct.unpack_from(">I", timing, 20 if timing[0] else 12)[0]
    counts, deltas = _pairs(_find(table, b"stts"))
    if not timescale or not 0 < counts.sum() <= _MAX_FRAME_COUNT:
        return None
    ticks = np.cumsum(np.repeat(deltas, counts))
    ticks = np.concatenate([[0], ticks[:-1]])
    if offsets := _find(table, b"ctts"):
        counts, values = _pairs(offsets)
        if counts.sum() != len(ticks):
            return None
        shifts = np.repeat(values.astype(np.uint32).view(np.int32).astype(np.int64), counts)
        ticks = ticks + shifts
    ticks = np.sort(ticks) - shift
    return None if ticks[0] < 0 else ticks / float(timescale)


def _read_header(path: Path) -> bytes | None:
    """The content of the box moov; None if the file has none."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() + 8 <= size_bytes:
            start = file.tell()
            length, name = struct.unpack(">I4s", file.read(8))
            head = 8
            if length == 1:
                length, head = struct.unpack(">Q", file.read(8))[0], 16
            if length == 0:
                length = size_bytes - start
            if length < head or (name == b"moov" and length > _MAX_HEADER_BYTES):
                return None
            if name == b"moov":
                return file.read(length - head)
            file.seek(start + length)
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each box."""
    start = 0
    while start + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, start)
        if length < 8:
            return
        yield name, content[start + 8 : start + length]
        start += length


def _find(content: bytes, *names: bytes) -> bytes:
    """The content of the first box along a path of names; empty if there is none."""
    for name in names:
        content = next((inner for found, inner in _boxes(content) if found == name), b"")
    return content


def _pairs(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a table of 32-bit numbers, as two columns."""
    if len(content) < 8:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    count = min(2 * struct.unpack_from(">I", content, 4)[0], (len(content) - 8) // 8 * 2)
    rows = np.frombuffer(content, ">u4", count, 8).astype(np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _edit_shift(content: bytes) -> int | None:
    """By how many ticks an edit list moves frames to an earlier time; None unless it is one edit at normal speed."""
    if not content:
        return 0
    count = struct.unpack_from(">I", content, 4)[0]
    form = ">QqI" if content[0] else ">IiI"
    if count != 1 or len(content) < 8 + struct.calcsize(form):
        return None
    _, media_time, rate = struct.unpack_from(form, content, 8)
    return media_time if media_time >= 0 and rate == 1 << 16 else None
