"""Writes a clip of a normalized video, exact to the frame: copied where that is possible, else encoded."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from resources.clips.frame_canvas import FrameCanvas
from resources.clips.source_sound import SOUND_LAYOUT, SOUND_RATE_HZ
from resources.media.frame_reader import decode_frames, number_frames

DrawFrame = Callable[[FrameCanvas, int], None]
"""Draws on the frame of an index."""
PRESET, CRF = "veryfast", "20"
"""Settings of libx264 for clips."""
_KEYFRAME_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Chapter:
    """A named stretch of a clip.

    Attributes:
        start_s: Seconds from the start of the clip.
        end_s: Seconds from the start of the clip.
        title: Its name.
    """

    start_s: float
    end_s: float
    title: str


def write_clip(
    video: Path,
    frame_indices: Sequence[int],
    rate_fps: Fraction,
    output: Path,
    draw: DrawFrame | None,
    chapters: Sequence[Chapter] = (),
) -> bool:
    """Write frames of a normalized video as an MP4 of the same rate.

    Args:
        video: The normalized video.
        frame_indices: The frames, ascending; a clip that is to be copied has no gap.
        rate_fps: Frame rate of the video.
        output: The file.
        draw: Draws on each frame; None if the frames stay as they are.
        chapters: Chapters of the clip.

    Returns:
        Whether the clip was copied without encoding.

    Raises:
        RecordingError: The video ends before the last of the frames.
    """
    is_contiguous = len(frame_indices) == frame_indices[-1] - frame_indices[0] + 1
    if draw is None and is_contiguous and _copy(video, frame_indices, rate_fps, output, chapters):
        return True
    with closing(decode_frames(video, frame_indices, rate_fps)) as frames:
        encode_frames(_drawn(number_frames(frames, frame_indices, video), draw), rate_fps, output, chapters)
    return False


def write_source_clip(
    frames: Iterable[VideoFrame],
    frame_indices: Sequence[int],
    size_px: tuple[int, int],
    rate_fps: Fraction,
    output: Path,
    draw: DrawFrame | None,
    chapters: Sequence[Chapter] = (),
    sound: Iterator[AudioFrame] | None = None,
) -> None:
    """Write frames of a recording's file as an MP4 of the rate of its normalized video.

    Args:
        frames: The frames, upright and at full size.
        frame_indices: Their indices in the normalized video, ascending.
        size_px: Width and height of the normalized video, in whose pixels `draw` draws.
        rate_fps: Frame rate of the normalized video.
        output: The file.
        draw: Draws on each frame; None if the frames stay as they are.
        chapters: Chapters of the clip.
        sound: Its sound; None without.
    """
    encode_frames(_drawn(zip(frame_indices, frames, strict=True), draw, size_px), rate_fps, output, chapters, sound)


def _drawn(
    frames: Iterable[tuple[int, VideoFrame]], draw: DrawFrame | None, size_px: tuple[int, int] | None = None
) -> Iterable[VideoFrame]:
    for frame_index, frame in frames:
        if draw is None:
            yield frame
            continue
        canvas = FrameCanvas.of(frame, size_px)
        draw(canvas, frame_index)
        yield canvas.to_frame()


def encode_frames(
    frames: Iterable[VideoFrame],
    rate_fps: Fraction,
    output: Path,
    chapters: Sequence[Chapter] = (),
    sound: Iterator[AudioFrame] | None = None,
) -> int:
    """Encode frames as H.264 at a constant rate; returns their number.

    Args:
        frames: Frames of one size, at least one.
        rate_fps: Frame rate.
        output: The MP4 file.
        chapters: Chapters of the video.
        sound: The sound of `read_sound`; None for a video without sound.
    """
    count = 0
    stream: VideoStream | None = None
    track: _SoundTrack | None = None
    with av.open(str(output), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate_fps)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.time_base = stream.codec_context.time_base = 1 / rate_fps
                context = stream.codec_context
                context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
                keyframe_interval = max(1, int(_KEYFRAME_INTERVAL_S * rate_fps))
                stream.options = {"preset": PRESET, "crf": CRF, "g": str(keyframe_interval), "bf": "0"}
                _set_chapters(container, chapters)
                track = _SoundTrack(container, sound) if sound else None
            frame.pts, frame.time_base, frame.pict_type = count, 1 / rate_fps, PictureType.NONE
            container.mux(stream.encode(frame))
            count += 1
            if track is not None:
                track.write_until(float(count / rate_fps))
        if stream is not None:
            container.mux(stream.encode(None))
        if track is not None:
            track.finish()
    return count


class _SoundTrack:
    """Encodes sound beside a video, as far as the video has come."""

    def __init__(self, container: "av.container.OutputContainer", sound: Iterator[AudioFrame]) -> None:
        self._container, self._sound = container, sound
        self._stream = container.add_stream("aac", rate=SOUND_RATE_HZ, layout=SOUND_LAYOUT)
        self._end_s = 0.0

    def write_until(self, time_s: float) -> None:
        """Encode the sound up to a time."""
        while self._end_s < time_s and (frame := next(self._sound, None)) is not None:
            self._end_s = ((frame.pts or 0) + frame.samples) / SOUND_RATE_HZ
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Encode the rest of the sound."""
        self.write_until(math.inf)
        self._container.mux(self._stream.encode(None))


def _copy(
    video: Path, frame_indices: Sequence[int], rate_fps: Fraction, output: Path, chapters: Sequence[Chapter]
) -> bool:
    """Copy the packets of a clip if it starts with a keyframe and needs no other frames; else write nothing."""
    first, last = frame_indices[0], frame_indices[-1]
    with av.open(str(video)) as source:
        stream = source.streams.video[0]
        time_base = stream.time_base
        assert time_base is not None
        start_pts = stream.start_time or 0

        def index_of(pts: int | None) -> int:
            return round(((pts or 0) - start_pts) * time_base * rate_fps)

        source.seek(start_pts + round(first / rate_fps / time_base), stream=stream)
        packets: list[av.Packet[VideoStream]] = []
        count = last - first + 1
        for packet in source.demux(stream):
            if packets or (packet.is_keyframe and index_of(packet.pts) == first):
                packets.append(packet)
            if len(packets) == count or packet.dts is None or index_of(packet.dts) > last:
                break
        # Frames are stored in the order in which they are decoded: if exactly those of the clip come first, none of
        # them needs another one.
        if sorted(index_of(packet.pts) for packet in packets) != list(range(first, last + 1)):
            return False
        with av.open(str(output), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            copied = container.add_stream_from_template(stream)
            _set_chapters(container, chapters)
            offset = packets[0].pts or 0
            for packet in packets:
                packet.pts, packet.dts = (packet.pts or 0) - offset, (packet.dts or 0) - offset
                packet.stream = copied
                container.mux(packet)
    return True


def _set_chapters(container: "av.container.OutputContainer", chapters: Sequence[Chapter]) -> None:
    if chapters:
        container.set_chapters(
            [
                {
                    "id": number,
                    "start": round(1000 * chapter.start_s),
                    "end": round(1000 * chapter.end_s),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": chapter.title},
                }
                for number, chapter in enumerate(chapters, 1)
            ]
        )
