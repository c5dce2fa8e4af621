"""Video files whose frames are the images of a test, and changes of their headers."""

import struct
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np


def write_images_as_video(path: Path, images: Sequence[np.ndarray], rate_fps: int = 5) -> None:
    """Write images of shape (height, width, 3), RGB, as the frames of a Motion JPEG video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate_fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], "yuvj420p"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def set_avi_rate(path: Path, rate: int, scale: int) -> None:
    """Write a frame rate of rate / scale into the header of the video stream of an AVI file."""
    content = bytearray(path.read_bytes())
    position = content.index(b"strh")
    struct.pack_into("<II", content, position + 8 + 20, scale, rate)
    path.write_bytes(content)


def add_to_avi_frame_count(path: Path, count: int) -> None:
    """Let the header of an AVI file claim more frames than the file has."""
    content = bytearray(path.read_bytes())
    for position in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        (claimed,) = struct.unpack_from("<I", content, position)
        struct.pack_into("<I", content, position, claimed + count)
    path.write_bytes(content)
