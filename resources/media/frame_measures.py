"""Measures brightness, sharpness, motion and the camera's position of each frame, cheaply, from its luma alone."""

from array import array
from dataclasses import dataclass, field

import numpy as np
from av.video.frame import VideoFrame

from resources.media.camera_position import CameraPosition
from resources.previews.annotated_frames import preview_size

_SHARPNESS_HEIGHT_PX = 360
_POSITION_HEIGHT_PX = 180
_MOTION_HEIGHT_PX = 90

# Luma below this is black: a tenth of the limited (video) range, as in FFmpeg's blackdetect filter.
_MAX_BLACK_LUMA = 16 + 0.1 * 219
_MIN_THUMBNAILS = 12


def _floats() -> "array[float]":
    return array("f")


@dataclass
class SampledFrames:
    """Thumbnails of at most 24 frames, spread evenly over a video whose length is only estimated in advance.

    Attributes:
        expected_count: Expected number of frames; a good estimate saves work.
        thumbnails: Index of the normalized frame, and its thumbnail: uint8 BGR of shape (height_px, width_px, 3).
    """

    expected_count: int = 0
    thumbnails: list[tuple[int, np.ndarray]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._stride = max(1, self.expected_count // _MIN_THUMBNAILS)

    def add(self, frame_index: int, frame: VideoFrame) -> None:
        """Count the next frame, and store its thumbnail if the frame is one of the sample."""
        if self._count % self._stride == 0 and len(self.thumbnails) == 2 * _MIN_THUMBNAILS:
            self.thumbnails, self._stride = self.thumbnails[::2], 2 * self._stride
        if self._count % self._stride == 0:
            width_px, height_px = preview_size(frame.width, frame.height)
            thumbnail = frame.reformat(width=width_px, height=height_px, format="bgr24").to_ndarray()
            self.thumbnails.append((frame_index, thumbnail))
        self._count += 1

    @property
    def latest_thumbnail(self) -> np.ndarray | None:
        """The latest thumbnail; None if there is none yet."""
        return self.thumbnails[-1][1] if self.thumbnails else None


@dataclass
class FrameMeasures:
    """Measures of a normalized video, one entry per frame.

    Attributes:
        sampled_frames: Thumbnails of some of the frames.
        brightness: Mean luma, 0 to 255.
        sharpness: Variance of the Laplacian of the luma at 360 rows (Pech-Pacheco et al., "Diatom autofocusing in
            brightfield microscopy", ICPR 2000); at the frame's own height if it is smaller.
        motion: Mean absolute difference of the luma to the previous frame at about 90 rows, 0 to 255; 0 for the first.
        scene_score: How sudden the change is: min(d, |d - d of the previous frame|) with d = motion / 255, 0 to 1, as
            FFmpeg's select filter defines its score.
        black_share: Share of the frame that is black, 0 to 1.
        camera_x: How far the content of the frame lies right of that of the first frame, because the camera moved; as a
            share of the frame's width.
        camera_y: The same downwards, as a share of the height.
    """

    brightness: "array[float]" = field(default_factory=_floats)
    sharpness: "array[float]" = field(default_factory=_floats)
    motion: "array[float]" = field(default_factory=_floats)
    scene_score: "array[float]" = field(default_factory=_floats)
    black_share: "array[float]" = field(default_factory=_floats)
    camera_x: "array[float]" = field(default_factory=_floats)
    camera_y: "array[float]" = field(default_factory=_floats)
    sampled_frames: SampledFrames = field(default_factory=SampledFrames)
    _previous_luma: np.ndarray | None = None
    _previous_motion: float = 0.0
    _camera_position: CameraPosition = field(default_factory=CameraPosition)

    def __len__(self) -> int:
        return len(self.motion)

    def add(self, frame: VideoFrame) -> None:
        """Measure the next frame.

        Args:
            frame: The frame, in yuv420p.
        """
        import cv2

        self.sampled_frames.add(len(self), frame)
        plane = frame.planes[0]
        luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        luma = _halve_repeatedly(luma, _SHARPNESS_HEIGHT_PX)
        if luma.shape[0] > _SHARPNESS_HEIGHT_PX:
            width_px = max(1, round(luma.shape[1] * _SHARPNESS_HEIGHT_PX / luma.shape[0]))
            luma = cv2.resize(luma, (width_px, _SHARPNESS_HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
        edges = cv2.Laplacian(luma, cv2.CV_16S)
        self.sharpness.append(cv2.norm(edges, cv2.NORM_L2SQR) / edges.size - (cv2.sumElems(edges)[0] / edges.size) ** 2)
        luma = _halve_repeatedly(luma, _POSITION_HEIGHT_PX)
        x_px, y_px = self._camera_position.add(luma)
        self.camera_x.append(x_px / luma.shape[1])
        self.camera_y.append(y_px / luma.shape[0])
        small_luma = _halve_repeatedly(luma, _MOTION_HEIGHT_PX)
        previous_luma = self._previous_luma
        motion = 0.0
        if previous_luma is not None and previous_luma.shape == small_luma.shape:
            motion = cv2.norm(small_luma, previous_luma, cv2.NORM_L1) / small_luma.size
        motion_change = abs(motion - self._previous_motion)
        self._previous_motion = motion
        self.motion.append(motion)
        self.scene_score.append(min(1.0, min(motion, motion_change) / 255))
        self.brightness.append(cv2.sumElems(small_luma)[0] / small_luma.size)
        self.black_share.append(np.count_nonzero(small_luma < _MAX_BLACK_LUMA) / small_luma.size)
        self._previous_luma = small_luma

    def repeat(self) -> None:
        """Add the measures of a frame that repeats the previous one."""
        for values in (self.brightness, self.sharpness, self.black_share, self.camera_x, self.camera_y):
            values.append(values[-1])
        self.motion.append(0.0)
        self.scene_score.append(0.0)


def _halve_repeatedly(luma: np.ndarray, min_height_px: int) -> np.ndarray:
    """Halve an image as often as its height stays at least `min_height_px`.

    Exact means of 2 × 2 pixels, the cheapest downscaling that uses every pixel.
    """
    import cv2

    while luma.shape[0] >= 2 * min_height_px and luma.shape[1] >= 2:
        half_px = (luma.shape[1] // 2, luma.shape[0] // 2)
        luma = cv2.resize(luma, half_px, interpolation=cv2.INTER_AREA)
    return luma
