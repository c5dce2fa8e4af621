"""Videos whose every frame contains its own number, readable also after scaling and compression."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np

MakeVideo: TypeAlias = Callable[..., Path]
"""Writes a numbered video into the folder of the test; its arguments are those of `write_numbered_video`."""


def draw_numbered_image(number: int, width_px: int, height_px: int) -> np.ndarray:
    """Draw a grey image with a number as 16 black or white blocks in two rows, most significant bit first."""
    image = np.full((height_px, width_px, 3), 128, np.uint8)
    block_px = width_px // 8
    for bit in range(16):
        row, column = divmod(bit, 8)
        value = 235 if number >> (15 - bit) & 1 else 20
        top_px = height_px // 2 + (row - 1) * block_px
        image[top_px : top_px + block_px, column * block_px : (column + 1) * block_px] = value
    return image


def read_number(image: np.ndarray) -> int:
    """Read the number that `draw_numbered_image` drew, also from a scaled and compressed copy."""
    height_px, width_px = image.shape[:2]
    block_px = width_px / 8
    number = 0
    for bit in range(16):
        row, column = divmod(bit, 8)
        y = int(height_px / 2 + (row - 0.5) * block_px)
        x = int((column + 0.5) * block_px)
        number = number << 1 | int(image[y - 1 : y + 2, x - 1 : x + 2].mean() > 128)
    return number


def set_track_rotation(path: Path, clockwise_deg: int) -> None:
    """Write into the track header of an MP4 file that players rotate the video (ISO/IEC 14496-12, 8.3.2)."""
    one = 1 << 16
    a, b, c, d = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[clockwise_deg]
    identity, rotated = (struct.pack(">9i", *m, 0, 0, 1 << 30) for m in ((one, 0, 0, 0, one, 0), (a, b, 0, c, d, 0)))
    content = path.read_bytes()
    offset = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:offset] + rotated + content[offset + len(rotated) :])


def write_numbered_video(
    path: Path,
    times: Sequence[Fraction] | int = 24,
    *,
    rate: Fraction | int = 24,
    size: tuple[int, int] = (128, 96),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    aspect: Fraction = Fraction(1),
    clockwise_deg: int = 0,
) -> Path:
    """Write a video whose every frame contains its own number.

    Args:
        path: The file; its suffix chooses the container.
        times: Time of each frame in seconds, or how many frames at the rate.
        rate: Frames per second.
        size: Width and height as stored, in pixels.
        codec: Encoder of FFmpeg.
        pixel_format: Pixel format of FFmpeg.
        options: Further options of libx264.
        aspect: Sample aspect ratio.
        clockwise_deg: By how much a player must rotate the stored frames.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frame_times_s = [Fraction(k) / rate for k in range(times)] if isinstance(times, int) else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        # Formats without timestamps take their rate from the time base.
        time_base = Fraction(1) / rate if path.suffix in (".avi", ".h264") else Fraction(1, 90_000)
        if codec == "mpeg4" and path.suffix != ".avi":
            time_base = Fraction(1, 15_000)  # its clock has 16 bits
        stream.codec_context.time_base = time_base
        if aspect != 1:
            stream.codec_context.sample_aspect_ratio = aspect
        if codec == "libx264":
            stream.options = {"crf": "15", "preset": "ultrafast", **(options or {})}
        for number, time_s in enumerate(frame_times_s):
            image = draw_numbered_image(number, *(size if clockwise_deg % 180 == 0 else size[::-1]))
            # Stored rotated to the left, so that the player's rotation to the right makes the frame upright.
            image = np.ascontiguousarray(np.rot90(image, clockwise_deg // 90))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(time_s / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if clockwise_deg:
        set_track_rotation(path, clockwise_deg)
    return path
