"""Decodes a recording frame by frame and keeps the packet ledger: the outcome of every packet.

Every packet is numbered, and the decoder passes the number on to the frame that it decodes from the packet, so the
ledger is exact even with frame threads and reordering.
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

from resources.media.container import decode_packet
from resources.media.timeline import PacketClock, Timeline

logger = logging.getLogger(__name__)
_NO_FRAME, _DISCARDED, _DECODED = 0, 1, 2


@dataclass(frozen=True)
class PacketLedger:
    """Outcome of the packets: packet_count + extra_count = decoded + corrupt + discarded + hidden.

    Attributes:
        packet_count: Video packets read.
        decoded_count: Frames decoded.
        corrupt_count: Packets whose frame could not be decoded.
        discarded_count: Packets that the file's edit list excludes.
        hidden_count: Packets without a frame of their own to present: second fields, invisible reference frames.
        extra_count: Frames beyond the first of a packet.
        damaged_count: Decoded frames in which the decoder concealed errors.
        missing_s: Intervals that should have frames but have none that decodes, (start, end) in seconds since the first
            decoded frame.
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
        """Whether no packet was corrupt and no frame is damaged or missing."""
        return not (self.corrupt_count or self.damaged_count or self.missing_s)


class RecordingDecoder:
    """Decodes a video stream, and records the outcome of every packet in a ledger.

    Args:
        container: The open file.
        stream: Its video stream, with the decoder configured by `configure_decoder`.
        timeline: Frame rate and timestamps of its packets.

    Attributes:
        decoded_count: Frames decoded so far.
        packet_count: Packets read so far.
        first_pts_s: PTS of the first decoded frame on the file's own clock; None without timestamps.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, timeline: Timeline) -> None:
        self._container, self._stream, self._timeline = container, stream, timeline
        self.decoded_count = self.packet_count = 0
        self.first_pts_s: float | None = None
        self._is_stopped = False
        self._damaged_count = self._extra_count = 0
        self._zero_pts_s = 0.0
        self._last_time_s = -math.inf
        self._outcomes = array("b")  # one entry per packet
        self._packet_times_s = array("d")  # seconds on the file's clock, NaN for a packet without PTS

    def packets(self) -> Iterator[tuple["av.Packet[Any]", list[VideoFrame]]]:
        """Read packets in file order; yields each with the frames that the decoder returned; the last one flushes."""
        packets = self._container.demux(self._stream)
        clock = PacketClock(self._stream)
        while True:
            if self._is_stopped:
                yield av.Packet(), self._flush()
                return
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                # The rest of the container cannot be read; what was read so far counts.
                logger.info("Demuxing ended early: %s", error)
                yield av.Packet(), self._flush()
                return
            if packet.size:
                packet.opaque = self.packet_count
                self.packet_count += 1
                self._outcomes.append(_DISCARDED if packet.is_discard else _NO_FRAME)
                self._packet_times_s.append(clock.time_s(packet))
            yield packet, decode_packet(packet)

    def stop(self) -> None:
        """Read no further packet: only the frames of those that were read are still decoded."""
        self._is_stopped = True

    def _flush(self) -> list[VideoFrame]:
        try:
            return [f for f in self._stream.decode(None) if isinstance(f, VideoFrame)]
        except av.error.FFmpegError:
            return []

    def frames(self) -> Iterator[tuple[int, float, VideoFrame]]:
        """Decode frames in presentation order; yields (source_frame_index, time_s, frame)."""
        for _, frames in self.packets():
            for frame in frames:
                yield *self.register_frame(frame), frame

    def register_frame(self, frame: VideoFrame) -> tuple[int, float]:
        """Record the next frame in the ledger; returns its source frame index and its time.

        Returns:
            source_frame_index: 0-based, in presentation order.
            time_s: The frame's PTS minus the PTS of the first frame, in seconds; always ascending. Without timestamps,
                the frame index divided by the frame rate.
        """
        index = self.decoded_count
        self.decoded_count += 1
        self._damaged_count += frame.is_corrupt
        packet_number = frame.opaque
        if isinstance(packet_number, int) and self._outcomes[packet_number] != _DECODED:
            self._outcomes[packet_number] = _DECODED
        else:
            self._extra_count += 1
        step_s = float(1 / self._timeline.rate_fps)
        if self._timeline.has_timestamps and frame.pts is not None and frame.time_base is not None:
            pts_s = float(frame.pts * frame.time_base)
            if self.first_pts_s is None:
                self.first_pts_s = self._zero_pts_s = pts_s
            time_s = pts_s - self._zero_pts_s
            if time_s <= self._last_time_s:
                # The clock jumps back, as in joined files: continue one frame after the last one.
                self._zero_pts_s = pts_s - self._last_time_s - step_s
                time_s = self._last_time_s + step_s
        else:
            time_s = self._last_time_s + step_s if index else 0.0
        self._last_time_s = time_s
        return index, time_s

    def ledger(self) -> PacketLedger:
        """The ledger of all packets read so far."""
        outcomes = np.frombuffer(self._outcomes, np.int8) if self._outcomes else np.zeros(0, np.int8)
        is_decoded, is_discarded = outcomes == _DECODED, outcomes == _DISCARDED
        is_corrupt, missing_s = self._find_corrupt_packets(is_decoded, ~is_decoded & ~is_discarded)
        return PacketLedger(
            packet_count=self.packet_count,
            decoded_count=self.decoded_count,
            corrupt_count=int(is_corrupt.sum()),
            discarded_count=int(is_discarded.sum()),
            hidden_count=int((~is_decoded & ~is_discarded & ~is_corrupt).sum()),
            extra_count=self._extra_count,
            damaged_count=self._damaged_count,
            missing_s=missing_s,
        )

    def _find_corrupt_packets(
        self, is_decoded: np.ndarray, is_without_frame: np.ndarray
    ) -> tuple[np.ndarray, tuple[tuple[float, float], ...]]:
        """Find the packets whose frame is lost, and the intervals in which frames are missing.

        A packet without a frame is no loss if the frames around it leave no gap: it is a second field, or a reference
        frame that is never presented.

        Args:
            is_decoded: Whether a frame was decoded from the packet, shape (packet_count,).
            is_without_frame: Whether no frame was decoded although the packet is not discarded, same shape.
        """
        none_corrupt = np.zeros(len(is_decoded), bool)
        if not is_without_frame.any() or not is_decoded.any():
            return is_without_frame if not is_decoded.any() else none_corrupt, ()
        times_s = np.frombuffer(self._packet_times_s, float)
        if not self._timeline.has_timestamps or np.isnan(times_s).any():
            times_s = np.arange(len(is_decoded)) / float(self._timeline.rate_fps)
        decoded_times_s = np.sort(times_s[is_decoded])
        steps_s = np.diff(decoded_times_s)
        nominal_step_s = float(1 / self._timeline.rate_fps)
        step_s = float(np.median(steps_s[steps_s > 0])) if (steps_s > 0).any() else nominal_step_s
        previous = np.searchsorted(decoded_times_s, times_s, "right") - 1
        following = np.searchsorted(decoded_times_s, times_s, "left")
        last = len(decoded_times_s) - 1
        since_previous_s = np.where(previous >= 0, times_s - decoded_times_s[np.maximum(previous, 0)], math.inf)
        until_following_s = np.where(
            following <= last, decoded_times_s[np.minimum(following, last)] - times_s, math.inf
        )
        is_corrupt = is_without_frame & (since_previous_s >= 0.75 * step_s) & (until_following_s >= 0.5 * step_s)
        # Adjacent losses are in the same gap between two decoded frames, identified by the frame before it.
        intervals_s = []
        for gap in np.unique(previous[is_corrupt]):
            lost_times_s = times_s[is_corrupt & (previous == gap)]
            start_s = float(decoded_times_s[gap]) + step_s if gap >= 0 else float(lost_times_s.min())
            end_s = float(decoded_times_s[gap + 1]) if gap < last else float(lost_times_s.max()) + step_s
            zero_s = float(decoded_times_s[0])
            intervals_s.append((start_s - zero_s, max(end_s, start_s) - zero_s))
        return is_corrupt, tuple(intervals_s)
