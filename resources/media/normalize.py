"""Normalizes a recording: remuxes a source that conforms, transcodes any other, and accounts for every packet."""

import logging
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.errors import RejectedRecordingError
from resources.media.container import (
    best_stream,
    clockwise_rotation_deg,
    configure_decoder,
    has_hardware_decoder,
    open_container,
    sample_aspect_ratio,
)
from resources.media.encode import Encoder
from resources.media.frame_measures import FrameMeasures, SampledFrames
from resources.media.normalized_file import WHOLE_FRAME, FrameRows, NormalizedVideo
from resources.media.progress import ReportProgress
from resources.media.source_decoder import PacketLedger, RecordingDecoder
from resources.media.timeline import Timeline, read_timeline
from resources.media.upright_filter import is_high_dynamic_range

logger = logging.getLogger(__name__)
_REFERENCEABLE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2",)  # those that browsers play
_HALF_SLOT = 0.4999  # a frame half-way between two slots gets the earlier slot
_OTHER_MATRICES = (Colorspace.FCC, Colorspace.ITU601, Colorspace.SMPTE240M, Colorspace.BT2020, 6, 10)


def normalize(
    path: Path,
    output: Path,
    settings: VideoSettings,
    progress: ReportProgress | None = None,
    thread_count: int | None = None,
) -> NormalizedVideo:
    """Write the normalized video of a recording and account for every packet.

    A source that conforms is remuxed without encoding or, depending on the settings, only referenced.

    Args:
        path: The recording.
        output: The MP4 file to write; an existing one is overwritten. Not written if the source is referenced.
        settings: Limits of size and rate, quality, region and time range.
        progress: Called for every packet or frame, with the number of frames decoded and expected.
        thread_count: Decoding threads; None means one per core, up to 8.

    Raises:
        RejectedRecordingError: No frame can be decoded, or none in the time range of the settings.
    """
    report = progress or (lambda done, total, image=None: None)
    timeline = read_timeline(path, lambda: report(0, 0))
    if settings.hardware_decoding == "auto" and has_hardware_decoder():
        source = _Source(path, settings, timeline, report, thread_count, hardware=True)
        try:
            video = _normalize_source(source, output)
        except (av.error.FFmpegError, RejectedRecordingError) as error:
            logger.info("%s cannot be decoded on the GPU (%s): decoding it on the CPU.", path.name, error)
        else:
            if video.ledger.is_clean:
                return video
            # The CPU's decoders recover more frames from a damaged file.
            logger.info("%s has damaged or missing frames: decoding it again on the CPU.", path.name)
    return _normalize_source(_Source(path, settings, timeline, report, thread_count), output)


@dataclass(frozen=True)
class _Source:
    """A recording to normalize, with its settings and timeline."""

    path: Path
    settings: VideoSettings
    timeline: Timeline
    progress: ReportProgress
    thread_count: int | None
    hardware: bool = False

    @property
    def may_remux(self) -> bool:
        """Whether packets and settings allow remuxing; whether the frames conform is known once they are decoded."""
        settings = self.settings
        return (
            self.timeline.is_remuxable
            and settings.when_conforming != "encode"
            and self.timeline.rate_fps <= (settings.max_rate_fps or math.inf)
            and settings.every_nth == 1
            and settings.is_colour
            and settings.region is None
            and settings.start_s == 0
            and settings.end_s is None
        )


def _normalize_source(source: _Source, output: Path) -> NormalizedVideo:
    if source.may_remux and (video := _remux(source, output)) is not None:
        return video
    return _transcode(source, output)


