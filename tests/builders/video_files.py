"""Video files whose frames are the images of a test."""

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
