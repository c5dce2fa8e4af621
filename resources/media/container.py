"""Opens recordings: only containers that hold the video themselves, the best video stream, a limited decoder."""

import logging
import mmap
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.errors import RecordingError, RejectedRecordingError

logger = logging.getLogger(__name__)
av.logging.restore_default_callback()  # the Python callback needs the GIL, which a closing decoder may hold
av.logging.set_libav_level(av.logging.PANIC)  # damage is counted and reported in the packet ledger, not on stderr

# Only containers that hold the video themselves: playlists and scripts, under any name, could refer to other files.
_CONTAINERS = (
    "3dostr,asf,av1,avi,dhav,dv,flv,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,vvc,wtv"
)
_INPUT_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_MAX_DECODING_THREADS = 8  # each thread holds frames of its own; more do not speed up one stream
_FRAME_BYTES_PER_PIXEL = 6  # three components of 16 bits, the largest pixel format in use
_NVIDIA_DEVICE = Path("/dev/nvidiactl")


def open_container(path: Path, hwaccel: HWAccel | None = None) -> InputContainer:
    """Open a recording.

    Args:
        path: The file.
        hwaccel: Device that decodes; None means the CPU.

    Raises:
        RecordingError: The file does not exist or is not readable for this user.
        RejectedRecordingError: The file is not a video.
    """
    try:
        return av.open(
            # With the prefix, a name such as "concat:…" or "-" still means a file.
            f"file:{path.absolute()}",
            mode="r",
            metadata_errors="replace",
            options=_INPUT_OPTIONS,
            hwaccel=hwaccel,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise RecordingError("The file no longer exists: put it into the watched folder again.") from error
        if not os.access(path, os.R_OK):
            raise RecordingError("The file is not readable for this user: change its permissions.") from error
        raise RejectedRecordingError(
            f"The file is not a video that can be opened ({path.stat().st_size} bytes): it is damaged, incomplete or "
            "of another type than its extension claims."
        ) from error


def has_hardware_decoder() -> bool:
    """Whether this machine has an NVIDIA GPU and FFmpeg was built with CUDA support."""
    return _NVIDIA_DEVICE.exists() and "cuda" in hwdevices_available()


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream that players show: not a cover image, and the largest of several.

    Raises:
        RejectedRecordingError: The file has no video stream.
    """
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = sorted({str(s.type) for s in container.streams} - {"video"}) or ["nothing"]
        raise RejectedRecordingError(f"The file has no video stream, only {' and '.join(kinds)}.")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in streams else streams[0]


def configure_decoder(stream: VideoStream, max_pixels: int, thread_count: int | None = None) -> None:
    """Configure a stream's decoder: threads, and a limit on the frame size that holds for every frame.

    Args:
        stream: The stream, not yet decoded.
        max_pixels: Larger frames are decoding errors.
        thread_count: Decoding threads; None means one per core, up to 8.
    """
    context = stream.codec_context
    context.thread_type = "AUTO"
    context.thread_count = thread_count or min(os.cpu_count() or 1, _MAX_DECODING_THREADS)
    context.options = {**context.options, "max_pixels": str(max_pixels)}
    context.copy_opaque = True


def decode_packet(packet: "av.Packet[Any]") -> list[VideoFrame]:
    """Send a packet to the decoder; returns the frames that the decoder outputs, none if the packet is damaged.

    Raises:
        MemoryError: The decoder could not allocate memory for its frames or threads.
    """
    try:
        return [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
    except (av.error.MemoryError, av.error.BlockingIOError) as error:
        raise MemoryError from error
    except av.error.FFmpegError as error:
        # Decoders report a failed allocation as damage: check whether another frame would still fit into memory.
        context = packet.stream.codec_context
        try:
            mmap.mmap(-1, _FRAME_BYTES_PER_PIXEL * max(1, context.width * context.height), mmap.MAP_PRIVATE).close()
        except OSError as no_memory:
            raise MemoryError from no_memory
        logger.debug("A packet could not be decoded: %s", error)
        return []


def clockwise_rotation_deg(frame: VideoFrame) -> int:
    """Clockwise rotation, one of 0, 90, 180, 270, that makes the frame upright."""
    return round(-frame.rotation / 90) * 90 % 360


def sample_aspect_ratio(stream: VideoStream) -> Fraction:
    """Width of a stored pixel divided by its height; 1 if the file does not specify it."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(ratio) if ratio and ratio > 0 else Fraction(1)
