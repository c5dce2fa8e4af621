"""Reads frames of a recording's file as clips need them: at full size, upright, those that the normalized video shows.

The first frame is found by its PTS after a seek. In files whose timestamps do not lead to it, frames are counted from
the start, as normalization counted them.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.clips.source_sound import read_sound
from resources.config.media_config import VideoSettings
from resources.errors import RecordingError
from resources.media.container import best_stream, configure_decoder, open_container
from resources.media.source_decoder import RecordingDecoder
from resources.media.timeline import Timeline
from resources.media.upright_filter import UprightFilter

_FIRST_STEP_BACK_S = 1.0
_MAX_SOUND_SHIFT_S = 0.1
_ANY_RATE_FPS = Fraction(25)  # of the ledger, which is not used


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
        for find in (self._seek, self._count):
            if not repeats:
                break
            with open_container(self.path) as container:
                stream = best_stream(container)
                configure_decoder(stream, self.settings.max_pixels)
                with closing(find(container, stream, [number for number, _ in repeats])) as frames:
                    for picture in _filter(frames, stream, self.settings):
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

    def _seek(self, container: InputContainer, stream: VideoStream, numbers: Sequence[int]) -> "_Frames":
        """Find frames by their PTS; ends before the first that is not found."""
        if self.start_time_s is None or numbers[0] == 0:
            return
        time_base = Fraction(stream.time_base or 1)
        all_pts = [round((self.start_time_s + self._time_of(number)) / time_base) for number in numbers]
        step_back_s, first = 0.0, None
        while True:
            try:
                container.seek(all_pts[0] - round(step_back_s / time_base), stream=stream)
            except av.error.FFmpegError:
                return
            frames = _decode(container, stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= all_pts[0]:
                break
            if step_back_s > self._time_of(numbers[0]):
                return
            # With intra refresh or an open GOP, a decoder that starts at a keyframe omits some frames.
            step_back_s = 4 * step_back_s or _FIRST_STEP_BACK_S
        remaining = deque(all_pts)
        frame: VideoFrame | None = first
        while frame is not None and remaining:
            if frame.pts is not None and frame.pts > remaining[0]:
                return
            is_shown = frame.pts == remaining[0]
            if is_shown:
                remaining.popleft()
            yield is_shown, frame
            frame = next(frames, None)
        if frame is not None:
            yield False, frame  # deinterlacing needs the frame after the last one, too

    def _count(self, container: InputContainer, stream: VideoStream, numbers: Sequence[int]) -> "_Frames":
        """Find frames by their index from the start."""
        remaining = deque(numbers)
        for index, frame in enumerate(_decode(container, stream)):
            is_shown = bool(remaining) and index == remaining[0]
            if is_shown:
                remaining.popleft()
            yield is_shown, frame
            if not remaining and not is_shown:
                return


_Frames = Generator[tuple[bool, VideoFrame], None, None]
"""Decoded frames, each with whether the clip shows it."""


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode frames in presentation order, as normalization decodes them: what is damaged is left out."""
    decoder = RecordingDecoder(container, stream, Timeline(0, _ANY_RATE_FPS, has_timestamps=False))
    for _, frames in decoder.packets():
        yield from frames


def _filter(frames: _Frames, stream: VideoStream, settings: VideoSettings) -> Iterator[VideoFrame]:
    """Filter the frames that the clip shows; of interlaced video all: deinterlacing needs the frames around one."""
    inside = deque[bool]()
    upright: UprightFilter | None = None
    for is_shown, frame in frames:
        if is_shown or frame.interlaced_frame:
            upright = upright or UprightFilter(frame, stream, settings)
            inside.append(is_shown)
            for picture in upright.push(frame):
                if inside.popleft():
                    yield picture
    for picture in upright.finish() if upright else ():
        if inside.popleft():
            yield picture