@dataclass
class _Slots:
    """Assigns source frames to the slots of a constant frame rate: repeats fill short gaps, long gaps are skipped."""

    rate_fps: Fraction
    max_gap_fill_s: float
    rows: FrameRows = field(default_factory=FrameRows)
    decimated_count: int = 0
    out_of_range_count: int = 0
    source_end_s: float = math.inf  # end of the last source frame in the range, which a reduced rate may leave out
    _anchor_time_s: float = 0.0
    _anchor_slot: int = 0

    def assign(self, source_frame_index: int, time_s: float) -> tuple[int, bool]:
        """Assign a source frame to its slot.

        Args:
            source_frame_index: Index of the source frame.
            time_s: Its time on the source's clock; ascending.

        Returns:
            How often the previous frame is repeated before this one, and whether this frame has a slot.
        """
        rate_fps = float(self.rate_fps)
        next_slot = len(self.rows)
        if next_slot == 0:
            self._anchor_time_s = time_s
        slot = self._anchor_slot + math.floor((time_s - self._anchor_time_s) * rate_fps + _HALF_SLOT)
        if next_slot and slot < next_slot:
            self.decimated_count += 1
            return 0, False
        repeats, gap_s = slot - next_slot, 0.0
        if next_slot and repeats > self.max_gap_fill_s * rate_fps:
            gap_s = max(0.0, time_s - (self.rows.time_s[-1] + 1 / rate_fps))
            self._anchor_time_s, self._anchor_slot = time_s, next_slot
            repeats = 0
        for number in range(repeats):
            repeat_s = self._anchor_time_s + (next_slot + number - self._anchor_slot) / rate_fps
            # Rounding may put a repeat slightly before its original or after its successor; times must ascend.
            repeat_s = min(max(repeat_s, self.rows.time_s[-1] + 1e-6), time_s - 1e-6 * (repeats - number))
            self.rows.append(self.rows.source_frame_index[-1], repeat_s, is_duplicated=True, gap_s=0.0)
        self.rows.append(source_frame_index, time_s, is_duplicated=False, gap_s=gap_s)
        return repeats, True


def _remux(source: _Source, output: Path) -> NormalizedVideo | None:
    """Remux or reference the source, decoding each packet once for the ledger; None if the source does not conform."""
    settings, timeline = source.settings, source.timeline
    slots = _Slots(timeline.rate_fps, settings.max_gap_fill_s)
    measures = FrameMeasures(sampled_frames=SampledFrames(timeline.packet_count))
    with open_container(source.path, HWAccel("cuda") if source.hardware else None) as container:
        stream = best_stream(container)
        configure_decoder(stream, settings.max_pixels, source.thread_count)
        is_referenced = settings.when_conforming == "reference" and container.format.name in _REFERENCEABLE_CONTAINERS
        remuxer = None if is_referenced else _Remuxer(output, stream, timeline)
        decoder = RecordingDecoder(container, stream, timeline)
        width_px = height_px = 0
        try:
            for packet, frames in decoder.packets():
                for frame in frames:
                    has_other_size = width_px and (frame.width, frame.height) != (width_px, height_px)
                    if has_other_size or not _conforms(frame, stream, settings):
                        return None
                    index, time_s = decoder.register_frame(frame)
                    repeats, is_kept = slots.assign(index, time_s)
                    if repeats or not is_kept:
                        return None
                    measures.add(frame)
                    width_px, height_px = frame.width, frame.height
                if remuxer and packet.size and packet.pts is not None:
                    remuxer.add(packet, decoder.packet_count - 1)
                source.progress(decoder.decoded_count, timeline.packet_count, measures.sampled_frames.latest_thumbnail)
            source.progress(timeline.packet_count, timeline.packet_count)
        finally:
            if remuxer:
                remuxer.close()
    ledger = decoder.ledger()
    if not ledger.is_clean or ledger.decoded_count != ledger.packet_count or not width_px:
        return None
    normalized_by = "reference" if is_referenced else "remux"
    return _build_result(normalized_by, source, slots, measures, decoder, ledger, (width_px, height_px))


