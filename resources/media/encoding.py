"""Turns source pictures upright, square, progressive, 8-bit 4:2:0 BT.709 SDR, and writes them as H.264 in MP4."""

import functools
import itertools
import logging
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from resources.media.measuring import Measures
from resources.media.opening import clockwise_rotation_deg, sample_aspect_ratio
from resources.settings import VideoSettings

logger = logging.getLogger(__name__)

_SOFTWARE_ENCODER = "libx264"
_ENCODER_PRESET = "superfast"
_HARDWARE_ENCODERS: dict[str, Callable[[int], dict[str, str]]] = {
    "h264_nvenc": lambda crf: {"preset": "p4", "rc": "vbr", "cq": str(crf), "b": "0"},
    "h264_qsv": lambda crf: {"global_quality": str(max(1, crf))},
    "h264_videotoolbox": lambda crf: {"q": str(max(1, 100 - 2 * crf))},
}
_KEYFRAME_EVERY_S = 2
_HD_ROWS = 720  # pictures from here up are BT.709 where the file does not say, smaller ones BT.601, as players assume
_TURNS = {90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "cclock")]}
_UNSPECIFIED = 2  # of matrices, in ffmpeg's numbering
_HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ and HLG


def is_high_dynamic_range(frame: VideoFrame) -> bool:
    """Whether a picture must be tone-mapped, or its colours brought into BT.709's gamut."""
    return frame.color_trc in _HDR_TRANSFERS or frame.color_primaries == ColorPrimaries.BT2020


