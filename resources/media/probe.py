"""Probes a recording: the claims of its header, and the properties of its first frame."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.errors import RejectedRecordingError
from resources.media.container import (
    best_stream,
    clockwise_rotation_deg,
    configure_decoder,
    decode_packet,
    open_container,
    sample_aspect_ratio,
)
from resources.media.upright_filter import displayed_size

# In order of preference: Apple's date includes the local time zone, the others are UTC by their specification.
_CREATION_TAGS = ("com.apple.quicktime.creationdate", "creation_time", "date_recorded", "date")
_FIELD_ORDERS = ("unknown", "progressive", "top_first", "bottom_first", "top_first", "bottom_first")
_MAX_FRAME_COUNT = 2**31 - 1  # what the column can store; no file has more
_MIN_CREATION_YEAR = 1990  # clocks that were never set start at 1904 or 1970


@dataclass(frozen=True)
class Probe:
    """Claims of the header and properties of the first frame; None if the file does not specify the value.

    Every field is a column of `recordings`, which documents its meaning.
    """

    container_name: str
    codec_name: str
    codec_profile: str | None
    pixel_format: str
    bit_depth: int
    color_primaries: str | None
    color_transfer: str | None
    color_matrix: str | None
    color_range: str | None
    field_order: str
    stream_index: int
    video_stream_count: int
    has_audio: bool
    coded_width_px: int
    coded_height_px: int
    displayed_width_px: int
    displayed_height_px: int
    rotation_deg: int
    sample_aspect_ratio: float
    rate_fps_num_from_header: int | None
    rate_fps_den_from_header: int | None
    rate_fps_from_header: float | None
    frame_count_from_header: int | None
    duration_s_from_header: float | None
    start_time_s_from_header: float | None
    created_at_utc: datetime | None
    created_at_source: str | None


def probe(
    path: Path,
    settings: VideoSettings,
    report_alive: Callable[[], None] = lambda: None,
    thread_count: int | None = None,
) -> Probe:
    """Read the header of a recording, and its first frame that can be decoded.

    Args:
        path: The recording.
        settings: Limit of the frame size.
        report_alive: Called for every packet.
        thread_count: Decoding threads; None means one per core, up to 8.

    Raises:
        RecordingError: The file does not exist or is not readable.
        RejectedRecordingError: The file is not a video, has no video stream, has no frame that can be decoded, or its
            frame size exceeds `settings.max_pixels`.
    """
    with open_container(path) as container:
        stream = best_stream(container)
        context = stream.codec_context
        if context.width * context.height > settings.max_pixels:
            raise RejectedRecordingError(
                f"The frame size {context.width}x{context.height} exceeds video.max_pixels ({settings.max_pixels:,}): "
                "raise the setting if the size is right."
            )
        configure_decoder(stream, settings.max_pixels, thread_count)
        frame = _decode_first_frame(container, stream, report_alive)
        if frame is None:
            raise RejectedRecordingError(
                f"The video stream has no frame that can be decoded ({context.name} in {container.format.name}): it is "
                "damaged, encrypted or incomplete."
            )
        time_base = stream.time_base or Fraction(1, 1)
        duration_s = float(stream.duration * time_base) if stream.duration else None
        if duration_s is None and container.duration:
            duration_s = container.duration / av.time_base
        rate = Fraction(stream.average_rate) if stream.average_rate else None
        aspect, rotation_deg = sample_aspect_ratio(stream), clockwise_rotation_deg(frame)
        displayed_width_px, displayed_height_px = displayed_size(frame.width, frame.height, aspect, rotation_deg)
        created_at_utc, created_at_source = _read_creation_time(container, stream)
        return Probe(
            container_name=container.format.name,
            codec_name=context.codec.canonical_name,
            codec_profile=context.profile,
            pixel_format=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            color_primaries=_enum_name(ColorPrimaries, frame.color_primaries),
            color_transfer=_enum_name(ColorTrc, frame.color_trc),
            color_matrix=_enum_name(Colorspace, frame.colorspace),
            color_range={1: "limited", 2: "full"}.get(int(frame.color_range)),
            field_order=_field_order(frame, context.field_order),
            stream_index=stream.index,
            video_stream_count=len(container.streams.video),
            has_audio=bool(container.streams.audio),
            coded_width_px=frame.width,
            coded_height_px=frame.height,
            displayed_width_px=displayed_width_px,
            displayed_height_px=displayed_height_px,
            rotation_deg=rotation_deg,
            sample_aspect_ratio=float(aspect),
            rate_fps_num_from_header=rate.numerator if rate else None,
            rate_fps_den_from_header=rate.denominator if rate else None,
            rate_fps_from_header=float(rate) if rate else None,
            frame_count_from_header=stream.frames if 0 < stream.frames <= _MAX_FRAME_COUNT else None,
            duration_s_from_header=duration_s,
            start_time_s_from_header=float(stream.start_time * time_base) if stream.start_time is not None else None,
            created_at_utc=created_at_utc,
            created_at_source=created_at_source,
        )


def _decode_first_frame(
    container: InputContainer, stream: VideoStream, report_alive: Callable[[], None]
) -> VideoFrame | None:
    try:
        for packet in container.demux(stream):
            report_alive()
            if frames := decode_packet(packet):
                return frames[0]
    except av.error.FFmpegError:
        pass  # the container ends before the first frame, which the caller reports
    return None


def _enum_name(numbering: type[ColorPrimaries] | type[ColorTrc] | type[Colorspace], number: int) -> str | None:
    """Name of one of FFmpeg's enum values; None for unspecified and unnamed values."""
    for member in numbering:
        if member.value == number and member.name != "UNSPECIFIED":
            return member.name.lower()
    return {6: "smpte170m", 10: "bt2020_cl"}.get(number) if numbering is Colorspace else None


def _field_order(frame: VideoFrame, number: int) -> str:
    """Field order as declared by the stream; if unspecified, whether the first frame is interlaced."""
    stream_field_order = _FIELD_ORDERS[number] if 0 <= number < len(_FIELD_ORDERS) else "unknown"
    if stream_field_order != "unknown":
        return stream_field_order
    return "interlaced" if frame.interlaced_frame else "progressive"


def _read_creation_time(container: InputContainer, stream: VideoStream) -> tuple[datetime | None, str | None]:
    """Creation time according to the file's metadata, and the tag that holds it; (None, None) without one."""
    for tag in _CREATION_TAGS:
        text = container.metadata.get(tag) or container.metadata.get(tag.upper()) or stream.metadata.get(tag)
        if not text or not re.match(r"\d{4}-\d\d-\d\d.\d\d:\d\d", text):
            continue
        try:
            creation_time = datetime.fromisoformat(text)
        except ValueError:
            continue
        creation_time = creation_time if creation_time.tzinfo else creation_time.replace(tzinfo=UTC)
        if creation_time.year >= _MIN_CREATION_YEAR:
            return creation_time.astimezone(UTC), tag
    return None, None