class _Remuxer:
    """Copies packets into an MP4 file whose first frame has PTS 0, so that players and decoders agree on the time."""

    def __init__(self, output: Path, stream: VideoStream, timeline: Timeline) -> None:
        self._container = av.open(str(output), mode="w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream_from_template(stream, opaque=True)
        self._timeline = timeline
        self._first_pts: int | None = None

    def add(self, packet: "av.Packet[VideoStream]", packet_index: int) -> None:
        """Write a packet; `packet_index` is its 0-based position in the file."""
        assert packet.pts is not None
        self._first_pts = packet.pts if self._first_pts is None else self._first_pts
        packet.dts = self._timeline.dts[packet_index] - self._first_pts
        packet.pts -= self._first_pts
        packet.stream = self._stream  # type: ignore[assignment]
        self._container.mux(packet)

    def close(self) -> None:
        """Write the index and close the file."""
        self._container.close()


def _conforms(frame: VideoFrame, stream: VideoStream, settings: VideoSettings) -> bool:
    return (
        frame.format.name in ("yuv420p", "nv12")  # nv12 is the layout in which the GPU outputs the same samples
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


def _transcode(source: _Source, output: Path) -> NormalizedVideo:
    settings, timeline = source.settings, source.timeline
    rate_fps = timeline.rate_fps / settings.every_nth
    if settings.max_rate_fps and rate_fps > settings.max_rate_fps:
        rate_fps = Fraction(settings.max_rate_fps).limit_denominator(1001)
    slots = _Slots(rate_fps, settings.max_gap_fill_s)
    expected_s = min(timeline.packet_count / float(timeline.rate_fps), (settings.end_s or math.inf) - settings.start_s)
    measures = FrameMeasures(sampled_frames=SampledFrames(int(expected_s * float(rate_fps))))
    with open_container(source.path, HWAccel("cuda") if source.hardware else None) as container:
        stream = best_stream(container)
        configure_decoder(stream, settings.max_pixels, source.thread_count)
        decoder = RecordingDecoder(container, stream, timeline)
        encoder: Encoder | None = None
        try:
            for index, time_s, frame in decoder.frames():
                source.progress(decoder.decoded_count, timeline.packet_count, measures.sampled_frames.latest_thumbnail)
                if time_s < settings.start_s:
                    slots.out_of_range_count += 1
                    continue
                if settings.end_s is not None and time_s >= settings.end_s:
                    slots.out_of_range_count += 1
                    decoder.stop()
                    continue
                slots.source_end_s = time_s + float(1 / timeline.rate_fps)
                if (index - slots.out_of_range_count) % settings.every_nth:
                    slots.decimated_count += 1
                    continue
                if encoder is None:
                    encoder = Encoder(output, frame, stream, rate_fps, settings, measures)
                repeats, is_kept = slots.assign(index, time_s)
                encoder.repeat(repeats)
                if is_kept:
                    encoder.add(frame)
            if encoder is None:
                raise RejectedRecordingError(_no_frame_sentence(decoder, settings))
            source.progress(timeline.packet_count, timeline.packet_count)
            encoder.finish()
        finally:
            if encoder is not None:
                encoder.close()
    size_px = encoder.width_px, encoder.height_px
    return _build_result("encode", source, slots, measures, decoder, decoder.ledger(), size_px)


def _no_frame_sentence(decoder: RecordingDecoder, settings: VideoSettings) -> str:
    if decoder.decoded_count:
        end = "its end" if settings.end_s is None else f"{settings.end_s:g} s"
        return (
            f"The recording has no frame between {settings.start_s:g} s and {end}: change video.start_s or video.end_s."
        )
    return (
        f"The video stream has {decoder.packet_count} packets, none of which can be decoded: "
        "it is damaged, encrypted or incomplete."
    )


def _build_result(
    normalized_by: str,
    source: _Source,
    slots: _Slots,
    measures: FrameMeasures,
    decoder: RecordingDecoder,
    ledger: PacketLedger,
    size_px: tuple[int, int],
) -> NormalizedVideo:
    timeline = source.timeline
    first_s, start_s = timeline.first_pts_s, decoder.first_pts_s
    return NormalizedVideo(
        normalized_by=normalized_by,
        source_rate_fps=timeline.rate_fps,
        rate_fps=slots.rate_fps,
        width_px=size_px[0],
        height_px=size_px[1],
        frames=slots.rows,
        measures=measures,
        time_source="pts" if timeline.has_timestamps else "frame_rate",
        is_variable_rate=timeline.is_variable_rate,
        ledger=ledger,
        container_packet_count=timeline.packet_count,
        decimated_count=slots.decimated_count,
        out_of_range_count=slots.out_of_range_count,
        is_truncated=timeline.is_truncated,
        start_time_s=start_s,
        lead_s=max(0.0, start_s - first_s) if start_s is not None and first_s is not None else 0.0,
        region=source.settings.region or WHOLE_FRAME,
        duration_s=min(slots.rows.time_s[-1] + float(1 / slots.rate_fps), slots.source_end_s),
    )
