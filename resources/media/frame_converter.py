"""Converts decoded frames to BGR arrays."""

import functools

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

# Luma weights of red and blue (ITU-R BT.709 and BT.601), by the frame's colour matrix; an unspecified matrix means
# BT.601, as in swscale.
_BT709, _BT601 = (0.2126, 0.0722), (0.299, 0.114)

DOWNSCALE_FACTORS = (2, 3)
"""Factors at which a downscaled image costs less than one of full size."""


class FrameConverter:
    """Converts the frames of one video to BGR arrays.

    Reuses the swscale context, because setting it up costs more than the conversion of a frame.

    Args:
        downscale_factor: 1 for full size, or one of `DOWNSCALE_FACTORS` that divides width and height. Downscaling
            requires frames of a normalized video (8-bit 4:2:0).
    """

    def __init__(self, downscale_factor: int = 1) -> None:
        self._downscale_factor, self._reformatter = downscale_factor, VideoReformatter()
        # Reused, because allocating new memory costs as much as writing the samples.
        self._yuv = np.empty((0, 0, 3), np.uint8)

    def to_bgr(self, frame: VideoFrame) -> np.ndarray:
        """Convert a frame to a uint8 BGR array of shape (height_px, width_px, 3), downscaled by the factor."""
        if self._downscale_factor > 1:
            return self._to_downscaled_bgr(frame)
        return self._reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()

    def _to_downscaled_bgr(self, frame: VideoFrame) -> np.ndarray:
        """Convert as if the full-size image were resized by linear interpolation, reading only the samples it needs.

        At half size, each pixel is the mean of four that share their chroma, so the colour matrix may be applied to the
        mean as well as to each of the four. At a third, interpolation takes the middle one of nine pixels.
        """
        import cv2

        width_px, height_px = frame.width // self._downscale_factor, frame.height // self._downscale_factor
        if self._yuv.shape != (height_px, width_px, 3):
            self._yuv = np.empty((height_px, width_px, 3), np.uint8)
        planes = []
        for plane, subsampling in zip(frame.planes, (1, 2, 2), strict=True):
            samples = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            samples = samples[:, : frame.width // subsampling]
            if samples.shape != (height_px, width_px):
                interpolation = cv2.INTER_AREA if self._downscale_factor == 2 else cv2.INTER_NEAREST_EXACT
                samples = cv2.resize(samples, (width_px, height_px), interpolation=interpolation)
            planes.append(samples)
        cv2.merge(planes, self._yuv)
        matrix, offset = bgr_matrix(frame.colorspace == Colorspace.ITU709, frame.color_range == ColorRange.JPEG)
        return np.asarray(cv2.transform(self._yuv, np.column_stack([matrix.T, offset])))


@functools.cache
def bgr_matrix(is_bt709: bool, is_full_range: bool) -> tuple[np.ndarray, np.ndarray]:
    """Compute the matrix and offset that convert YUV to BGR.

    Args:
        is_bt709: Whether the colour matrix is that of ITU-R BT.709, else that of BT.601.
        is_full_range: Whether samples use the full range from 0 to 255, else the limited (video) range.

    Returns:
        Matrix, float64 of shape (3, 3), to be multiplied from the right with rows of luma and both chroma samples; and
        the offset to add, float64 of shape (3,).

    Source: ITU-R BT.709-6, items 3.2 to 3.5, solved for the three colours.
    """
    red, blue = _BT709 if is_bt709 else _BT601
    green = 1 - red - blue
    u_to_b, v_to_r = 2 * (1 - blue), 2 * (1 - red)
    luma_scale = 1.0 if is_full_range else 255 / 219
    chroma_scale = 1.0 if is_full_range else 255 / 224
    matrix = np.array(
        [
            [luma_scale, luma_scale, luma_scale],
            [u_to_b * chroma_scale, -u_to_b * blue / green * chroma_scale, 0.0],
            [0.0, -v_to_r * red / green * chroma_scale, v_to_r * chroma_scale],
        ]
    )
    return matrix, -np.array([0.0 if is_full_range else 16.0, 128.0, 128.0]) @ matrix
