"""Posters: small pictures of recordings for lists, decoded when asked for and kept in memory."""

import functools
import io
from pathlib import Path

import av

WIDTH_PX = 320
_POSITION = 0.3  # of the duration: the first frames are often black
_QUALITY = 80


def read_poster(video: Path) -> bytes | None:
    """Decode one keyframe of a video as a small JPEG; None if no frame decodes."""
    status = video.stat()
    return _read_poster(video, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2000)
def _read_poster(video: Path, mtime_ns: int, size_bytes: int) -> bytes | None:
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            if container.duration:
                container.seek(int(container.duration * _POSITION), backward=True)
            frame = next(container.decode(stream), None)
    except av.error.FFmpegError:
        return None
    if frame is None:
        return None
    height_px = max(2, round(frame.height * WIDTH_PX / frame.width))
    content = io.BytesIO()
    image = frame.to_image(width=WIDTH_PX, height=height_px)  # type: ignore[no-untyped-call]
    image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
