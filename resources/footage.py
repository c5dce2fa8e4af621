"""Pictures of a normalized video for a model: some of its frames from anywhere in it, or a few spread over it."""

from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from resources.media.opening import opened
from resources.media.reading import Converter, read_frames


def pictures(path: Path, wanted: Sequence[int], rate_fps: Fraction) -> Generator[np.ndarray, None, None]:
    """Decode frames of a normalized video, starting at the keyframe before the first of them.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.

    Yields:
        uint8 BGR arrays of shape (height_px, width_px, 3), one per wanted frame; fewer where the file ends early.
    """
    if not wanted:
        return
    if wanted[0] == 0:
        for _, picture in read_frames(path, wanted=wanted):
            yield picture
        return
    remaining = iter(wanted)
    next_wanted = next(remaining, None)
    with opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.time_base is not None
        first = stream.start_time or 0
        container.seek(first + round(wanted[0] / rate_fps / stream.time_base), stream=stream)
        converter = Converter()
        for frame in container.decode(stream):
            if next_wanted is None:
                return
            index = round(((frame.pts or 0) - first) * stream.time_base * rate_fps)
            if index == next_wanted:
                yield converter.array(frame)
                next_wanted = next(remaining, None)


def sample(path: Path, count: int, frame_count: int, rate_fps: Fraction) -> list[np.ndarray]:
    """Pictures spread evenly over a normalized video, found by its keyframes; at most `count`."""
    places = np.unique(np.linspace(0, frame_count - 1, count).astype(int))
    if frame_count <= 50 * count:
        return list(pictures(path, places.tolist(), rate_fps))
    found = []
    for place in places.tolist():
        # Of a long recording only the surroundings are decoded.
        found += list(pictures(path, [max(1, place)], rate_fps))
    return found
