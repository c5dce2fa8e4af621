"""Filters decoded source frames: upright, square pixels, progressive, 8-bit 4:2:0, BT.709, SDR, all of one size."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.media.container import clockwise_rotation_deg, sample_aspect_ratio

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


class UprightFilter:
    """Filters the frames of a video as the normalized video has them.

    Args:
        first_frame: Determines the size and rotation of all frames.
        stream: The source's video stream.
        settings: Size, region and colour.

    Attributes:
        width_px: Width of the filtered frames.
        height_px: Height of the filtered frames.
    """

    def __init__(self, first_frame: VideoFrame, stream: VideoStream, settings: VideoSettings) -> None:
        self._settings = settings
        self._rotation_deg = clockwise_rotation_deg(first_frame)
        aspect = sample_aspect_ratio(stream)
        self._displayed = displayed_size(first_frame.width, first_frame.height, aspect, self._rotation_deg)
        self.width_px, self.height_px = normalized_size(
            first_frame.width, first_frame.height, aspect, self._rotation_deg, settings
        )
        self._graph: Graph | None = None
        self._graph_input: tuple[object, ...] = ()

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame; yields the filtered frames that are ready, of this frame or of earlier ones."""
        graph_input = (frame.width, frame.height, frame.format.name, frame.interlaced_frame, frame.color_trc)
        if self._graph is None or graph_input != self._graph_input:
            yield from self.finish()
            self._graph, self._graph_input = self._build_graph(frame), graph_input
        frame.pts = None
        self._graph.push(frame)
        yield from self._pull()

    def finish(self) -> Iterator[VideoFrame]:
        """Yield the filtered frames that are still inside, and forget them."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
            self._graph = None

    def _pull(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                filtered_frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(filtered_frame, VideoFrame)
            yield filtered_frame

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
