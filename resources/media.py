"""Reading recordings exactly and writing normalized video, with PyAV.

A normalized video is upright, has square pixels, is progressive 8-bit 4:2:0 H.264 in MP4 and of constant rate; every
one of its frames knows the source frame it shows and that frame's time on the source's clock.
"""

import itertools
import logging
import math
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.errors import RecordingError, RejectedRecordingError
from resources.settings import IntakeSettings, VideoSettings

logger = logging.getLogger(__name__)
av.logging.restore_default_callback()  # the Python callback needs the GIL, which a closing decoder may hold
av.logging.set_libav_level(av.logging.PANIC)  # damage is counted and told in the ledger, not on stderr

Progress = Callable[[int, int], None]
"""Called with frames done and frames expected (0 if unknown)."""

_STANDARD_RATES = (
    *(Fraction(n) for n in (5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 100, 120)),
    *(Fraction(n * 1000, 1001) for n in (15, 24, 30, 48, 60, 120)),
)  # fmt: skip
# Only containers that hold video themselves: playlists and scripts, whatever their name, could lead to other files.
_CONTAINERS = (
    "3dostr,asf,av1,avi,dhav,dv,flv,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,vvc,wtv"
)
_INPUT_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_FALLBACK_RATE = Fraction(25)
_ENCODER_PRESET = "superfast"
_KEYFRAME_EVERY_S = 2
_MAX_VARIABLE_RATE_FPS = 60.0  # bursts of a variable-rate recording do not set the rate of the whole
_REMUX_TOLERANCE_S = 0.0011  # timestamps rounded to milliseconds still count as a constant rate


@dataclass(frozen=True)
class Probe:
    """What a file claims and what its first picture shows; `None` where the file is silent."""

    container_name: str
    codec_name: str
    pixel_format: str
    stream_index: int
    video_stream_count: int
    has_audio: bool
    coded_width_px: int
    coded_height_px: int
    rotation_deg: int
    sample_aspect_ratio: float
    rate_fps_from_header: float | None
    frame_count_from_header: int | None
    duration_s_from_header: float | None
    start_time_s: float | None
    created_at_utc: datetime | None


@dataclass
class FrameRows:
    """The normalized frames in order, one list entry each."""

    source_frame_index: list[int] = field(default_factory=list)
    time_s: list[float] = field(default_factory=list)
    is_repeated: list[bool] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)

    def append(self, source_frame_index: int, time_s: float, *, is_repeated: bool, gap_s: float) -> None:
        """Add the next frame."""
        self.source_frame_index.append(source_frame_index)
        self.time_s.append(time_s)
        self.is_repeated.append(is_repeated)
        self.gap_s.append(gap_s)

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True)
class NormalizedVideo:
    """What normalization made of a recording, and its account of every packet and frame."""

    rate_fps: Fraction
    width_px: int
    height_px: int
    frames: FrameRows
    time_source: str
    packet_count: int
    discarded_count: int
    decoded_count: int
    corrupt_count: int
    decimated_count: int
    duration_s: float
    is_remuxed: bool

    @property
    def repeated_count(self) -> int:
        """Frames that repeat the one before."""
        return sum(self.frames.is_repeated)


def probe(path: Path, settings: VideoSettings) -> Probe:
    """Read what a file claims, and its first decodable picture.

    Raises:
        RejectedRecordingError: It is not a video, holds no video stream, none of its pictures decodes, or it claims
            more pixels than `settings.max_pixels`.
    """
    with _opened(path) as container:
        stream = _best_stream(container, path)
        context = stream.codec_context
        pixels = context.width * context.height
        if pixels > settings.max_pixels:
            raise RejectedRecordingError(
                f"It claims pictures of {context.width}x{context.height} pixels, more than video.max_pixels allows "
                f"({settings.max_pixels}): raise that setting if the claim is true."
            )
        frame = _first_frame(container, stream)
        if frame is None:
            raise RejectedRecordingError(
                f"None of its pictures can be decoded ({context.name} video in {container.format.name}): "
                "the stream is damaged, scrambled or incomplete."
            )
        time_base = stream.time_base or Fraction(1, 1)
        duration_s = float(stream.duration * time_base) if stream.duration else None
        if duration_s is None and container.duration:
            duration_s = container.duration / av.time_base
        return Probe(
            container_name=container.format.name,
            codec_name=context.codec.canonical_name,
            pixel_format=frame.format.name,
            stream_index=stream.index,
            video_stream_count=len(container.streams.video),
            has_audio=bool(container.streams.audio),
            coded_width_px=frame.width,
            coded_height_px=frame.height,
            rotation_deg=_clockwise_rotation_deg(frame),
            sample_aspect_ratio=float(_sample_aspect_ratio(frame, stream)),
            rate_fps_from_header=float(stream.average_rate) if stream.average_rate else None,
            frame_count_from_header=stream.frames or None,
            duration_s_from_header=duration_s,
            start_time_s=float(stream.start_time * time_base) if stream.start_time is not None else None,
            created_at_utc=_creation_time(container, stream),
        )


