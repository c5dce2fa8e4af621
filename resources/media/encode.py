"""Encodes source frames as normalized H.264 in MP4: upright, square pixels, progressive, 8-bit 4:2:0, BT.709, SDR."""

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

from resources.config.media_config import VideoSettings
from resources.media.container import clockwise_rotation_deg, sample_aspect_ratio
from resources.media.frame_measures import FrameMeasures

logger = logging.getLogger(__name__)
_SOFTWARE_ENCODER = "libx264"
_ENCODER_PRESET = "superfast"

_HARDWARE_ENCODERS: dict[str, Callable[[int], dict[str, str]]] = {
    "h264_nvenc": lambda crf: {"preset": "p4", "rc": "vbr", "cq": str(crf), "b": "0"},
    "h264_qsv": lambda crf: {"global_quality": str(max(1, crf))},
    "h264_videotoolbox": lambda crf: {"q": str(max(1, 100 - 2 * crf))},
}
_KEYFRAME_INTERVAL_S = 2
_HD_HEIGHT_PX = 720  # with an unspecified colour matrix, frames of at least this height are BT.709, others BT.601
_ROTATION_FILTERS = {90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "cclock")]}
_UNSPECIFIED = 2  # FFmpeg's number of an unspecified colour matrix
_HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ and HLG


def is_high_dynamic_range(frame: VideoFrame) -> bool:
    """Whether a frame must be tone-mapped, or its colours mapped into the gamut of BT.709."""
    return frame.color_trc in _HDR_TRANSFERS or frame.color_primaries == ColorPrimaries.BT2020


def normalized_size(
    width_px: int, height_px: int, aspect: Fraction, rotation_deg: int, settings: VideoSettings
) -> tuple[int, int]:
    """Compute the size of the normalized video: upright, square pixels, even, at most the displayed size.

    For square pixels the frame is made wider if its pixels are wide, and taller if they are tall, so that no row or
    column of the source is lost. The settings may limit the height further.
    """
    _, _, width, height = _region_px(*displayed_size(width_px, height_px, aspect, rotation_deg), settings)
    scale = min(Fraction(1), Fraction(settings.max_height_px or height) / height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def displayed_size(width_px: int, height_px: int, aspect: Fraction, rotation_deg: int) -> tuple[int, int]:
    """Compute the upright size with square pixels, before any setting is applied."""
    width, height = Fraction(width_px), Fraction(height_px)
    if aspect >= 1:
        width *= aspect
    else:
        height /= aspect
    if rotation_deg in (90, 270):
        width, height = height, width
    return max(1, round(width)), max(1, round(height))


def _region_px(width_px: int, height_px: int, settings: VideoSettings) -> tuple[int, int, int, int]:
    """Left, top, width and height of the region of interest within a displayed frame."""
    if settings.region is None:
        return 0, 0, width_px, height_px
    left, top, right, bottom = settings.region
    x_px, y_px = math.floor(left * width_px), math.floor(top * height_px)
    return x_px, y_px, max(2, math.ceil(right * width_px) - x_px), max(2, math.ceil(bottom * height_px) - y_px)


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
        self._settings, self._measures = settings, measures
        self._rotation_deg = clockwise_rotation_deg(first_frame)
        aspect = sample_aspect_ratio(stream)
        self._displayed = displayed_size(first_frame.width, first_frame.height, aspect, self._rotation_deg)
        self.width_px, self.height_px = normalized_size(
            first_frame.width, first_frame.height, aspect, self._rotation_deg, settings
        )
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
        self._graph: Graph | None = None
        self._graph_input: tuple[object, ...] = ()
        self._pending_counts: list[int] = []  # how often to write each frame that is inside the graph, oldest first
        self._next_slot = 0

    def add(self, frame: VideoFrame) -> None:
        """Append a frame."""
        graph_input = (frame.width, frame.height, frame.format.name, frame.interlaced_frame, frame.color_trc)
        if self._graph is None or graph_input != self._graph_input:
            self._drain(is_last=True)
            self._graph, self._graph_input = self._build_graph(frame), graph_input
        frame.pts = None
        self._pending_counts.append(1)
        self._graph.push(frame)
        self._drain()

    def repeat(self, times: int) -> None:
        """Repeat the last frame `times` times."""
        if times and self._pending_counts:
            self._pending_counts[-1] += times
        elif times:
            self._write(times)

    def finish(self) -> None:
        """Flush the filter graph and the encoder."""
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
        while self._pending_counts:
            try:
                filtered_frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(filtered_frame, VideoFrame)
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
        for node, next_node in itertools.pairwise(nodes):
            node.link_to(next_node)
        graph.configure()
        return graph

    def _filters(self, frame: VideoFrame) -> list[tuple[str, str]]:
        chain = [("bwdif", "mode=send_frame")] if frame.interlaced_frame else []
        chain += _ROTATION_FILTERS.get(self._rotation_deg, [])
        if self._settings.region is not None:
            chain.append(("crop", self._crop_arguments(frame)))
        colour = "out_color_matrix=bt709:out_range=tv"
        if is_high_dynamic_range(frame):
            # The perceptual intent selects libswscale's tone mapping: highlights are rolled off, not clipped.
            colour += ":out_primaries=bt709:out_transfer=bt709:intent=perceptual"
        elif frame.colorspace == _UNSPECIFIED:
            colour += f":in_color_matrix={'bt709' if frame.height >= _HD_HEIGHT_PX else 'bt601'}"
        chain.append(("scale", f"{self.width_px}:{self.height_px}:flags=bicubic:{colour}"))
        grey = [] if self._settings.is_colour else [("hue", "s=0")]
        return [*chain, ("format", "yuv420p"), *grey, ("setsar", "1")]

    def _crop_arguments(self, frame: VideoFrame) -> str:
        """Arguments of the crop filter for the region of interest, in upright pixels before they are made square."""
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
