"""Decodes a recording frame by frame and keeps the ledger: what became of every packet.

Every packet is numbered, and the decoder hands the number on to the frame that it made of it, so the account is exact
also with frame threads and reordering.
"""

import logging
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.media.opening import decoded
from resources.media.timeline import PacketClock, Timeline

logger = logging.getLogger(__name__)

_DISCARDED, _WITH_PICTURE = 1, 2


@dataclass(frozen=True)
class Ledger:
    """What became of the packets: packet_count + extra_count = decoded + corrupt + discarded + hidden.

    Attributes:
        packet_count: Video packets read.
        decoded_count: Frames that decoded.
        corrupt_count: Packets whose picture could not be decoded.
        discarded_count: Packets that the file's edit list leaves out.
        hidden_count: Packets with no picture of their own to show: second fields, invisible reference pictures.
        extra_count: Frames beyond the first of a packet.
        damaged_count: Decoded frames in which the decoder had to conceal errors.
        missing_s: Stretches that should show something and do not decode, (start, end) in seconds since the first
            decoded frame; the end is None where the length is unknown.
    """

    packet_count: int
    decoded_count: int
    corrupt_count: int
    discarded_count: int
    hidden_count: int
    extra_count: int
    damaged_count: int
    missing_s: tuple[tuple[float, float], ...]

    @property
    def is_clean(self) -> bool:
        """Whether every packet gave what it should."""
        return not (self.corrupt_count or self.damaged_count or self.missing_s)


class Decoding:
    """Decodes a stream; `ledger` tells afterwards what it met.

    Args:
        container: The open file.
        stream: Its stream, the decoder set up by `bound_decoder`.
        timeline: What its packets say of time.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, timeline: Timeline) -> None:
        self._container, self._stream, self._timeline = container, stream, timeline
        self.decoded_count = self.packet_count = 0
        self.first_pts_s: float | None = None
        self._damaged_count = self._extra_count = 0
        self._zero_s = 0.0
        self._last_time_s = -math.inf
        self._fates = array("b")  # one entry per packet
        self._packet_times_s = array("d")  # seconds on the file's clock, NaN where a packet has no pts

    def packets(self) -> Iterator[tuple["av.Packet[Any]", list[VideoFrame]]]:
        """Packets in file order with the frames that each of them set free; the last packet flushes."""
        packets = self._container.demux(self._stream)
        clock = PacketClock(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                # The container breaks off here; what was read so far stands.
                logger.info("Demuxing broke off: %s", error)
                yield av.Packet(), self._flushed()
                return
            if packet.size:
                packet.opaque = self.packet_count
                self.packet_count += 1
                self._fates.append(_DISCARDED if packet.is_discard else 0)
                self._packet_times_s.append(clock.time_s(packet))
            yield packet, decoded(packet)  # none of a damaged one, which the ledger finds by itself

    def _flushed(self) -> list[VideoFrame]:
        try:
            return [f for f in self._stream.decode(None) if isinstance(f, VideoFrame)]
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
        self._damaged_count += frame.is_corrupt
        number = frame.opaque
        if isinstance(number, int) and self._fates[number] != _WITH_PICTURE:
            self._fates[number] = _WITH_PICTURE
        else:
            self._extra_count += 1
        step_s = float(1 / self._timeline.rate_fps)
        if self._timeline.has_timestamps and frame.pts is not None and frame.time_base is not None:
            pts_s = float(frame.pts * frame.time_base)
            if self.first_pts_s is None:
                self.first_pts_s = self._zero_s = pts_s
            time_s = pts_s - self._zero_s
            if time_s <= self._last_time_s:
                # A clock that jumps back (joined files): go on from the last picture.
                self._zero_s = pts_s - self._last_time_s - step_s
                time_s = self._last_time_s + step_s
        else:
            time_s = self._last_time_s + step_s if index else 0.0
        self._last_time_s = time_s
        return index, time_s, frame

    def ledger(self) -> Ledger:
        """The account of all that was read so far."""
        fates = np.frombuffer(self._fates, np.int8) if self._fates else np.zeros(0, np.int8)
        is_shown, is_discarded = fates == _WITH_PICTURE, fates == _DISCARDED
        is_corrupt, missing_s = self._corrupt(is_shown, ~is_shown & ~is_discarded)
        return Ledger(
            packet_count=self.packet_count,
            decoded_count=self.decoded_count,
            corrupt_count=int(is_corrupt.sum()),
            discarded_count=int(is_discarded.sum()),
            hidden_count=int((~is_shown & ~is_discarded & ~is_corrupt).sum()),
            extra_count=self._extra_count,
            damaged_count=self._damaged_count,
            missing_s=missing_s,
        )

    def _corrupt(
        self, is_shown: np.ndarray, is_unshown: np.ndarray
    ) -> tuple[np.ndarray, tuple[tuple[float, float], ...]]:
        """Which packets should have shown a picture, and the stretches where they should have.

        A packet without a picture is no loss where the pictures around it leave no hole: a second field, or a
        reference picture that is never shown.

        Args:
            is_shown: Whether a packet gave a picture, shape (packet_count,).
            is_unshown: Whether it gave none though it was meant to be decoded, same shape.
        """
        none = np.zeros(len(is_shown), bool)
        if not is_unshown.any() or not is_shown.any():
            return is_unshown if not is_shown.any() else none, ()
        times_s = np.frombuffer(self._packet_times_s, float)
        if not self._timeline.has_timestamps or np.isnan(times_s).any():
            times_s = np.arange(len(is_shown)) / float(self._timeline.rate_fps)
        shown_s = np.sort(times_s[is_shown])
        steps = np.diff(shown_s)
        nominal_s = float(1 / self._timeline.rate_fps)
        step_s = float(np.median(steps[steps > 0])) if (steps > 0).any() else nominal_s
        before = np.searchsorted(shown_s, times_s, "right") - 1
        after = np.searchsorted(shown_s, times_s, "left")
        since_s = np.where(before >= 0, times_s - shown_s[np.maximum(before, 0)], math.inf)
        until_s = np.where(after < len(shown_s), shown_s[np.minimum(after, len(shown_s) - 1)] - times_s, math.inf)
        is_corrupt = is_unshown & (since_s >= 0.75 * step_s) & (until_s >= 0.5 * step_s)
        # Neighbouring losses lie in the same hole between two shown pictures, known by the picture before it.
        stretches = []
        for hole in np.unique(before[is_corrupt]):
            lost_s = times_s[is_corrupt & (before == hole)]
            start_s = float(shown_s[hole]) + step_s if hole >= 0 else float(lost_s.min())
            end_s = float(shown_s[hole + 1]) if hole + 1 < len(shown_s) else float(lost_s.max()) + step_s
            zero_s = float(shown_s[0])
            stretches.append((start_s - zero_s, max(end_s, start_s) - zero_s))
        return is_corrupt, tuple(stretches)
