"""Scenes as data: objects, background, camera and ground-truth boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("person", "car", "bicycle")
BACKGROUND_STYLES = ("street", "yard", "park", "plaza", "plain")
MIN_VISIBLE_FRACTION = 0.3
Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class SceneObject:
    """One object moving in a straight line at constant speed.

    Attributes:
        object_id: Number of the object, unique in its scene.
        class_name: One of `CLASS_NAMES`.
        height_px: Height of the object.
        start_x_px: Horizontal centre of the object at `appear_time_s`.
        start_base_y_px: Bottom edge of the object at `appear_time_s`; a greater one is nearer to the camera.
        velocity_x_px_s: Horizontal velocity, positive to the right; the object faces the way it moves.
        velocity_y_px_s: Vertical velocity, positive downwards.
        appear_time_s: Time from which the object exists.
        vanish_time_s: Time from which it no longer exists.
        colour_seed: Seed of its colours and details.
    """

    object_id: int
    class_name: str
    height_px: int
    start_x_px: float
    start_base_y_px: float
    velocity_x_px_s: float
    velocity_y_px_s: float
    appear_time_s: float
    vanish_time_s: float
    colour_seed: int

    def exists_at(self, time_s: float) -> bool:
        """Whether the object exists at a time, inside the frame or not."""
        return self.appear_time_s <= time_s < self.vanish_time_s

    def position_px(self, time_s: float) -> Point:
        """Horizontal centre and bottom edge of the object at a time."""
        age_s = time_s - self.appear_time_s
        return (
            self.start_x_px + self.velocity_x_px_s * age_s,
            self.start_base_y_px + self.velocity_y_px_s * age_s,
        )


@dataclass(frozen=True)
class Background:
    """The static background behind the objects, and the properties of the camera.

    Attributes:
        style: One of `BACKGROUND_STYLES`.
        seed: Seed of colours and details.
        brightness: Factor on all pixel values.
        brightness_swing: Greatest relative change of the brightness over time.
        brightness_period_s: Period of this change.
        noise_sigma: Standard deviation of the sensor noise, in pixel values (0 to 255).
        blur_sigma_px: Standard deviation of the lens blur; 0 is none.
        has_clutter: Whether there are objects of no class: posts, signs, bins and the like.
    """

    style: str = "street"
    seed: int = 0
    brightness: float = 1.0
    brightness_swing: float = 0.0
    brightness_period_s: float = 20.0
    noise_sigma: float = 2.0
    blur_sigma_px: float = 0.0
    has_clutter: bool = True


@dataclass(frozen=True)
class Scene:
    """A fixed camera's view over a time span.

    Attributes:
        width_px: Width of the frames.
        height_px: Height of the frames.
        frame_rate: Frames per second.
        duration_s: Length of the scene.
        seed: Seed of the sensor noise.
        objects: The moving objects.
        background: The static background.
    """

    width_px: int = 640
    height_px: int = 360
    frame_rate: Fraction = Fraction(25)
    duration_s: float = 10.0
    seed: int = 0
    objects: tuple[SceneObject, ...] = ()
    background: Background = field(default_factory=Background)

    @property
    def frame_count(self) -> int:
        """Number of frames of the scene as a video."""
        return round(self.duration_s * self.frame_rate)

    def frame_time_s(self, frame_index: int) -> float:
        """Time of a frame; the first frame has index 0."""
        return float(frame_index / self.frame_rate)


@dataclass(frozen=True)
class TruthBox:
    """Ground truth of an object in one frame: the box of its outline with occluded parts, clipped to the frame.

    Attributes:
        object_id: Number of the object in its scene.
        class_name: One of `CLASS_NAMES`.
        x_min_px: Left edge.
        y_min_px: Top edge.
        x_max_px: Right edge, exclusive.
        y_max_px: Bottom edge, exclusive.
        visible_fraction: Share of the object's pixels that are inside the frame and not occluded, 0 to 1.
    """

    object_id: int
    class_name: str
    x_min_px: int
    y_min_px: int
    x_max_px: int
    y_max_px: int
    visible_fraction: float
