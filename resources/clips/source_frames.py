"""Reads frames of a recording's file for clips: at full size, upright, those that the normalized video shows."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.clips.source_sound import read_sound
from resources.config.media_config import VideoSettings
from resources.errors import RecordingError
from resources.media.container import best_stream, configure_decoder, open_container
from resources.media.source_finder import NumberedFrames, SourceFilter, count_frames, find_frames

_MAX_SOUND_SHIFT_S = 0.1


@dataclass(frozen=True)
class SourceFrames:
    """The file of a recording, and what normalization has found out about its frames.

    Attributes:
        path: The file.
        settings: The settings of normalization without a limit of height, so that frames have their full size.
        start_time_s: PTS of the first decoded frame; None if the frames have no timestamps.
        source_indices: Index of the source frame that each normalized frame shows, shape (frames,).
        times_s: Its time after the first decoded frame, shape (frames,).
    """

    path: Path
    settings: VideoSettings
    start_time_s: float | None
    source_indices: np.ndarray
    times_s: np.ndarray

    def read(self, frame_indices: Sequence[int]) -> Iterator[VideoFrame]:
        """Read the source frames of some normalized frames; one that is shown repeatedly is yielded repeatedly.

        Args:
            frame_indices: Indices of normalized frames, ascending.

        Raises:
            RecordingError: The file cannot be read, or lacks one of the frames.
        """
        numbers, counts = np.unique(self.source_indices[np.asarray(frame_indices)], return_counts=True)
        repeats = deque(zip(numbers.tolist(), counts.tolist(), strict=True))
        for find in (self._find, count_frames):
            if not repeats:
                break
            with open_container(self.path) as container:
                stream = best_stream(container)
                configure_decoder(stream, self.settings.max_pixels)
                frames = find(container, stream, {number: self._time_of(number) for number, _ in repeats})
                for number, picture in SourceFilter(self.settings).pick(frames, stream):
                    if number != repeats[0][0]:
                        break  # the one before is not found by its PTS: the rest is counted
                    _, count = repeats.popleft()
                    for _ in range(count):
                        yield picture
        if repeats:
            raise RecordingError(f"The file lacks frame {repeats[0][0]}: materialize normalized_video again.")

    def read_sound(self, frame_indices: Sequence[int], rate_fps: float) -> Iterator[AudioFrame]:
        """Read the sound of a clip of some normalized frames.

        Args:
            frame_indices: Indices of normalized frames, ascending and without a gap.
            rate_fps: Frame rate of the normalized video.

        Raises:
            RecordingError: The file has no sound, or the frames do not follow each other at the rate.
        """
        duration_s = len(frame_indices) / rate_fps
        first_s, last_s = (float(self.times_s[frame_indices[position]]) for position in (0, -1))
        if abs(last_s - first_s + 1 / rate_fps - duration_s) > _MAX_SOUND_SHIFT_S:
            raise RecordingError("The clip has gaps, so that its sound does not fit: leave out --sound.")
        return read_sound(self.path, (self.start_time_s or 0.0) + first_s, duration_s)

    def _time_of(self, source_index: int) -> float:
        """Time of a source frame after the first decoded one; of its first slot, because repeats have later times."""
        position = int(np.searchsorted(self.source_indices, source_index))
        return float(self.times_s[position])

    def _find(self, container: InputContainer, stream: VideoStream, times_s: Mapping[int, float]) -> NumberedFrames:
        if self.start_time_s is not None:
            yield from find_frames(container, stream, self.start_time_s, times_s)
