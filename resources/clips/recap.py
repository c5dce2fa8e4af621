"""A recap: the stretches of recordings in which something is there or moves, at a speed that fits a length."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from resources.clips.clip_writer import Chapter, DrawFrame
from resources.clips.frame_canvas import FrameCanvas
from resources.errors import PipelineError
from resources.media.frame_reader import decode_frames, number_frames

OpenRecording = Callable[[str], AbstractContextManager[tuple[Path, DrawFrame]]]
"""Opens the normalized video of a recording, and prepares what draws on its frames."""
RECAP_RATE_FPS = Fraction(25)
_CONTEXT_S = 1.0  # before and after each stretch with objects or motion
_MIN_PART_FRAMES = 5  # of the recap for each stretch, however short, so that a person sees it


class NothingToRecapError(PipelineError):
    """There is no stretch to show."""


@dataclass(frozen=True)
class RecapRecording:
    """What a recap needs to know of a recording before its frames are read.

    Attributes:
        recording_id: The recording.
        rate_fps: Frame rate of its normalized video.
        frame_count: Number of its frames.
        objects: First frame, last frame and name of each track.
        events: Frame and name of each event, in order.
        motion: First and last frame of each stretch in which something moves, whether or not an object was found.
    """

    recording_id: str
    rate_fps: Fraction
    frame_count: int
    objects: Sequence[tuple[int, int, str]]
    events: Sequence[tuple[int, str]]
    motion: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class RecapPart:
    """A stretch of one recording in a recap.

    Attributes:
        recording: The recording.
        first_frame: Index of its first frame.
        last_frame: Index of its last frame.
        frame_indices: The frames that the recap shows, ascending.
    """

    recording: RecapRecording
    first_frame: int
    last_frame: int
    frame_indices: np.ndarray


def active_stretches(recording: RecapRecording) -> list[tuple[int, int]]:
    """First and last frame of each stretch in which there is an object or motion, with a second before and after."""
    context_frames = round(_CONTEXT_S * float(recording.rate_fps))
    changes = np.zeros(recording.frame_count + 1, np.int64)
    for first, last in (*((first, last) for first, last, _ in recording.objects), *recording.motion):
        changes[max(0, first - context_frames)] += 1
        changes[min(recording.frame_count, last + context_frames + 1)] -= 1
    edges = np.flatnonzero(np.diff((np.cumsum(changes) > 0).astype(np.int8), prepend=0))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def plan_recap(recordings: Sequence[RecapRecording], length_s: float | None) -> list[RecapPart]:
    """Choose the frames of a recap.

    Args:
        recordings: The recordings in their order in time.
        length_s: Length of the recap; None, or more than there is to show, plays the stretches at their own speed.

    Raises:
        NothingToRecapError: Nothing was found in the recordings.
        PipelineError: The length is too short to show every stretch.
    """
    stretches = [(recording, *stretch) for recording in recordings for stretch in active_stretches(recording)]
    if not stretches:
        raise NothingToRecapError("No recording has an object or motion: there is nothing to recap.")
    durations_s = np.array([(last - first + 1) / float(recording.rate_fps) for recording, first, last in stretches])
    frames_wanted = durations_s * float(RECAP_RATE_FPS)
    if length_s is not None and length_s * float(RECAP_RATE_FPS) < frames_wanted.sum():
        frames_wanted = _share_frames(durations_s, round(length_s * float(RECAP_RATE_FPS)))
    parts = []
    for (recording, first, last), count in zip(stretches, np.round(frames_wanted).astype(int), strict=True):
        indices = np.round(np.linspace(first, last, max(1, int(count)))).astype(int)
        parts.append(RecapPart(recording, first, last, indices))
    return parts


def shortest_length_s(recordings: Sequence[RecapRecording]) -> float:
    """The shortest length of a recap that shows every stretch."""
    stretch_count = sum(len(active_stretches(recording)) for recording in recordings)
    return _MIN_PART_FRAMES * stretch_count / float(RECAP_RATE_FPS)


def _share_frames(durations_s: np.ndarray, frame_count: int) -> np.ndarray:
    """Share frames among stretches by their durations, with a few at least for each.

    Raises:
        PipelineError: There are too few frames.
    """
    if frame_count < _MIN_PART_FRAMES * len(durations_s):
        needed_s = _MIN_PART_FRAMES * len(durations_s) / float(RECAP_RATE_FPS)
        raise PipelineError(
            f"The recap has {len(durations_s)} stretches: it needs at least {np.ceil(needed_s):.0f} s (--length)."
        )
    counts = np.full(len(durations_s), float(_MIN_PART_FRAMES))
    is_short = np.zeros(len(durations_s), bool)
    while True:
        shared = frame_count - _MIN_PART_FRAMES * is_short.sum()
        counts[~is_short] = shared * durations_s[~is_short] / durations_s[~is_short].sum()
        new = ~is_short & (counts < _MIN_PART_FRAMES)
        if not new.any():
            break
        is_short |= new
        counts[is_short] = _MIN_PART_FRAMES
    edges = np.round(np.concatenate([[0], np.cumsum(counts)]))  # so that roundings do not add up
    return np.diff(edges)


def recap_frames(parts: Sequence[RecapPart], open_recording: OpenRecording) -> Iterator[VideoFrame]:
    """The frames of a recap, all of the size of the first, with what is drawn on them.

    Args:
        parts: The stretches.
        open_recording: Gives the normalized video of a recording, and what draws on its frames.

    Raises:
        RecordingError: A video ends before the last of its frames.
    """
    size: tuple[int, int] | None = None
    for recording_id, of_recording in itertools.groupby(parts, key=lambda part: part.recording.recording_id):
        with open_recording(recording_id) as (video, draw):
            for part in of_recording:
                unique, repeats = np.unique(part.frame_indices, return_counts=True)
                with closing(decode_frames(video, unique.tolist(), part.recording.rate_fps)) as frames:
                    numbered = number_frames(frames, unique.tolist(), video)
                    for (frame_index, frame), repeat in zip(numbered, repeats.tolist(), strict=True):
                        canvas = FrameCanvas.of(frame)
                        draw(canvas, frame_index)
                        drawn = canvas.to_frame()
                        size = size or (drawn.width, drawn.height)
                        if (drawn.width, drawn.height) != size:
                            drawn = drawn.reformat(width=size[0], height=size[1])
                        for _ in range(repeat):
                            yield drawn


def recap_chapters(parts: Sequence[RecapPart]) -> list[Chapter]:
    """A chapter for each stretch, named by its first event, its first object, or as motion."""
    chapters, start_s = [], 0.0
    for part in parts:
        end_s = start_s + len(part.frame_indices) / float(RECAP_RATE_FPS)
        events = [title for frame, title in part.recording.events if part.first_frame <= frame <= part.last_frame]
        objects = [
            title
            for first, last, title in part.recording.objects
            if first <= part.last_frame and last >= part.first_frame
        ]
        chapters.append(Chapter(start_s, end_s, (*events, *objects, "motion")[0]))
        start_s = end_s
    return chapters
