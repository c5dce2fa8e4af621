"""Reads frames of a normalized video, and seeks to those that are needed.

decode_frames     decoded frames, by index or all
read_images       the same as BGR arrays
read_distant_images  the same, with seeks over frames that need not be decoded
number_frames     the same with their indices, none of which may be missing
sample_images     BGR arrays of a few frames, spread over the whole video
read_frame_count  number of frames according to the header
"""

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

from resources.errors import RecordingError
from resources.media.container import open_container
from resources.media.frame_converter import FrameConverter

if TYPE_CHECKING:
    import torch

Image: TypeAlias = "np.ndarray | torch.Tensor"
"""uint8 BGR of shape (height_px, width_px, 3), in the memory of the CPU or of a GPU."""

_Frame = TypeVar("_Frame")

MIN_SKIPPED_FRAMES = 24
"""Frames that cost more to decode than to open the file again and seek."""
_FIRST_STEP_BACK_FRAMES = 32
_SAMPLE_SPACING_FRAMES = 4  # at most, between sampled frames after one keyframe; adjacent frames would look the same


def decode_frames(
    path: Path,
    frame_indices: Sequence[int] | None,
    rate_fps: Fraction,
    hwaccel: HWAccel | None = None,
    thread_count: int = 0,
) -> Generator[VideoFrame, None, None]:
    """Decode frames of a normalized video, starting at the keyframe before the first of them.

    Args:
        path: The MP4 file.
        frame_indices: Ascending frame indices; None means all frames.
        rate_fps: The video's constant rate (`rate_fps_num` / `rate_fps_den` of `recordings`).
        hwaccel: Device that decodes; None means the CPU.
        thread_count: Decoding threads of the CPU; 0 lets FFmpeg choose, which takes one per core.

    Yields:
        One frame per index; fewer where the file ends early.
    """
    remaining_indices: Iterator[int] = itertools.count() if frame_indices is None else iter(frame_indices)
    next_index = next(remaining_indices, None)
    if next_index is None:
        return
    start_index, step_back_frames = next_index, _FIRST_STEP_BACK_FRAMES
    while True:
        with closing(_decode_from(path, start_index, rate_fps, hwaccel, thread_count)) as indexed_frames:
            first = next(indexed_frames, None)
            if start_index > 0 and (first is None or first[0] > next_index):
                # With intra refresh, or with frames that are presented before the keyframe that precedes them in the
                # file (open GOP), a decoder that starts at that keyframe omits some frames: start further back.
                start_index, step_back_frames = max(0, start_index - step_back_frames), 4 * step_back_frames
                continue
            for frame_index, frame in itertools.chain([first] if first else [], indexed_frames):
                if frame_index == next_index:
                    yield frame
                    next_index = next(remaining_indices, None)
                    if next_index is None:
                        return
        return


