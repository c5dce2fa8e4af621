"""What the packets of a recording say of time, without decoding: its rate, and whether they may be taken over."""

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

from resources.media.opening import best_stream, opened

logger = logging.getLogger(__name__)

_STANDARD_RATES = (
    *(Fraction(n) for n in (5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 100, 120)),
    *(Fraction(n * 1000, 1001) for n in (15, 24, 30, 48, 60, 120)),
)  # fmt: skip
_FALLBACK_RATE = Fraction(25)
_MAX_VARIABLE_RATE_FPS = 60.0  # bursts of a variable-rate recording do not set the rate of the whole
_REORDERING_S = 2.0  # B-frames come earlier than their packets' order says, but not by more than this
_REMUX_TOLERANCE_S = 0.0011  # timestamps rounded to milliseconds still count as a constant rate


@dataclass(frozen=True)
class Timeline:
    """What one pass over the packets tells.

    Attributes:
        packet_count: Video packets in the file.
        rate_fps: The rate at which the packets tick; the commonest where they tick unevenly.
        has_timestamps: Whether times come from the file's timestamps; else only from its rate.
        is_variable_rate: Whether timestamps stray from the rate by half a frame or more.
        first_pts_s: Earliest pts on the file's own clock; None without timestamps.
        dts: A decoding time for each packet in ticks of the stream, if the packets may be taken over as they are.
        is_broken_off: Whether the container itself could not be read to its end.
    """

    packet_count: int
    rate_fps: Fraction
    has_timestamps: bool
    is_variable_rate: bool = False
    first_pts_s: float | None = None
    dts: Sequence[int] = ()
    is_broken_off: bool = False

    @property
    def may_remux(self) -> bool:
        """Whether the packets alone allow the video to be taken over without re-encoding."""
        return bool(self.dts)


class PacketClock:
    """Times of packets on the file's clock, going on where it jumps back, as it does where files were joined."""

    def __init__(self, stream: VideoStream) -> None:
        self._time_base = float(stream.time_base or 1)
        self._added_s = 0.0
        self._latest_s = -math.inf
        self._latest_dts: int | None = None

    def time_s(self, packet: "av.Packet[Any]") -> float:
        """When the packet is presented; NaN where it does not say."""
        if packet.pts is None:
            return math.nan
        time_s = packet.pts * self._time_base + self._added_s
        if packet.dts is not None and self._latest_dts is not None:
            jumps_back = packet.dts < self._latest_dts  # decoding times ascend by their nature
        else:
            jumps_back = time_s < self._latest_s - _REORDERING_S
        self._latest_dts = packet.dts
        if jumps_back and time_s < self._latest_s:
            self._added_s += self._latest_s - time_s
            time_s = self._latest_s
        self._latest_s = max(self._latest_s, time_s)
        return time_s


def read_timeline(path: Path, alive: Callable[[], None] = lambda: None) -> Timeline:
    """Read all packets of a recording.

    Args:
        path: The file.
        alive: Called for every packet.

    Raises:
        RejectedRecordingError: It is not a video.
    """
    times_s, ticks = array("d"), array("q")
    packet_count, unusable, starts_with_key, is_broken_off = 0, 0, True, False
    with opened(path) as container:
        stream = best_stream(container)
        clock = PacketClock(stream)
        try:
            for packet in container.demux(stream):
                alive()
                if packet.size == 0:
                    continue
                if packet_count == 0:
                    starts_with_key = packet.is_keyframe
                packet_count += 1
                if packet.is_discard or packet.is_corrupt:
                    unusable += 1
                if packet.pts is not None and not packet.is_discard:
                    times_s.append(clock.time_s(packet))
                    ticks.append(packet.pts)
        except av.error.FFmpegError as error:
            logger.info("Demuxing %s ended early: %s", path.name, error)
            is_broken_off = True
        header = [Fraction(r) for r in (stream.average_rate, stream.guessed_rate) if r and r > 0]
        header_count = stream.frames
        codec_name = stream.codec_context.codec.canonical_name
        # AVI stores no timestamps: what the demuxer gives there is the order of decoding, not of presentation.
        is_timed = container.format.name != "avi"
    has_timestamps = is_timed and len(times_s) >= max(1.0, 0.9 * (packet_count - unusable))
    if not has_timestamps:
        rate = header[0] if header else _FALLBACK_RATE
        return Timeline(packet_count, rate, has_timestamps=False, is_broken_off=is_broken_off)
    ascending_s = np.sort(np.array(times_s))
    rate, deviation_s = constant_rate(ascending_s, header)
    may_remux = (
        codec_name == "h264"
        and starts_with_key
        and unusable == 0
        and not is_broken_off
        and len(times_s) == packet_count
        and header_count in (0, packet_count)
        and deviation_s <= _REMUX_TOLERANCE_S
    )
    return Timeline(
        packet_count,
        rate,
        has_timestamps=True,
        is_variable_rate=deviation_s >= 0.5 / float(rate),
        first_pts_s=float(ascending_s[0]),
        dts=_decoding_times(ticks) if may_remux else (),
        is_broken_off=is_broken_off,
    )


def _decoding_times(pts: Sequence[int]) -> list[int]:
    """Ascending decoding times for packets in file order, none later than its presentation.

    Containers may leave decoding times out (Matroska does around B-frames), and MP4 needs one for every packet.
    """
    ascending = sorted(pts)
    delay = max(early - own for early, own in zip(ascending, pts, strict=True))
    return [moment - delay for moment in ascending]


def constant_rate(times_s: np.ndarray, header: Sequence[Fraction]) -> tuple[Fraction, float]:
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
