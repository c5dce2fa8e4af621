"""Opens recordings: containers that hold video themselves, their best video stream, a bounded decoder."""

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
av.logging.set_libav_level(av.logging.PANIC)  # damage is counted and told in the ledger, not on stderr

# Only containers that hold video themselves: playlists and scripts, whatever their name, could lead to other files.
_CONTAINERS = (
    "3dostr,asf,av1,avi,dhav,dv,flv,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,vvc,wtv"
)
_INPUT_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_MAX_DECODING_THREADS = 8  # each holds pictures of its own; more do not help one stream
_PICTURE_BYTES_PER_PIXEL = 6  # three components of 16 bits, the largest in use
_NVIDIA_DEVICE = Path("/dev/nvidiactl")


def opened(path: Path, hwaccel: HWAccel | None = None) -> InputContainer:
    """Open a recording.

    Args:
        path: The file.
        hwaccel: The device that decodes it; None means the CPU.

    Raises:
        RecordingError: It is gone or may not be read.
        RejectedRecordingError: It is not a video.
    """
    try:
        return av.open(
            # A name such as "concat:…" or "-" is a file all the same.
            f"file:{path.absolute()}",
            mode="r",
            metadata_errors="replace",
            options=_INPUT_OPTIONS,
            hwaccel=hwaccel,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise RecordingError("The file is gone: drop it into the watched folder again.") from error
        if not os.access(path, os.R_OK):
            raise RecordingError("The file may not be read by this user: change its permissions.") from error
        raise RejectedRecordingError(
            f"It is not a video that can be opened ({path.stat().st_size} bytes): it is damaged, incomplete or "
            "something else under a video's name."
        ) from error


def has_hardware_decoder() -> bool:
    """Whether this machine has an NVIDIA GPU and the decoding library knows how to use it."""
    return _NVIDIA_DEVICE.exists() and "cuda" in hwdevices_available()


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream that players show: not a cover picture, and the largest of several.

    Raises:
        RejectedRecordingError: There is none.
    """
    # The cover of a piece of music is a picture, not a recording.
    pictures = [s for s in container.streams.video if s.codec_context and not s.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({str(s.type) for s in container.streams} - {"video"}) or ["nothing"]
        raise RejectedRecordingError(f"It holds no video, only {' and '.join(kinds)}.")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in pictures else pictures[0]


def bound_decoder(stream: VideoStream, max_pixels: int, thread_count: int | None = None) -> None:
    """Set up a stream's decoder: several threads, and no picture of more pixels than allowed, whenever it comes.

    Args:
        stream: The stream, not yet decoded.
        max_pixels: Larger pictures are errors.
        thread_count: Threads to decode with; None for as many as serve.
    """
    context = stream.codec_context
    context.thread_type = "AUTO"
    context.thread_count = thread_count or min(os.cpu_count() or 1, _MAX_DECODING_THREADS)
    context.options = {**context.options, "max_pixels": str(max_pixels)}
    context.copy_opaque = True


def decoded(packet: "av.Packet[Any]") -> list[VideoFrame]:
    """The pictures that a packet sets free; none where it is damaged.

    Raises:
        MemoryError: The decoder got too little memory, for its pictures or for its threads.
    """
    try:
        return [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
    except (av.error.MemoryError, av.error.BlockingIOError) as error:
        raise MemoryError from error
    except av.error.FFmpegError as error:
        # Decoders call it damage when they get no memory for a picture: see whether another would still fit.
        context = packet.stream.codec_context
        try:
            mmap.mmap(-1, _PICTURE_BYTES_PER_PIXEL * max(1, context.width * context.height), mmap.MAP_PRIVATE).close()
        except OSError as no_memory:
            raise MemoryError from no_memory
        logger.debug("A packet does not decode: %s", error)
        return []


def clockwise_rotation_deg(frame: VideoFrame) -> int:
    """Clockwise turn, one of 0, 90, 180, 270, that makes the picture upright."""
    return round(-frame.rotation / 90) * 90 % 360


def sample_aspect_ratio(stream: VideoStream) -> Fraction:
    """Width of a stored pixel divided by its height; 1 where the file is silent."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(ratio) if ratio and ratio > 0 else Fraction(1)
