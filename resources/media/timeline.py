"""Derives the frame rate of a recording from its packets, without decoding, and whether they can be remuxed."""

import logging
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream

from resources.errors import RejectedRecordingError
from resources.media.container import best_stream, open_container

logger = logging.getLogger(__name__)

_STANDARD_RATES_FPS = (
    *(Fraction(n) for n in (5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 100, 120)),
    *(Fraction(n * 1000, 1001) for n in (15, 24, 30, 48, 60, 120)),
)  # fmt: skip
_FALLBACK_RATE_FPS = Fraction(25)
_MIN_RATE_FPS, _MAX_RATE_FPS = Fraction(1, 86_400), 100_000  # a frame a day; faster cameras write slowed-down files
_MAX_DURATION_S = 1e8  # three years
_MAX_VARIABLE_RATE_FPS = 60.0  # bursts in a variable-rate recording do not determine its rate
_MAX_REORDERING_S = 2.0  # B-frames are presented before preceding packets, but not by more than this
_REMUX_TOLERANCE_S = 0.0011  # timestamps rounded to milliseconds still count as a constant frame rate


@dataclass(frozen=True)
class Timeline:
    """Frame rate and timestamps of a recording, from one pass over its packets.

    Attributes:
        packet_count: Video packets in the file.
        rate_fps: Frame rate; the most common one if the rate is variable.
        has_timestamps: Whether times are computed from the file's timestamps, else from its frame rate.
        is_variable_rate: Whether timestamps deviate from the rate by half a frame or more.
        first_pts_s: Earliest PTS on the file's own clock; None without timestamps.
        dts: DTS of each packet in the stream's time base if the packets can be remuxed, else empty.
        is_truncated: Whether the container could not be read to its end.
    """

    packet_count: int
    rate_fps: Fraction
    has_timestamps: bool
    is_variable_rate: bool = False
    first_pts_s: float | None = None
    dts: Sequence[int] = ()
    is_truncated: bool = False

    @property
    def is_remuxable(self) -> bool:
        """Whether the packets can be remuxed; whether the frames conform is only known once they are decoded."""
        return bool(self.dts)


class PacketClock:
    """Computes presentation times of packets on the file's clock, continued where it jumps back (joined files)."""

    def __init__(self, stream: VideoStream) -> None:
        self._time_base = float(stream.time_base or 1)
        self._offset_s = 0.0
        self._latest_s = -math.inf
        self._latest_dts: int | None = None

    def time_s(self, packet: "av.Packet[Any]") -> float:
        """Presentation time of the packet in seconds; NaN if it has no PTS."""
        if packet.pts is None:
            return math.nan
        time_s = packet.pts * self._time_base + self._offset_s
        if packet.dts is not None and self._latest_dts is not None:
            jumps_back = packet.dts < self._latest_dts  # DTS ascend by definition
        else:
            jumps_back = time_s < self._latest_s - _MAX_REORDERING_S
        self._latest_dts = packet.dts
        if jumps_back and time_s < self._latest_s:
            self._offset_s += self._latest_s - time_s
            time_s = self._latest_s
        self._latest_s = max(self._latest_s, time_s)
        return time_s


def read_timeline(path: Path, report_alive: Callable[[], None] = lambda: None) -> Timeline:
    """Read the timestamps of all packets of a recording.

    Args:
        path: The file.
        report_alive: Called for every packet.

    Raises:
        RecordingError: The file does not exist or is not readable.
        RejectedRecordingError: The file is not a video, or its frame rate or duration is impossible.
    """
    times_s, pts = array("d"), array("q")
    packet_count, unusable_count, starts_with_keyframe, is_truncated = 0, 0, True, False
    with open_container(path) as container:
        stream = best_stream(container)
        clock = PacketClock(stream)
        try:
            for packet in container.demux(stream):
                report_alive()
                if packet.size == 0:
                    continue
                if packet_count == 0:
                    starts_with_keyframe = packet.is_keyframe
                packet_count += 1
                if packet.is_discard or packet.is_corrupt:
                    unusable_count += 1
                if packet.pts is not None and not packet.is_discard:
                    times_s.append(clock.time_s(packet))
                    pts.append(packet.pts)
        except av.error.FFmpegError as error:
            logger.info("Demuxing %s ended early: %s", path.name, error)
            is_truncated = True
        header_rates_fps = [Fraction(r) for r in (stream.average_rate, stream.guessed_rate) if r and r > 0]
        header_frame_count = stream.frames
        codec_name = stream.codec_context.codec.canonical_name
        # AVI stores no timestamps: those of the demuxer are in decoding order, not in presentation order.
        stores_timestamps = container.format.name != "avi"
    has_timestamps = stores_timestamps and len(times_s) >= max(1.0, 0.9 * (packet_count - unusable_count))
    if not has_timestamps:
        rate_fps = header_rates_fps[0] if header_rates_fps else _FALLBACK_RATE_FPS
        _check_plausible(rate_fps, packet_count / float(rate_fps))
        return Timeline(packet_count, rate_fps, has_timestamps=False, is_truncated=is_truncated)
    ascending_s = np.sort(np.array(times_s))
    rate_fps, deviation_s = estimate_rate(ascending_s, header_rates_fps)
    _check_plausible(rate_fps, float(ascending_s[-1] - ascending_s[0]))
    can_remux = (
        codec_name == "h264"
        and starts_with_keyframe
        and unusable_count == 0
        and not is_truncated
        and len(times_s) == packet_count
        and header_frame_count in (0, packet_count)
        and deviation_s <= _REMUX_TOLERANCE_S
    )
    return Timeline(
        packet_count,
        rate_fps,
        has_timestamps=True,
        is_variable_rate=deviation_s >= 0.5 / float(rate_fps),
        first_pts_s=float(ascending_s[0]),
        dts=_compute_dts(pts) if can_remux else (),
        is_truncated=is_truncated,
    )


