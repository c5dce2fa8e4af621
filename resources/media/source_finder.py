"""Finds single frames in the file of a recording, and filters them as the normalized video has them, at full size.

A frame is found by its PTS after a seek. In files whose timestamps do not lead to it, frames are counted from the
start, as normalization counted them.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.media.source_decoder import RecordingDecoder
from resources.media.timeline import Timeline
from resources.media.upright_filter import UprightFilter

_FIRST_STEP_BACK_S = 1.0
_ANY_RATE_FPS = Fraction(25)  # of the ledger, which is not used

NumberedFrames = Iterator[tuple[int | None, VideoFrame]]
"""Decoded frames, each with its source frame index if it is one of those that are looked for."""


def pts_of(stream: VideoStream, start_time_s: float, time_s: float) -> int:
    """PTS of a frame.

    Args:
        stream: The stream.
        start_time_s: PTS of the first decoded frame in seconds.
        time_s: Time of the frame after that one.
    """
    return round((start_time_s + time_s) / Fraction(stream.time_base or 1))


def find_frames(
    container: InputContainer, stream: VideoStream, start_time_s: float, times_s: Mapping[int, float]
) -> NumberedFrames:
    """Decode from the keyframe before the first of some frames to the last; those that are not found are left out.

    Args:
        container: The file.
        stream: Its stream.
        start_time_s: PTS of the first decoded frame in seconds.
        times_s: Time after that one of each frame, by its source frame index.
    """
    remaining = {pts_of(stream, start_time_s, time_s): number for number, time_s in times_s.items()}
    first_pts, last_pts, first_s = min(remaining), max(remaining), min(times_s.values())
    step_back_s = 0.0
    while True:
        try:
            container.seek(pts_of(stream, start_time_s, first_s - step_back_s), stream=stream)
        except av.error.FFmpegError:
            return
        frames = _decode_frames(container, stream)
        frame = next(frames, None)
        if frame is not None and frame.pts is not None and frame.pts <= first_pts:
            break
        if step_back_s > first_s:
            return
        # With intra refresh or an open GOP, a decoder that starts at a keyframe omits some frames.
        step_back_s = 4 * step_back_s or _FIRST_STEP_BACK_S
    while frame is not None and (frame.pts is None or frame.pts <= last_pts):
        yield remaining.get(frame.pts) if frame.pts is not None else None, frame
        frame = next(frames, None)
    if frame is not None:
        yield None, frame  # deinterlacing needs the frame after the last one, too


def count_frames(container: InputContainer, stream: VideoStream, numbers: Collection[int]) -> NumberedFrames:
    """Decode from the start to the frame after the last of some frames, by their source frame indices."""
    last = max(numbers, default=-2)
    for index, frame in enumerate(_decode_frames(container, stream)):
        if index > last + 1:
            return
        yield index if index in numbers else None, frame


def _decode_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode frames in presentation order, as normalization decodes them: what is damaged is left out."""
    decoder = RecordingDecoder(container, stream, Timeline(0, _ANY_RATE_FPS, has_timestamps=False))
    for _, frames in decoder.packets():
        yield from frames


class SourceFilter:
    """Filters frames as the normalized video has them.

    Args:
        settings: Region, size and colour; without a limit of height, frames have their full size.
    """

    def __init__(self, settings: VideoSettings) -> None:
        self._settings = settings
        self._filter: UprightFilter | None = None

    def pick(self, frames: NumberedFrames, stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
        """Filter the frames that are looked for; of interlaced video all: deinterlacing needs those around one."""
        inside = deque[int | None]()

        def take(pictures: Iterable[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
            for picture in pictures:
                if (number := inside.popleft()) is not None:
                    yield number, picture

        for number, frame in frames:
            if number is not None or frame.interlaced_frame:
                inside.append(number)
                self._filter = self._filter or UprightFilter(frame, stream, self._settings)
                yield from take(self._filter.push(frame))
        if self._filter is not None:
            yield from take(self._filter.finish())