def normalized_size(
    width_px: int, height_px: int, aspect: Fraction, rotation_deg: int, settings: VideoSettings
) -> tuple[int, int]:
    """Upright size with square pixels, even, never larger than the source shows and no taller than allowed.

    Non-square pixels are made square by widening where they are wide and by heightening where they are tall, so that
    no row or column of the source is lost.
    """
    _, _, width, height = _region_px(*displayed_size(width_px, height_px, aspect, rotation_deg), settings)
    scale = min(Fraction(1), Fraction(settings.max_height_px or height) / height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def displayed_size(width_px: int, height_px: int, aspect: Fraction, rotation_deg: int) -> tuple[int, int]:
    """Upright size with square pixels, before any setting."""
    width, height = Fraction(width_px), Fraction(height_px)
    if aspect >= 1:
        width *= aspect
    else:
        height /= aspect
    if rotation_deg in (90, 270):
        width, height = height, width
    return max(1, round(width)), max(1, round(height))


def _region_px(width_px: int, height_px: int, settings: VideoSettings) -> tuple[int, int, int, int]:
    """Left, top, width and height of the region of interest within a displayed picture."""
    if settings.region is None:
        return 0, 0, width_px, height_px
    left, top, right, bottom = settings.region
    x_px, y_px = math.floor(left * width_px), math.floor(top * height_px)
    return x_px, y_px, max(2, math.ceil(right * width_px) - x_px), max(2, math.ceil(bottom * height_px) - y_px)


class Encoder:
    """Writes one normalized video.

    Args:
        output: The MP4 file.
        first: The first picture, which decides size and rotation of all.
        stream: Where it comes from.
        rate: Frames per second of the output.
        settings: Size, region, colour and quality.
        measures: Gets an entry for every normalized frame.

    Attributes:
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
    """

    def __init__(
        self,
        output: Path,
        first: VideoFrame,
        stream: VideoStream,
        rate: Fraction,
        settings: VideoSettings,
        measures: Measures,
    ) -> None:
        self._settings, self._measures = settings, measures
        self._rotation_deg = clockwise_rotation_deg(first)
        aspect = sample_aspect_ratio(stream)
        self._displayed = displayed_size(first.width, first.height, aspect, self._rotation_deg)
        self.width_px, self.height_px = normalized_size(first.width, first.height, aspect, self._rotation_deg, settings)
        self._container = av.open(str(output), mode="w", format="mp4", options={"movflags": "+faststart"})
        name, options = _SOFTWARE_ENCODER, {"preset": _ENCODER_PRESET, "crf": str(settings.crf)}
        if settings.encoder == "hardware" and (found := _hardware_encoder()):
            name, options = found, _HARDWARE_ENCODERS[found](settings.crf)
        video = self._container.add_stream(name, rate=rate)
        assert isinstance(video, VideoStream)
        self._video = video
        self._video.width, self._video.height, self._video.pix_fmt = self.width_px, self.height_px, "yuv420p"
        self._video.time_base = self._video.codec_context.time_base = self._time_base = 1 / rate
        context = self._video.codec_context
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._video.options = {**options, "g": str(max(1, math.floor(_KEYFRAME_EVERY_S * rate)))}
        self._graph: Graph | None = None
        self._graph_input: tuple[object, ...] = ()
        self._waiting: list[int] = []  # how often each frame inside the graph is to be shown, oldest first
        self._next_slot = 0

    def add(self, frame: VideoFrame) -> None:
        """Show this frame next."""
        described = (frame.width, frame.height, frame.format.name, frame.interlaced_frame, frame.color_trc)
        if self._graph is None or described != self._graph_input:
            self._drain(is_last=True)
            self._graph, self._graph_input = self._build_graph(frame), described
        frame.pts = None
        self._waiting.append(1)
        self._graph.push(frame)
        self._drain()

    def repeat(self, times: int) -> None:
        """Show the frame before `times` more often."""
        if times and self._waiting:
            self._waiting[-1] += times
        elif times:
            self._write(times)

    def finish(self) -> None:
        """Write what is still inside the graph and the encoder."""
        self._drain(is_last=True)
        self._container.mux(self._video.encode(None))

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _drain(self, *, is_last: bool = False) -> None:
        if self._graph is None:
            return
        if is_last:
            self._graph.push(None)
        while self._waiting:
            try:
                filtered = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(filtered, VideoFrame)
            self._last = filtered
            self._measures.add(filtered)
            self._write(1)
            self._write(self._waiting.pop(0) - 1)

    def _write(self, times: int) -> None:
        """Write the last picture; from the second time on it is a repeat."""
        for _ in range(times):
            self._last.pts, self._last.time_base = self._next_slot, self._time_base
            self._last.pict_type = PictureType.NONE
            self._next_slot += 1
            if self._next_slot > len(self._measures):
                self._measures.repeat()
            self._container.mux(self._video.encode(self._last))

    def _build_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 25),
            )
        ]
        nodes += [graph.add(name, arguments) for name, arguments in self._filters(frame)]
        nodes.append(graph.add("buffersink"))
        for node, following in itertools.pairwise(nodes):
            node.link_to(following)
        graph.configure()
        return graph

    def _filters(self, frame: VideoFrame) -> list[tuple[str, str]]:
        chain = [("bwdif", "mode=send_frame")] if frame.interlaced_frame else []
        chain += _TURNS.get(self._rotation_deg, [])
        if self._settings.region is not None:
            chain.append(("crop", self._crop(frame)))
        colour = "out_color_matrix=bt709:out_range=tv"
        if is_high_dynamic_range(frame):
            # The perceptual intent is libswscale's tone mapping: highlights are rolled off, not clipped.
            colour += ":out_primaries=bt709:out_transfer=bt709:intent=perceptual"
        elif frame.colorspace == _UNSPECIFIED:
            colour += f":in_color_matrix={'bt709' if frame.height >= _HD_ROWS else 'bt601'}"
        chain.append(("scale", f"{self.width_px}:{self.height_px}:flags=bicubic:{colour}"))
        grey = [] if self._settings.is_colour else [("hue", "s=0")]
        return [*chain, ("format", "yuv420p"), *grey, ("setsar", "1")]

    def _crop(self, frame: VideoFrame) -> str:
        """The region of interest in pixels of the upright picture as it is stored, before pixels are made square."""
        width_px, height_px = frame.width, frame.height
        if self._rotation_deg in (90, 270):
            width_px, height_px = height_px, width_px
        x_px, y_px, region_width_px, region_height_px = _region_px(*self._displayed, self._settings)
        x_scale, y_scale = width_px / self._displayed[0], height_px / self._displayed[1]
        return (
            f"{max(2, round(region_width_px * x_scale))}:{max(2, round(region_height_px * y_scale))}"
            f":{round(x_px * x_scale)}:{round(y_px * y_scale)}:exact=1"
        )


@functools.cache
def _hardware_encoder() -> str | None:
    """The first hardware encoder that works here, found by encoding a picture."""
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
            logger.info("The hardware encoder %s does not work here: %s", name, error)
        else:
            return name
    logger.warning("No hardware encoder works on this machine: encoding in software.")
    return None
