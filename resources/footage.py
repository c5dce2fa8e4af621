"""Pictures of a normalized video for a model: some of its frames from anywhere in it, or a few from all over it."""

import itertools
from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

from resources.media.opening import opened
from resources.media.reading import Converter

if TYPE_CHECKING:
    import torch

Picture: TypeAlias = "np.ndarray | torch.Tensor"
"""uint8 BGR of shape (height_px, width_px, 3), in the CPU's memory or in a GPU's."""

_FIRST_STEP_BACK = 32  # frames
_DECODED_FOR_EACH = 4  # frames at most for each picture of a sample; next to each other they would show the same


def pictures(
    path: Path, wanted: Sequence[int], rate_fps: Fraction, *, thread_count: int = 0, shrunk_by: int = 1
) -> Generator[np.ndarray, None, None]:
    """Decode frames of a normalized video, starting at the keyframe before the first of them.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.
        thread_count: Threads that decode; 0 leaves it to FFmpeg, which takes one for each core.
        shrunk_by: How many times smaller pictures are made; see `Converter`.

    Yields:
        uint8 BGR arrays of shape (height_px, width_px, 3), one per wanted frame; fewer where the file ends early.
    """
    converter = Converter(shrunk_by=shrunk_by)
    with closing(frames(path, wanted, rate_fps, thread_count=thread_count)) as source:
        for frame in source:
            yield converter.array(frame)


def frames(
    path: Path, wanted: Sequence[int], rate_fps: Fraction, hwaccel: HWAccel | None = None, thread_count: int = 0
) -> Generator[VideoFrame, None, None]:
    """As `pictures`, but as they are decoded; with `hwaccel`, by that device."""
    if not wanted:
        return
    remaining = iter(wanted)
    next_wanted = next(remaining, None)
    start, step = wanted[0], _FIRST_STEP_BACK
    while True:
        with closing(_decoded(path, start, rate_fps, hwaccel, thread_count)) as decoded:
            head = next(decoded, None)
            if start > 0 and (head is None or head[0] > wanted[0]):
                # Where pictures are refreshed bit by bit, or shown before the keyframe that they follow in the file, a
                # decoder that begins there leaves some out: those are had from further back.
                start, step = max(0, start - step), 4 * step
                continue
            for index, frame in itertools.chain([head] if head else [], decoded):
                if index == next_wanted:
                    yield frame
                    next_wanted = next(remaining, None)
                    if next_wanted is None:
                        return
        return


def _decoded(
    path: Path, start: int, rate_fps: Fraction, hwaccel: HWAccel | None, thread_count: int
) -> Generator[tuple[int, VideoFrame], None, None]:
    """Frames with their indices, from the keyframe before the frame `start` on."""
    with opened(path, hwaccel) as container:
        stream = container.streams.video[0]
        if hwaccel is None:
            stream.thread_type = "AUTO"  # a device needs no threads, and its pictures are few
            stream.codec_context.thread_count = thread_count
        assert stream.time_base is not None
        first = stream.start_time or 0
        if start > 0:
            container.seek(first + round(start / rate_fps / stream.time_base), stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            yield round(((frame.pts or 0) - first) * stream.time_base * rate_fps) if start > 0 else number, frame


def sample(path: Path, count: int, frame_count: int, rate_fps: Fraction) -> list[np.ndarray]:
    """Pictures from all over a normalized video; at most `count`.

    Decoding begins at keyframes. Where there are fewer of them than pictures, each gives some of those that follow.
    """
    with opened(path) as container:
        packets = container.streams.video[0].index_entries
        keyframes = [number for number, packet in enumerate(packets) if packet.is_keyframe and number < frame_count]
    starts = np.array(sorted({0, *keyframes}))
    ends = np.append(starts[1:], frame_count)
    places = np.unique(np.linspace(0, frame_count - 1, count).astype(int))
    found = []
    groups, counts = np.unique(np.searchsorted(starts, places, "right") - 1, return_counts=True)
    for group, of_group in zip(groups, counts, strict=True):
        length = min(ends[group] - starts[group], _DECODED_FOR_EACH * of_group)
        wanted = starts[group] + np.arange(of_group) * length // of_group
        # Several threads would decode beyond the last.
        found += list(pictures(path, wanted.tolist(), rate_fps, thread_count=1))
    return found
