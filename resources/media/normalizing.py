"""Normalizes a recording: takes over what conforms packet by packet, encodes the rest, accounts for everything."""

import logging
import math
from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from resources.errors import RejectedRecordingError
from resources.media.decoding import Decoding, Ledger
from resources.media.encoding import Encoder, is_high_dynamic_range
from resources.media.measuring import Glimpses, Measures
from resources.media.opening import (
    best_stream,
    bound_decoder,
    clockwise_rotation_deg,
    has_hardware_decoder,
    opened,
    sample_aspect_ratio,
)
from resources.media.timeline import Timeline, read_timeline
from resources.settings import VideoSettings

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Told how far some work is."""

    def __call__(self, done: int, total: int, picture: np.ndarray | None = None, /) -> None:
        """Take note.

        Args:
            done: Frames done.
            total: Frames expected; 0 if unknown.
            picture: Where there is one to show: what was worked on lately, small, a uint8 BGR array of shape
                (height_px, width_px, 3).
        """
        ...


_REFERABLE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2",)  # what browsers play
_HALF_SLOT = 0.4999  # a frame half-way between two places takes the earlier: of every two, the first is kept
_OTHER_MATRICES = (Colorspace.FCC, Colorspace.ITU601, Colorspace.SMPTE240M, Colorspace.BT2020, 6, 10)


@dataclass
class FrameRows:
    """The normalized frames in order, one array entry each."""

    source_frame_index: "array[int]" = field(default_factory=lambda: array("i"))
    time_s: "array[float]" = field(default_factory=lambda: array("d"))
    is_duplicated: "array[int]" = field(default_factory=lambda: array("b"))
    gap_s: "array[float]" = field(default_factory=lambda: array("d"))

    def append(self, source_frame_index: int, time_s: float, *, is_duplicated: bool, gap_s: float) -> None:
        """Add the next frame."""
        self.source_frame_index.append(source_frame_index)
        self.time_s.append(time_s)
        self.is_duplicated.append(is_duplicated)
        self.gap_s.append(gap_s)

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True)
class NormalizedVideo:
    """What normalization made of a recording, and its account of every packet and frame.

    Attributes:
        made_by: `encode`, `remux` or, where no file was written and the source serves itself, `reference`.
        source_rate_fps: The rate at which the source's packets tick.
        rate_fps: Frames per second of the normalized video.
        width_px: Its width.
        height_px: Its height.
        frames: Its frames.
        measures: Their measures.
        time_source: `pts`, or `frame_rate` where the source has no timestamps.
        is_variable_rate: Whether the source ticks unevenly.
        ledger: What became of the source's packets.
        container_packet_count: Packets that a first pass over the container found, for comparison.
        decimated_count: Decoded frames left out to keep the rate or by the setting every_nth.
        cut_off_count: Decoded frames left out because they lie outside the time range of the settings.
        is_broken_off: Whether the container itself could not be read to its end.
        start_time_s: pts of the first decoded frame on the file's own clock; None without timestamps.
        lead_s: Time between the first packet and the first frame that decoded.
        duration_s: Duration of what decoded, on the source's clock.
    """

    made_by: str
    source_rate_fps: Fraction
    rate_fps: Fraction
    width_px: int
    height_px: int
    frames: FrameRows
    measures: Measures
    time_source: str
    is_variable_rate: bool
    ledger: Ledger
    container_packet_count: int
    decimated_count: int
    cut_off_count: int
    is_broken_off: bool
    start_time_s: float | None
    lead_s: float
    duration_s: float

    @property
    def duplicated_count(self) -> int:
        """Frames that repeat the one before."""
        return sum(self.frames.is_duplicated)


def normalize(
    path: Path,
    output: Path,
    settings: VideoSettings,
    progress: Progress | None = None,
    thread_count: int | None = None,
) -> NormalizedVideo:
    """Write the normalized video of a recording and account for all that was read.

    A source that already conforms is taken over packet by packet, without re-encoding, or by setting only referenced.

    Args:
        path: The recording.
        output: The MP4 file to write; whatever is there is overwritten. Not written where the source is referenced.
        settings: Size, rate and quality bounds.
        progress: Called for every packet with frames read and frames expected.
        thread_count: Threads to decode with; None for as many as serve.

    Raises:
        RejectedRecordingError: Nothing of the file can be decoded, or nothing in the time range of the settings.
    """
    told = progress or (lambda done, total, picture=None: None)
    timeline = read_timeline(path, lambda: told(0, 0))
    if settings.hardware_decoding == "auto" and has_hardware_decoder():
        source = _Source(path, settings, timeline, told, thread_count, hardware=True)
        try:
            video = _normalized(source, output)
        except (av.error.FFmpegError, RejectedRecordingError) as error:
            logger.info("%s does not decode on the GPU (%s): decoding it on the CPU.", path.name, error)
        else:
            if video.ledger.is_clean:
                return video
            # The CPU's decoders make more of a damaged file.
            logger.info("%s is not clean: decoding it once more, on the CPU.", path.name)
    return _normalized(_Source(path, settings, timeline, told, thread_count), output)


@dataclass(frozen=True)
class _Source:
    path: Path
    settings: VideoSettings
    timeline: Timeline
    progress: Progress
    thread_count: int | None
    hardware: bool = False

    @property
    def may_be_taken_over(self) -> bool:
        """Whether packets and settings allow it; whether the pictures do shows when they are decoded."""
        settings = self.settings
        return (
            self.timeline.may_remux
            and settings.when_conforming != "encode"
            and self.timeline.rate_fps <= (settings.max_rate_fps or math.inf)
            and settings.every_nth == 1
            and settings.is_colour
            and settings.region is None
            and settings.start_s == 0
            and settings.end_s is None
        )


def _normalized(source: _Source, output: Path) -> NormalizedVideo:
    if source.may_be_taken_over:
        taken_over = _take_over(source, output)
        if taken_over is not None:
            return taken_over
    return _encode(source, output)


@dataclass
class _Slots:
    """Places source frames on the grid of a constant rate: repeats over short holes, skips over long ones."""

    rate_fps: Fraction
    max_gap_fill_s: float
    rows: FrameRows = field(default_factory=FrameRows)
    decimated_count: int = 0
    cut_off_count: int = 0
    _anchor_time_s: float = 0.0
    _anchor_slot: int = 0

    def place(self, source_frame_index: int, time_s: float) -> tuple[int, bool]:
        """Give a source frame its place.

        Returns:
            How often the frame before must be repeated first, and whether this frame is shown at all.
        """
        rate = float(self.rate_fps)
        next_slot = len(self.rows)
        if next_slot == 0:
            self._anchor_time_s = time_s
        slot = self._anchor_slot + math.floor((time_s - self._anchor_time_s) * rate + _HALF_SLOT)
        if next_slot and slot < next_slot:
            self.decimated_count += 1
            return 0, False
        repeats, gap_s = slot - next_slot, 0.0
        if next_slot and repeats > self.max_gap_fill_s * rate:
            gap_s = max(0.0, time_s - (self.rows.time_s[-1] + 1 / rate))
            self._anchor_time_s, self._anchor_slot = time_s, next_slot
            repeats = 0
        for number in range(repeats):
            shown_s = self._anchor_time_s + (next_slot + number - self._anchor_slot) / rate
            # Rounding may put a repeat a hair before its original or after its successor; times must ascend.
            shown_s = min(max(shown_s, self.rows.time_s[-1] + 1e-6), time_s - 1e-6 * (repeats - number))
            self.rows.append(self.rows.source_frame_index[-1], shown_s, is_duplicated=True, gap_s=0.0)
        self.rows.append(source_frame_index, time_s, is_duplicated=False, gap_s=gap_s)
        return repeats, True


def _take_over(source: _Source, output: Path) -> NormalizedVideo | None:
    """Take the packets over as they are, decoding each once to account for it; None if the source does not conform."""
    settings, timeline = source.settings, source.timeline
    slots = _Slots(timeline.rate_fps, settings.max_gap_fill_s)
    measures = Measures(glimpses=Glimpses(timeline.packet_count))
    with opened(source.path, HWAccel("cuda") if source.hardware else None) as container:
        stream = best_stream(container)
        bound_decoder(stream, settings.max_pixels, source.thread_count)
        is_referenced = settings.when_conforming == "reference" and container.format.name in _REFERABLE_CONTAINERS
        target = None if is_referenced else _Remuxer(output, stream, timeline)
        decoding = Decoding(container, stream, timeline)
        width_px = height_px = 0
        try:
            for packet, frames in decoding.packets():
                for frame in frames:
                    if not _conforms(frame, stream, settings):
                        return None
                    index, time_s, _ = decoding.place(frame)
                    repeats, is_shown = slots.place(index, time_s)
                    if repeats or not is_shown:
                        return None
                    measures.add(frame)
                    width_px, height_px = frame.width, frame.height
                if target and packet.size and packet.pts is not None:
                    target.add(packet, decoding.packet_count - 1)
                source.progress(decoding.decoded_count, timeline.packet_count, measures.glimpses.newest)
            source.progress(timeline.packet_count, timeline.packet_count)
        finally:
            if target:
                target.close()
    ledger = decoding.ledger()
    if not ledger.is_clean or ledger.decoded_count != ledger.packet_count or not width_px:
        return None
    made_by = "reference" if is_referenced else "remux"
    return _account(made_by, source, slots, measures, decoding, ledger, (width_px, height_px))


class _Remuxer:
    """Copies packets into an MP4 whose first picture is at 0, so that players and decoders agree on the time."""

    def __init__(self, output: Path, stream: VideoStream, timeline: Timeline) -> None:
        self._container = av.open(str(output), mode="w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream_from_template(stream, opaque=True)
        self._timeline = timeline
        self._first_pts: int | None = None

    def add(self, packet: "av.Packet[VideoStream]", number: int) -> None:
        """Write a packet; `number` is its place in the file."""
        assert packet.pts is not None
        self._first_pts = packet.pts if self._first_pts is None else self._first_pts
        packet.dts = self._timeline.dts[number] - self._first_pts
        packet.pts -= self._first_pts
        packet.stream = self._stream  # type: ignore[assignment]
        self._container.mux(packet)

    def close(self) -> None:
        """Write the index and close the file."""
        self._container.close()


def _conforms(frame: VideoFrame, stream: VideoStream, settings: VideoSettings) -> bool:
    return (
        frame.format.name in ("yuv420p", "nv12")  # nv12 is how the GPU hands out the same pictures
        and frame.color_range != ColorRange.JPEG
        and frame.colorspace not in _OTHER_MATRICES
        and not is_high_dynamic_range(frame)
        and not frame.interlaced_frame
        and clockwise_rotation_deg(frame) == 0
        and sample_aspect_ratio(stream) == 1
        and frame.height <= (settings.max_height_px or math.inf)
        and frame.width % 2 == 0
        and frame.height % 2 == 0
    )


def _encode(source: _Source, output: Path) -> NormalizedVideo:
    settings, timeline = source.settings, source.timeline
    rate = timeline.rate_fps / settings.every_nth
    if settings.max_rate_fps and rate > settings.max_rate_fps:
        rate = Fraction(settings.max_rate_fps).limit_denominator(1001)
    slots = _Slots(rate, settings.max_gap_fill_s)
    kept_s = min(timeline.packet_count / float(timeline.rate_fps), (settings.end_s or math.inf) - settings.start_s)
    measures = Measures(glimpses=Glimpses(int(kept_s * float(rate))))
    with opened(source.path, HWAccel("cuda") if source.hardware else None) as container:
        stream = best_stream(container)
        bound_decoder(stream, settings.max_pixels, source.thread_count)
        decoding = Decoding(container, stream, timeline)
        encoder: Encoder | None = None
        try:
            for index, time_s, frame in decoding.frames():
                source.progress(decoding.decoded_count, timeline.packet_count, measures.glimpses.newest)
                if time_s < settings.start_s:
                    slots.cut_off_count += 1
                    continue
                if settings.end_s is not None and time_s >= settings.end_s:
                    slots.cut_off_count += 1
                    break
                if (index - slots.cut_off_count) % settings.every_nth:
                    slots.decimated_count += 1
                    continue
                if encoder is None:
                    encoder = Encoder(output, frame, stream, rate, settings, measures)
                repeats, is_shown = slots.place(index, time_s)
                encoder.repeat(repeats)
                if is_shown:
                    encoder.add(frame)
            if encoder is None:
                raise RejectedRecordingError(_nothing_to_show(decoding, settings))
            source.progress(timeline.packet_count, timeline.packet_count)
            encoder.finish()
        finally:
            if encoder is not None:
                encoder.close()
    size = encoder.width_px, encoder.height_px
    return _account("encode", source, slots, measures, decoding, decoding.ledger(), size)


def _nothing_to_show(decoding: Decoding, settings: VideoSettings) -> str:
    if decoding.decoded_count:
        until = "its end" if settings.end_s is None else f"{settings.end_s:g} s"
        return f"It shows nothing between {settings.start_s:g} s and {until}: change video.start_s or video.end_s."
    return (
        f"None of its {decoding.packet_count} video packets can be decoded: "
        "the stream is damaged, scrambled or incomplete."
    )


def _account(
    made_by: str,
    source: _Source,
    slots: _Slots,
    measures: Measures,
    decoding: Decoding,
    ledger: Ledger,
    size: tuple[int, int],
) -> NormalizedVideo:
    timeline = source.timeline
    first_s, start_s = timeline.first_pts_s, decoding.first_pts_s
    return NormalizedVideo(
        made_by=made_by,
        source_rate_fps=timeline.rate_fps,
        rate_fps=slots.rate_fps,
        width_px=size[0],
        height_px=size[1],
        frames=slots.rows,
        measures=measures,
        time_source="pts" if timeline.has_timestamps else "frame_rate",
        is_variable_rate=timeline.is_variable_rate,
        ledger=ledger,
        container_packet_count=timeline.packet_count,
        decimated_count=slots.decimated_count,
        cut_off_count=slots.cut_off_count,
        is_broken_off=timeline.is_broken_off,
        start_time_s=start_s,
        lead_s=max(0.0, start_s - first_s) if start_s is not None and first_s is not None else 0.0,
        duration_s=slots.rows.time_s[-1] + float(1 / slots.rate_fps),
    )
