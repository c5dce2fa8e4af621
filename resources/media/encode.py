"""Encodes source frames as normalized H.264 in MP4."""

import functools
import logging
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.media.frame_measures import FrameMeasures
from resources.media.upright_filter import UprightFilter

logger = logging.getLogger(__name__)
_SOFTWARE_ENCODER = "libx264"
_ENCODER_PRESET = "superfast"

_HARDWARE_ENCODERS: dict[str, Callable[[int], dict[str, str]]] = {
    "h264_nvenc": lambda crf: {"preset": "p4", "rc": "vbr", "cq": str(crf), "b": "0"},
    "h264_qsv": lambda crf: {"global_quality": str(max(1, crf))},
    "h264_videotoolbox": lambda crf: {"q": str(max(1, 100 - 2 * crf))},
}
_KEYFRAME_INTERVAL_S = 2


class Encoder:
    """Writes one normalized video.

    Args:
        output: The MP4 file.
        first_frame: Determines the size and rotation of all frames.
        stream: The source's video stream.
        rate_fps: Frame rate of the output.
        settings: Size, region, colour and quality.
        measures: Receives an entry for every normalized frame.

    Attributes:
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
    """

    def __init__(
        self,
        output: Path,
        first_frame: VideoFrame,
        stream: VideoStream,
        rate_fps: Fraction,
        settings: VideoSettings,
        measures: FrameMeasures,
    ) -> None:
        self._measures = measures
        self._filter = UprightFilter(first_frame, stream, settings)
        self.width_px, self.height_px = self._filter.width_px, self._filter.height_px
        self._container = av.open(str(output), mode="w", format="mp4", options={"movflags": "+faststart"})
        name, options = _SOFTWARE_ENCODER, {"preset": _ENCODER_PRESET, "crf": str(settings.crf)}
        if settings.encoder == "hardware" and (hardware_encoder := _find_hardware_encoder()):
            name, options = hardware_encoder, _HARDWARE_ENCODERS[hardware_encoder](settings.crf)
        video = self._container.add_stream(name, rate=rate_fps)
        assert isinstance(video, VideoStream)
        self._video = video
        self._video.width, self._video.height, self._video.pix_fmt = self.width_px, self.height_px, "yuv420p"
        self._video.time_base = self._video.codec_context.time_base = self._time_base = 1 / rate_fps
        context = self._video.codec_context
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._video.options = {**options, "g": str(max(1, math.floor(_KEYFRAME_INTERVAL_S * rate_fps)))}
        self._pending_counts: list[int] = []  # how often to write each frame that is inside the filter, oldest first
        self._next_slot = 0

    def add(self, frame: VideoFrame) -> None:
        """Append a frame."""
        self._pending_counts.append(1)
        self._take(self._filter.push(frame))

    def repeat(self, times: int) -> None:
        """Repeat the last frame `times` times."""
        if times and self._pending_counts:
            self._pending_counts[-1] += times
        elif times:
            self._write(times)

    def finish(self) -> None:
        """Flush the filter and the encoder."""
        self._take(self._filter.finish())
        self._container.mux(self._video.encode(None))

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _take(self, filtered_frames: Iterable[VideoFrame]) -> None:
        for filtered_frame in filtered_frames:
            self._last_frame = filtered_frame
            self._measures.add(filtered_frame)
            self._write(1)
            self._write(self._pending_counts.pop(0) - 1)

    def _write(self, times: int) -> None:
        """Encode the last filtered frame; each time after the first is a repeat."""
        for _ in range(times):
            self._last_frame.pts, self._last_frame.time_base = self._next_slot, self._time_base
            self._last_frame.pict_type = PictureType.NONE
            self._next_slot += 1
            if self._next_slot > len(self._measures):
                self._measures.repeat()
            self._container.mux(self._video.encode(self._last_frame))


@functools.cache
def _find_hardware_encoder() -> str | None:
    """Find the first hardware encoder that works on this machine, by encoding a frame with each."""
    for name, options in _HARDWARE_ENCODERS.items():
        try:
            context = VideoCodecContext.create(name, "w")
            assert isinstance(context, VideoCodecContext)
            context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
            context.time_base, context.options = Fraction(1, 25), options(23)
            frame = VideoFrame(256, 256, "yuv420p")
            frame.pts = 0
            context.encode(frame)
            context.encode(None)
        except (av.error.FFmpegError, ValueError) as error:
            logger.info("The hardware encoder %s does not work on this machine: %s", name, error)
        else:
            return name
    logger.warning("No hardware encoder works on this machine: encoding in software.")
    return None
