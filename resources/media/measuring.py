"""Cheap measures of each frame's picture, from its luma alone."""

from array import array
from dataclasses import dataclass, field

import numpy as np
from av.video.frame import VideoFrame

from resources.pictures import small_size

_SHARPNESS_ROWS = 360
_MOTION_ROWS = 90
# Luma below this is black: a tenth of the way from black to white in video range, as in ffmpeg's blackdetect.
_BLACK_LUMA = 16 + 0.1 * 219
_GLIMPSES = 12


def _floats() -> "array[float]":
    return array("f")


@dataclass
class Glimpses:
    """Small pictures of some frames, spread evenly over however many there are.

    Attributes:
        expected_count: How many frames there may be: a good guess saves work.
        kept: Index of the normalized frame and its picture, a uint8 BGR array of shape (height_px, width_px, 3).
    """

    expected_count: int = 0
    kept: list[tuple[int, np.ndarray]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._stride = max(1, self.expected_count // _GLIMPSES)

    def add(self, frame_index: int, frame: VideoFrame) -> None:
        """Take the next picture, if it is one of those to be kept."""
        if self._count % self._stride == 0 and len(self.kept) == 2 * _GLIMPSES:
            self.kept, self._stride = self.kept[::2], 2 * self._stride
        if self._count % self._stride == 0:
            width_px, height_px = small_size(frame.width, frame.height)
            small = frame.reformat(width=width_px, height=height_px, format="bgr24").to_ndarray()
            self.kept.append((frame_index, small))
        self._count += 1

    @property
    def newest(self) -> np.ndarray | None:
        """The last picture kept, if there is one."""
        return self.kept[-1][1] if self.kept else None


@dataclass
class Measures:
    """One entry per normalized frame.

    Attributes:
        glimpses: A few of the pictures themselves.
        brightness: Mean luma, 0 to 255.
        sharpness: Variance of the Laplacian of the luma at 360 rows (Pech-Pacheco et al., "Diatom autofocusing in
            brightfield microscopy", ICPR 2000); less where the picture is less tall.
        motion: Mean absolute difference of the luma to the frame before at about 90 rows, 0 to 255; 0 for the first.
        scene_score: How sudden that change is: min(d, |d - d of the frame before|) with d = motion / 255, 0 to 1, as
            ffmpeg's select filter defines its score.
        black_share: Share of the picture that is black, 0 to 1.
    """

    brightness: "array[float]" = field(default_factory=_floats)
    sharpness: "array[float]" = field(default_factory=_floats)
    motion: "array[float]" = field(default_factory=_floats)
    scene_score: "array[float]" = field(default_factory=_floats)
    black_share: "array[float]" = field(default_factory=_floats)
    glimpses: Glimpses = field(default_factory=Glimpses)
    _small_before: np.ndarray | None = None
    _motion_before: float = 0.0

    def __len__(self) -> int:
        return len(self.motion)

    def add(self, frame: VideoFrame) -> None:
        """Measure the next frame.

        Args:
            frame: Its picture in yuv420p.
        """
        import cv2

        self.glimpses.add(len(self), frame)
        plane = frame.planes[0]
        luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        picture = _reduced(luma, _SHARPNESS_ROWS)
        if picture.shape[0] > _SHARPNESS_ROWS:
            width_px = max(1, round(picture.shape[1] * _SHARPNESS_ROWS / picture.shape[0]))
            picture = cv2.resize(picture, (width_px, _SHARPNESS_ROWS), interpolation=cv2.INTER_LINEAR)
        edges = cv2.Laplacian(picture, cv2.CV_16S)
        self.sharpness.append(cv2.norm(edges, cv2.NORM_L2SQR) / edges.size - (cv2.sumElems(edges)[0] / edges.size) ** 2)
        small = _reduced(picture, _MOTION_ROWS)
        before = self._small_before
        motion = 0.0
        if before is not None and before.shape == small.shape:
            motion = cv2.norm(small, before, cv2.NORM_L1) / small.size
        jump = abs(motion - self._motion_before)
        self._motion_before = motion
        self.motion.append(motion)
        self.scene_score.append(min(1.0, min(motion, jump) / 255))
        self.brightness.append(cv2.sumElems(small)[0] / small.size)
        self.black_share.append(np.count_nonzero(small < _BLACK_LUMA) / small.size)
        self._small_before = small

    def repeat(self) -> None:
        """The next frame repeats the one before."""
        for values in (self.brightness, self.sharpness, self.black_share):
            values.append(values[-1])
        self.motion.append(0.0)
        self.scene_score.append(0.0)


def _reduced(picture: np.ndarray, rows: int) -> np.ndarray:
    """Halve a picture while it stays at least `rows` tall: exact means of 2 × 2 pixels, the cheapest true reduction."""
    import cv2

    while picture.shape[0] >= 2 * rows and picture.shape[1] >= 2:
        half = (picture.shape[1] // 2, picture.shape[0] // 2)
        picture = cv2.resize(picture, half, interpolation=cv2.INTER_AREA)
    return picture