def _decode_from(
    path: Path, start_index: int, rate_fps: Fraction, hwaccel: HWAccel | None, thread_count: int
) -> Generator[tuple[int, VideoFrame], None, None]:
    """Decode all frames from the keyframe before `start_index` on; yields (frame_index, frame).

    From the start of the file frames are counted. After a seek the index follows from the PTS and the constant rate.
    """
    with open_container(path, hwaccel) as container:
        stream = container.streams.video[0]
        if hwaccel is None:
            stream.thread_type = "AUTO"  # not for a device: it gains nothing from threads and has few surfaces
            stream.codec_context.thread_count = thread_count
        assert stream.time_base is not None
        first_pts = stream.start_time or 0
        if start_index > 0:
            container.seek(first_pts + round(start_index / rate_fps / stream.time_base), stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            if start_index > 0:
                yield round(((frame.pts or 0) - first_pts) * stream.time_base * rate_fps), frame
            else:
                yield count, frame


def read_images(
    path: Path,
    frame_indices: Sequence[int] | None,
    rate_fps: Fraction,
    *,
    thread_count: int = 0,
    downscale_factor: int = 1,
) -> Generator[np.ndarray, None, None]:
    """Decode frames of a normalized video on the CPU and convert them to BGR.

    Args:
        path: The MP4 file.
        frame_indices: Ascending frame indices; None means all frames.
        rate_fps: The video's constant rate.
        thread_count: Decoding threads; 0 lets FFmpeg choose, which takes one per core.
        downscale_factor: By how much images are downscaled; see `FrameConverter`.

    Yields:
        One uint8 BGR array of shape (height_px, width_px, 3) per index; fewer where the file ends early.
    """
    converter = FrameConverter(downscale_factor)
    with closing(decode_frames(path, frame_indices, rate_fps, thread_count=thread_count)) as frames:
        for frame in frames:
            yield converter.to_bgr(frame)


def read_distant_images(
    path: Path, frame_indices: Sequence[int], rate_fps: Fraction
) -> Generator[np.ndarray, None, None]:
    """Read frames as `read_images` does, with a seek wherever that is cheaper than to decode all frames between two.

    Args:
        path: The MP4 file.
        frame_indices: Ascending frame indices.
        rate_fps: The video's constant rate.

    Yields:
        One uint8 BGR array of shape (height_px, width_px, 3) per index; fewer where the file ends early.
    """
    for group in split_at_seeks(frame_indices, _keyframe_indices(path), MIN_SKIPPED_FRAMES):
        count = 0
        for image in read_images(path, group, rate_fps):
            yield image
            count += 1
        if count < len(group):
            return


def split_at_seeks(
    positions: Sequence[int], keyframes: Sequence[int], min_skipped: int
) -> Generator[list[int], None, None]:
    """Split frames where enough of those before the next one's keyframe need not be decoded.

    Args:
        positions: Frame indices or PTS, ascending.
        keyframes: Those of the keyframes, ascending.
        min_skipped: How far a keyframe must lie behind the frame before, so that a seek costs less.
    """
    if not positions:
        return
    ascending, starts = np.array(positions), np.array([min(0, positions[0]), *keyframes])
    keyframe_before = starts[np.maximum(0, np.searchsorted(starts, ascending, "right") - 1)]
    splits = np.flatnonzero(keyframe_before[1:] - ascending[:-1] > min_skipped) + 1
    for part in np.split(ascending, splits):
        yield part.tolist()


def _keyframe_indices(path: Path) -> list[int]:
    """Ascending indices of the keyframes, from the file's index."""
    with open_container(path) as container:
        entries = container.streams.video[0].index_entries
        return [index for index, entry in enumerate(entries) if entry.is_keyframe]


def number_frames(frames: Iterable[_Frame], frame_indices: Sequence[int], path: Path) -> Iterator[tuple[int, _Frame]]:
    """Pair the frames that were read from a normalized video with their indices.

    Raises:
        RecordingError: The video ends before the last of them.
    """
    count = 0
    for frame_index, frame in zip(frame_indices, frames, strict=False):
        yield frame_index, frame
        count += 1
    if count < len(frame_indices):
        raise RecordingError(
            f"The video {path} ends before frame {frame_indices[count]}: materialize normalized_video again."
        )


def sample_images(path: Path, count: int, frame_count: int, rate_fps: Fraction) -> list[np.ndarray]:
    """Read images spread over a whole normalized video, from frames that are cheap to decode.

    Decoding starts at keyframes. Where there are fewer keyframes than requested images, each keyframe also contributes
    some of the frames that follow it.

    Args:
        path: The MP4 file.
        count: Maximum number of images.
        frame_count: Number of frames of the video.
        rate_fps: The video's constant rate.

    Returns:
        uint8 BGR arrays of shape (height_px, width_px, 3), in order of frame index.
    """
    keyframes = [index for index in _keyframe_indices(path) if index < frame_count]
    starts = np.array(sorted({0, *keyframes}))
    ends = np.append(starts[1:], frame_count)
    even_indices = np.unique(np.linspace(0, frame_count - 1, count).astype(int))
    images: list[np.ndarray] = []
    groups, image_counts = np.unique(np.searchsorted(starts, even_indices, "right") - 1, return_counts=True)
    for group, image_count in zip(groups, image_counts, strict=True):
        length = min(ends[group] - starts[group], _SAMPLE_SPACING_FRAMES * image_count)
        frame_indices = starts[group] + np.arange(image_count) * length // image_count
        # One thread, because several would decode beyond the last of these frames.
        images += read_images(path, frame_indices.tolist(), rate_fps, thread_count=1)
    return images


def read_frame_count(path: Path) -> int:
    """Read the number of frames that the header of a normalized video claims."""
    with open_container(path) as container:
        return container.streams.video[0].frames