def _check_plausible(rate_fps: Fraction, duration_s: float) -> None:
    """Check that a frame rate and a duration can be those of a recording: others give times that nothing can store.

    Raises:
        RejectedRecordingError: One of them is impossible.
    """
    if not _MIN_RATE_FPS <= rate_fps <= _MAX_RATE_FPS:
        value = f"The frame rate of the file, {float(rate_fps):.3g} frames/s, is impossible"
    elif duration_s > _MAX_DURATION_S:
        value = f"The duration of the file, {duration_s:.3g} s according to its timestamps or frame rate, is impossible"
    else:
        return
    raise RejectedRecordingError(
        f"{value}, so the times of its frames are unknown: write the real rate into a copy, for example with "
        "ffmpeg -r 25 -i FILE -c copy COPY."
    )


def _compute_dts(pts: Sequence[int]) -> list[int]:
    """Compute ascending DTS for packets in file order, none later than the packet's PTS.

    Containers may omit DTS (Matroska does around B-frames), and MP4 needs one for every packet.
    """
    ascending_pts = sorted(pts)
    delay = max(sorted_pts - packet_pts for sorted_pts, packet_pts in zip(ascending_pts, pts, strict=True))
    return [sorted_pts - delay for sorted_pts in ascending_pts]


def estimate_rate(times_s: np.ndarray, header_rates_fps: Sequence[Fraction]) -> tuple[Fraction, float]:
    """Estimate the frame rate from timestamps, and how far they deviate from it.

    Args:
        times_s: Ascending timestamps, shape (n,).
        header_rates_fps: Rates that the header claims; used if they agree with the timestamps.

    Returns:
        Frame rate in frames per second, and the largest deviation of a timestamp from that rate in seconds.
    """
    count = len(times_s)
    elapsed_s = float(times_s[-1] - times_s[0])
    if count < 2 or elapsed_s <= 0:
        return (header_rates_fps[0] if header_rates_fps else _FALLBACK_RATE_FPS), 0.0
    mean_fps = (count - 1) / elapsed_s
    relative_s = times_s - times_s[0]
    deviation_s = float(np.abs(relative_s - np.arange(count) / mean_fps).max())
    if deviation_s < 0.5 / mean_fps:
        # A constant rate: prefer a header rate, then a standard rate, whose total drift is below a quarter of a frame.
        for candidate in (*header_rates_fps, *_STANDARD_RATES_FPS):
            if abs(float(candidate) - mean_fps) * elapsed_s < 0.25:
                return candidate, float(np.abs(relative_s - np.arange(count) / float(candidate)).max())
        return Fraction(mean_fps).limit_denominator(100_000), deviation_s
    steps_s = np.diff(times_s)
    median_fps = min(1 / float(np.median(steps_s[steps_s > 0])), _MAX_VARIABLE_RATE_FPS)
    nearest = min((*header_rates_fps, *_STANDARD_RATES_FPS), key=lambda candidate: abs(float(candidate) - median_fps))
    if abs(float(nearest) - median_fps) > 0.01 * median_fps:
        nearest = Fraction(median_fps).limit_denominator(1001) or Fraction(median_fps).limit_denominator(100_000)
    return nearest, deviation_s