def normalize(path: Path, output: Path, settings: VideoSettings, progress: Progress | None = None) -> NormalizedVideo:
    """Write the normalized video of a recording and account for all that was read.

    A source that already conforms is taken over packet by packet, without re-encoding.

    Args:
        path: The recording.
        output: The MP4 file to write; whatever is there is overwritten.
        settings: Size, rate and quality bounds.
        progress: Called now and then with frames read and frames expected.

    Raises:
        RejectedRecordingError: Nothing of the file can be decoded.
    """
    timeline = _read_timeline(path)
    if timeline.may_remux and timeline.rate_fps <= (settings.max_rate_fps or math.inf):
        remuxed = _remux(path, output, settings, timeline, progress)
        if remuxed is not None:
            return remuxed
    return _encode(path, output, settings, timeline, progress)


def read_frames(
    path: Path, pixel_format: str = "bgr24", wanted: Sequence[int] | None = None
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Decode a normalized video.

    Args:
        path: The MP4 file.
        pixel_format: Format of the arrays, as ffmpeg names it.
        wanted: Ascending frame indices; None yields all. Only these are converted.

    Yields:
        (frame_index, picture), the picture a uint8 array of shape (height_px, width_px, 3) for bgr24 and rgb24.
    """
    remaining = iter(wanted) if wanted is not None else None
    next_wanted = next(remaining, None) if remaining is not None else None
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            if remaining is None:
                yield index, frame.to_ndarray(format=pixel_format)
            elif index == next_wanted:
                yield index, frame.to_ndarray(format=pixel_format)
                next_wanted = next(remaining, None)
                if next_wanted is None:
                    return


def started_at(
    file_name: str,
    created_at_utc: datetime | None,
    mtime_utc: datetime,
    duration_s: float,
    settings: IntakeSettings,
) -> tuple[datetime, str]:
    """When the first picture was taken, and where that is known from.

    Args:
        file_name: Searched for the patterns of `settings`.
        created_at_utc: The container's own creation time, if it has one.
        mtime_utc: When the file was last written, taken for the end of the recording.
        duration_s: Length of the recording.
        settings: Patterns and the time zone of file names.

    Returns:
        The time in UTC and `file_name`, `container` or `mtime`.
    """
    for pattern in settings.captured_at_patterns:
        if match := re.search(pattern, file_name):
            parts = {name: int(match[name]) for name in ("year", "month", "day", "hour", "minute", "second")}
            try:
                local = datetime(**parts, tzinfo=ZoneInfo(settings.time_zone))  # type: ignore[arg-type]
            except ValueError:
                continue  # digits that are no date, such as a serial number
            return local.astimezone(UTC), "file_name"
    if created_at_utc is not None:
        return created_at_utc, "container"
    return mtime_utc - timedelta(seconds=duration_s), "mtime"


@dataclass(frozen=True)
class _Timeline:
    """What one pass over the packets tells, without decoding.

    `dts` holds a decoding time for each packet, in ticks of the stream, if the packets may be taken over as they are.
    """

    packet_count: int
    rate_fps: Fraction
    has_timestamps: bool
    dts: Sequence[int] = ()

    @property
    def may_remux(self) -> bool:
        """Whether the packets alone allow the video to be taken over without re-encoding."""
        return bool(self.dts)


def _opened(path: Path) -> InputContainer:
    try:
        return av.open(str(path), mode="r", metadata_errors="replace", options=_INPUT_OPTIONS)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise RecordingError("The file is gone: drop it into the watched folder again.") from error
        if not os.access(path, os.R_OK):
            raise RecordingError("The file may not be read by this user: change its permissions.") from error
        raise RejectedRecordingError(
            f"It is not a video that can be opened ({path.stat().st_size} bytes): it is damaged, incomplete or "
            "something else under a video's name."
        ) from error


def _best_stream(container: InputContainer, path: Path) -> VideoStream:
    # The cover of a piece of music is a picture, not a recording.
    pictures = [s for s in container.streams.video if s.codec_context and not s.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({str(s.type) for s in container.streams} - {"video"}) or ["nothing"]
        raise RejectedRecordingError(f"It holds no video, only {' and '.join(kinds)}.")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in pictures else pictures[0]
    stream.thread_type = "AUTO"
    return stream


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        if frames:
            first = frames[0]
            assert isinstance(first, VideoFrame)
            return first
    return None


def _creation_time(container: InputContainer, stream: VideoStream) -> datetime | None:
    text = container.metadata.get("creation_time") or stream.metadata.get("creation_time")
    if not text:
        return None
    try:
        created = datetime.fromisoformat(text)
    except ValueError:
        return None
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    return created.astimezone(UTC) if created.year >= 1990 else None  # clocks that were never set say 1904 or 1970


def _clockwise_rotation_deg(frame: VideoFrame) -> int:
    """Clockwise turn, one of 0, 90, 180, 270, that makes the picture upright."""
    return round(-frame.rotation / 90) * 90 % 360


def _sample_aspect_ratio(frame: VideoFrame, stream: VideoStream) -> Fraction:
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(ratio) if ratio and ratio > 0 else Fraction(1)


def _read_timeline(path: Path) -> _Timeline:
    times: list[float] = []
    ticks: list[int] = []
    packet_count, unusable, starts_with_key = 0, 0, True
    with _opened(path) as container:
        stream = _best_stream(container, path)
        time_base = stream.time_base or Fraction(1)
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                if packet_count == 0:
                    starts_with_key = packet.is_keyframe
                packet_count += 1
                if packet.is_discard or packet.is_corrupt:
                    unusable += 1
                if packet.pts is not None and not packet.is_discard:
                    times.append(float(packet.pts * time_base))
                    ticks.append(packet.pts)
        except av.error.FFmpegError as error:
            logger.info("Demuxing %s ended early: %s", path.name, error)
            unusable += 1
        header = [Fraction(r) for r in (stream.average_rate, stream.guessed_rate) if r and r > 0]
        header_count = stream.frames
        codec_name = stream.codec_context.codec.canonical_name
        # AVI stores no timestamps: what the demuxer gives there is the order of decoding, not of presentation.
        is_timed = container.format.name != "avi"
    has_timestamps = is_timed and len(times) >= max(1.0, 0.9 * (packet_count - unusable))
    if not has_timestamps:
        rate = header[0] if header else _FALLBACK_RATE
        return _Timeline(packet_count, rate, has_timestamps=False)
    times.sort()
    rate, deviation_s = _constant_rate(np.array(times), header)
    may_remux = (
        codec_name == "h264"
        and starts_with_key
        and unusable == 0
        and len(times) == packet_count
        and header_count in (0, packet_count)
        and deviation_s <= _REMUX_TOLERANCE_S
    )
    return _Timeline(packet_count, rate, True, _decoding_times(ticks) if may_remux else ())


def _decoding_times(pts: Sequence[int]) -> list[int]:
    """Ascending decoding times for packets in file order, none later than its presentation.

    Containers may leave decoding times out (Matroska does around B-frames), and MP4 needs one for every packet.
    """
    ascending = sorted(pts)
    delay = max(early - own for early, own in zip(ascending, pts, strict=True))
    return [moment - delay for moment in ascending]


def _constant_rate(times_s: np.ndarray, header: Sequence[Fraction]) -> tuple[Fraction, float]:
    """The rate at which the timestamps tick, and how far they stray from it.

    Args:
        times_s: Ascending timestamps, shape (n,).
        header: Rates that the file claims; taken when they agree with the timestamps.

    Returns:
        Frames per second, and the largest distance in seconds between a timestamp and its place at that rate.
    """
    count = len(times_s)
    elapsed_s = float(times_s[-1] - times_s[0])
    if count < 2 or elapsed_s <= 0:
        return (header[0] if header else _FALLBACK_RATE), 0.0
    mean_fps = (count - 1) / elapsed_s
    places = times_s - times_s[0]
    deviation_s = float(np.abs(places - np.arange(count) / mean_fps).max())
    if deviation_s < 0.5 / mean_fps:
        # Constant: of the rates that drift less than a quarter frame over the whole recording, the claimed one.
        for candidate in (*header, *_STANDARD_RATES):
            if abs(float(candidate) - mean_fps) * elapsed_s < 0.25:
                exact = float(np.abs(places - np.arange(count) / float(candidate)).max())
                return candidate, exact
        return Fraction(mean_fps).limit_denominator(100_000), deviation_s
    steps = np.diff(times_s)
    median_fps = min(1 / float(np.median(steps[steps > 0])), _MAX_VARIABLE_RATE_FPS)
    nearest = min((*header, *_STANDARD_RATES), key=lambda rate: abs(float(rate) - median_fps))
    if abs(float(nearest) - median_fps) > 0.01 * median_fps:
        nearest = Fraction(median_fps).limit_denominator(1001)
    return nearest, deviation_s


class _Decoding:
    """Decodes a stream frame by frame and counts what it met.

    Iterating yields (source_frame_index, time in seconds since the first frame, frame, packets since the last yield).
    """

    def __init__(self, container: InputContainer, stream: VideoStream, timeline: _Timeline) -> None:
        self.container, self.stream, self.timeline = container, stream, timeline
        self.packet_count = self.discarded_count = self.decoded_count = self.corrupt_count = 0
        self._first_pts_s: float | None = None
        self._last_time_s = -math.inf

    def packets(self) -> Iterator[tuple["av.Packet[Any]", list[VideoFrame]]]:
        """Packets in file order with the frames that each of them set free; the last packet flushes."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                # The container breaks off here; what was read so far stands.
                logger.info("Demuxing broke off: %s", error)
                self.corrupt_count += 1
                yield av.Packet(), self._flushed()
                return
            if packet.size:
                self.packet_count += 1
                self.discarded_count += packet.is_discard
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.corrupt_count += 1
                frames = []
            yield packet, [f for f in frames if isinstance(f, VideoFrame)]

    def _flushed(self) -> list[VideoFrame]:
        try:
            return [f for f in self.stream.decode(None) if isinstance(f, VideoFrame)]
        except av.error.FFmpegError:
            return []

    def frames(self) -> Iterator[tuple[int, float, VideoFrame]]:
        """(source_frame_index, time_s, frame) in order of presentation."""
        for _, frames in self.packets():
            for frame in frames:
                yield self.place(frame)

    def place(self, frame: VideoFrame) -> tuple[int, float, VideoFrame]:
        """Number a frame and give it its time, which always ascends."""
        index = self.decoded_count
        self.decoded_count += 1
        if frame.is_corrupt:
            self.corrupt_count += 1
        step_s = float(1 / self.timeline.rate_fps)
        if self.timeline.has_timestamps and frame.pts is not None and frame.time_base is not None:
            pts_s = float(frame.pts * frame.time_base)
            if self._first_pts_s is None:
                self._first_pts_s = pts_s
            time_s = pts_s - self._first_pts_s
            if time_s <= self._last_time_s:
                # A clock that jumps back (joined files): go on from the last picture.
                self._first_pts_s = pts_s - self._last_time_s - step_s
                time_s = self._last_time_s + step_s
        else:
            time_s = self._last_time_s + step_s if index else 0.0
        self._last_time_s = time_s
        return index, time_s, frame


@dataclass
class _Slots:
    """Places source frames on the grid of a constant rate: repeats over short holes, skips over long ones."""

    rate_fps: Fraction
    max_gap_fill_s: float
    rows: FrameRows = field(default_factory=FrameRows)
    decimated_count: int = 0
    _anchor_time_s: float = 0.0
    _anchor_slot: int = 0

    def place(self, source_frame_index: int, time_s: float) -> tuple[int, bool]:
        """Give a source frame its place.

        Returns:
            How often the frame before must be repeated first, and whether this frame is shown at all.
        """
        rate = float(self.rate_fps)
        slot = self._anchor_slot + math.floor((time_s - self._anchor_time_s) * rate + 0.5)
        next_slot = len(self.rows)
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
            self.rows.append(self.rows.source_frame_index[-1], shown_s, is_repeated=True, gap_s=0.0)
        self.rows.append(source_frame_index, time_s, is_repeated=False, gap_s=gap_s)
        return repeats, True


def _remux(
    path: Path, output: Path, settings: VideoSettings, timeline: _Timeline, progress: Progress | None
) -> NormalizedVideo | None:
    """Take the packets over as they are, decoding each once to account for it; None if the source does not conform."""
    slots = _Slots(timeline.rate_fps, settings.max_gap_fill_s)
    with (
        _opened(path) as container,
        av.open(str(output), mode="w", format="mp4", options={"movflags": "+faststart"}) as target,
    ):
        stream = _best_stream(container, path)
        out_stream = target.add_stream_from_template(stream, opaque=True)
        decoding = _Decoding(container, stream, timeline)
        first_pts: int | None = None
        width_px = height_px = 0
        for packet, frames in decoding.packets():
            for frame in frames:
                if not _conforms(frame, stream, settings):
                    return None
                index, time_s, _ = decoding.place(frame)
                repeats, is_shown = slots.place(index, time_s)
                if repeats or not is_shown:
                    return None
                width_px, height_px = frame.width, frame.height
            if packet.size and packet.pts is not None:
                # The first picture is at 0, so that players and decoders agree on the time.
                first_pts = packet.pts if first_pts is None else first_pts
                packet.dts = timeline.dts[decoding.packet_count - 1] - first_pts
                packet.pts -= first_pts
                packet.stream = out_stream
                target.mux(packet)
            if progress:
                progress(decoding.decoded_count, timeline.packet_count)
    if decoding.corrupt_count or decoding.decoded_count != decoding.packet_count or not width_px:
        return None
    return _account(slots, decoding, timeline, width_px, height_px, is_remuxed=True)


def _conforms(frame: VideoFrame, stream: VideoStream, settings: VideoSettings) -> bool:
    return (
        frame.format.name == "yuv420p"
        and not frame.interlaced_frame
        and _clockwise_rotation_deg(frame) == 0
        and _sample_aspect_ratio(frame, stream) == 1
        and frame.height <= (settings.max_height_px or math.inf)
        and frame.width % 2 == 0
        and frame.height % 2 == 0
    )


def _encode(
    path: Path, output: Path, settings: VideoSettings, timeline: _Timeline, progress: Progress | None
) -> NormalizedVideo:
    rate = timeline.rate_fps
    if settings.max_rate_fps and rate > settings.max_rate_fps:
        rate = Fraction(settings.max_rate_fps).limit_denominator(1001)
    slots = _Slots(rate, settings.max_gap_fill_s)
    with _opened(path) as container:
        stream = _best_stream(container, path)
        decoding = _Decoding(container, stream, timeline)
        encoder: _Encoder | None = None
        try:
            for index, time_s, frame in decoding.frames():
                if encoder is None:
                    encoder = _Encoder(output, frame, stream, rate, settings)
                repeats, is_shown = slots.place(index, time_s)
                encoder.repeat(repeats)
                if is_shown:
                    encoder.add(frame)
                if progress:
                    progress(decoding.decoded_count, timeline.packet_count)
            if encoder is None:
                raise RejectedRecordingError(
                    f"None of its {decoding.packet_count} video packets can be decoded: "
                    "the stream is damaged, scrambled or incomplete."
                )
            encoder.finish()
        finally:
            if encoder is not None:
                encoder.close()
    return _account(slots, decoding, timeline, encoder.width_px, encoder.height_px, is_remuxed=False)


def _account(
    slots: _Slots, decoding: _Decoding, timeline: _Timeline, width_px: int, height_px: int, *, is_remuxed: bool
) -> NormalizedVideo:
    return NormalizedVideo(
        rate_fps=slots.rate_fps,
        width_px=width_px,
        height_px=height_px,
        frames=slots.rows,
        time_source="pts" if timeline.has_timestamps else "frame_rate",
        packet_count=decoding.packet_count,
        discarded_count=decoding.discarded_count,
        decoded_count=decoding.decoded_count,
        corrupt_count=decoding.corrupt_count,
        decimated_count=slots.decimated_count,
        duration_s=slots.rows.time_s[-1] + float(1 / slots.rate_fps),
        is_remuxed=is_remuxed,
    )


class _Encoder:
    """Turns source frames upright, square, progressive and 4:2:0, and writes them as H.264 at a constant rate."""

    def __init__(
        self, output: Path, first: VideoFrame, stream: VideoStream, rate: Fraction, settings: VideoSettings
    ) -> None:
        self._stream, self._rotation_deg = stream, _clockwise_rotation_deg(first)
        self._aspect = _sample_aspect_ratio(first, stream)
        self.width_px, self.height_px = _normalized_size(
            first.width, first.height, self._aspect, self._rotation_deg, settings.max_height_px
        )
        self._container = av.open(str(output), mode="w", format="mp4", options={"movflags": "+faststart"})
        self._video = self._container.add_stream("libx264", rate=rate)
        self._video.width, self._video.height, self._video.pix_fmt = self.width_px, self.height_px, "yuv420p"
        self._video.time_base = self._video.codec_context.time_base = 1 / rate
        self._video.options = {
            "preset": _ENCODER_PRESET,
            "crf": str(settings.crf),
            "g": str(max(1, math.floor(_KEYFRAME_EVERY_S * rate))),
        }
        self._graph: Graph | None = None
        self._graph_input: tuple[object, ...] = ()
        self._time_base = 1 / rate
        self._waiting: list[int] = []  # how often each frame inside the graph is to be shown, oldest first
        self._next_slot = 0

    def add(self, frame: VideoFrame) -> None:
        """Show this frame next."""
        described = (frame.width, frame.height, frame.format.name, frame.interlaced_frame)
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
            self._write(self._last, times)

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
            self._write(filtered, self._waiting.pop(0))

    def _write(self, frame: VideoFrame, times: int) -> None:
        self._last = frame
        for _ in range(times):
            frame.pts, frame.time_base = self._next_slot, self._time_base
            frame.pict_type = av.video.frame.PictureType.NONE
            self._next_slot += 1
            self._container.mux(self._video.encode(frame))

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
        if frame.interlaced_frame:
            nodes.append(graph.add("bwdif", "mode=send_frame"))
        turns = {90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "cclock")]}
        nodes += [graph.add(name, arguments) for name, arguments in turns.get(self._rotation_deg, [])]
        size = f"{self.width_px}:{self.height_px}"
        nodes.append(graph.add("scale", f"{size}:flags=bicubic:out_color_matrix=bt709:out_range=tv"))
        nodes.append(graph.add("format", "yuv420p"))
        nodes.append(graph.add("setsar", "1"))
        nodes.append(graph.add("buffersink"))
        for node, following in itertools.pairwise(nodes):
            node.link_to(following)
        graph.configure()
        return graph


def _normalized_size(
    width_px: int, height_px: int, aspect: Fraction, rotation_deg: int, max_height_px: int | None
) -> tuple[int, int]:
    """Upright size with square pixels, even, never larger than the source shows and no taller than allowed.

    Non-square pixels are made square by widening where they are wide and by heightening where they are tall, so that
    no row or column of the source is lost.
    """
    width, height = Fraction(width_px), Fraction(height_px)
    if aspect >= 1:
        width *= aspect
    else:
        height /= aspect
    if rotation_deg in (90, 270):
        width, height = height, width
    scale = min(Fraction(1), Fraction(max_height_px) / height) if max_height_px else Fraction(1)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
