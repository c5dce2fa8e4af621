"""Synthetic fixed-camera scenes with exact truth.

A scene is described by plain data (`Scene`, `SceneObject`, `Background`); drawing it is a pure function of
that data and of the time, so the same scene always gives the same pictures and the same truth. Pictures are
BGR arrays, positions are in pixels from the top left corner, times are in seconds from the first frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.video import VideoStream
from numpy.typing import NDArray

CLASS_NAMES = ("person", "car", "bicycle")
BACKGROUND_STYLES = ("street", "yard", "park", "plaza", "plain")
MIN_VISIBLE_FRACTION = 0.3

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Point = tuple[float, float]

_SUPERSAMPLING = 3  # sprites are drawn this much larger, then averaged down
_PHASES = 12  # drawings in one cycle of steps or wheel turns
_NOISE_MARGIN_PX = 64  # how far the noise pattern can be shifted from frame to frame
_HEIGHT_RANGE_PX = {"person": (36, 110), "car": (22, 84), "bicycle": (26, 84)}
_REFERENCE_WIDTH_PX = 640  # picture width to which the speeds below belong
_SPEED_RANGE_PX_S = {"person": (50.0, 100.0), "car": (130.0, 230.0), "bicycle": (90.0, 160.0)}
_MAX_LANE_SPEED_PX_S = {"person": 200.0, "car": 400.0, "bicycle": 300.0}


@dataclass(frozen=True)
class SceneObject:
    """One object moving in a straight line at constant speed.

    Attributes:
        object_id: Number of the object, unique in its scene.
        class_name: One of `CLASS_NAMES`.
        height_px: Height of the drawing.
        start_x_px: Horizontal centre of the object at `appear_time_s`.
        start_base_y_px: Ground line (bottom edge) of the object at `appear_time_s`; a larger one is nearer.
        velocity_x_px_s: Horizontal speed; the drawing faces the way it moves.
        velocity_y_px_s: Vertical speed, positive downwards.
        appear_time_s: First moment at which the object exists.
        vanish_time_s: Moment from which it no longer exists.
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
        """Tell whether the object exists at this time, inside the picture or not."""
        return self.appear_time_s <= time_s < self.vanish_time_s

    def position_px(self, time_s: float) -> Point:
        """Return the horizontal centre and the ground line at this time."""
        age_s = time_s - self.appear_time_s
        return (
            self.start_x_px + self.velocity_x_px_s * age_s,
            self.start_base_y_px + self.velocity_y_px_s * age_s,
        )


@dataclass(frozen=True)
class Background:
    """What stands still behind the objects, and how the camera sees it.

    Attributes:
        style: One of `BACKGROUND_STYLES`.
        seed: Seed of colours and details.
        brightness: Factor on all pixel values.
        brightness_swing: Largest relative change of the brightness over time.
        brightness_period_s: Period of that change.
        noise_sigma: Standard deviation of the sensor noise, in pixel values (0 to 255).
        blur_sigma_px: Standard deviation of the lens blur; 0 is none.
        has_clutter: Whether things that are none of the classes stand about: posts, signs, bins and the like.
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
        width_px: Width of the picture.
        height_px: Height of the picture.
        frame_rate: Frames per second.
        duration_s: Length of the scene.
        seed: Seed of the sensor noise.
        objects: Everything that moves.
        background: Everything that does not.
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
        """Return the time of a frame, the first having index 0."""
        return float(frame_index / self.frame_rate)


@dataclass(frozen=True)
class TruthBox:
    """Where an object is in one frame: its whole outline, hidden parts included, clipped to the picture.

    Attributes:
        object_id: Number of the object in its scene.
        class_name: One of `CLASS_NAMES`.
        x_min_px: Left edge.
        y_min_px: Top edge.
        x_max_px: Right edge, exclusive.
        y_max_px: Bottom edge, exclusive.
        visible_fraction: Part of the object's pixels that is inside the picture and not hidden, 0 to 1.
    """

    object_id: int
    class_name: str
    x_min_px: int
    y_min_px: int
    x_max_px: int
    y_max_px: int
    visible_fraction: float


# --- drawings of objects ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sprite:
    """A drawing cut to its outline; the colour is already multiplied by the opacity."""

    colour: NDArray[np.uint16]  # (height, width, 3), 0 to 255 * 255
    transparency: NDArray[np.uint16]  # (height, width, 1), 0 (solid) to 255
    solid: NDArray[np.bool_]  # (height, width)
    solid_count: int


class _Pen:
    """Draws shapes at once on a colour canvas and on an opacity canvas, in units of the object's height."""

    def __init__(self, width: float, height_px: int) -> None:
        self._scale = height_px * _SUPERSAMPLING
        shape = (self._scale, max(1, round(width * self._scale)))
        self.colour: Picture = np.zeros((*shape, 3), np.uint8)
        self.opacity: Picture = np.zeros(shape, np.uint8)

    def _pixel(self, point: Point) -> tuple[int, int]:
        return round(point[0] * self._scale), round(point[1] * self._scale)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        corners = np.array([self._pixel(point) for point in points], np.int32)
        cv2.fillPoly(self.colour, [corners], colour)
        cv2.fillPoly(self.opacity, [corners], (255,))

    def box(self, x_min: float, y_min: float, x_max: float, y_max: float, colour: Colour) -> None:
        self.polygon([(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)], colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        radius_px = max(1, round(radius * self._scale))
        cv2.circle(self.colour, self._pixel(centre), radius_px, colour, -1)
        cv2.circle(self.opacity, self._pixel(centre), radius_px, (255,), -1)

    def ring(self, centre: Point, radius: float, thickness: float, colour: Colour) -> None:
        radius_px, thickness_px = round(radius * self._scale), max(1, round(thickness * self._scale))
        cv2.circle(self.colour, self._pixel(centre), radius_px, colour, thickness_px)
        cv2.circle(self.opacity, self._pixel(centre), radius_px, (255,), thickness_px)

    def line(self, start: Point, end: Point, thickness: float, colour: Colour) -> None:
        thickness_px = max(1, round(thickness * self._scale))
        cv2.line(self.colour, self._pixel(start), self._pixel(end), colour, thickness_px)
        cv2.line(self.opacity, self._pixel(start), self._pixel(end), (255,), thickness_px)


def _random_colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    blue, green, red = (int(value) for value in rng.integers(low, high, 3))
    return blue, green, red


def _shade(colour: Colour, factor: float) -> Colour:
    blue, green, red = (min(255, max(0, round(channel * factor))) for channel in colour)
    return blue, green, red


def _around(centre: Point, radius: float, angle_rad: float) -> Point:
    return centre[0] + radius * float(np.cos(angle_rad)), centre[1] + radius * float(np.sin(angle_rad))


def _draw_person(height_px: int, rng: np.random.Generator, angle_rad: float) -> _Pen:
    """Draw a person walking to the right."""
    skin = _shade((140, 170, 225), float(rng.uniform(0.35, 1.1)))
    shirt, trousers, hair = _random_colour(rng), _random_colour(rng, 0, 200), _random_colour(rng, 0, 120)
    build = float(rng.uniform(0.85, 1.15))
    has_bag, has_hat, has_skirt = (bool(value) for value in rng.random(3) < 0.3)
    stride = float(np.sin(angle_rad))
    stride = 0.17 * stride + (0.05 if stride >= 0 else -0.05)  # the feet never quite meet
    pen = _Pen(0.7, height_px)
    x = 0.33
    hip, shoulder = (x, 0.52), (x, 0.26)
    half_width = 0.125 * build
    pen.line(shoulder, (x + 0.9 * stride, 0.5), 0.07 * build, _shade(shirt, 0.7))
    if has_bag:
        pen.box(x - half_width - 0.08, 0.24, x, 0.46, _random_colour(rng))
    for side, factor in ((-1, 0.75), (1, 1.0)):
        knee, foot = (x + side * stride * 0.55, 0.74), (x + side * stride, 0.94)
        pen.line(hip, knee, 0.115 * build, _shade(trousers, factor))
        pen.line(knee, foot, 0.095 * build, _shade(trousers, factor))
        pen.line(foot, (foot[0] + 0.07, 0.96), 0.07, _shade(hair, factor))
    top, bottom = half_width, half_width * 0.9
    pen.polygon([(x - top, 0.21), (x + top, 0.21), (x + bottom, 0.56), (x - bottom, 0.56)], shirt)
    if has_skirt:
        pen.polygon([(x - 0.11, 0.48), (x + 0.11, 0.48), (x + 0.18, 0.73), (x - 0.18, 0.73)], trousers)
    elbow, hand = (x - 0.6 * stride, 0.39), (x - 1.0 * stride + 0.03, 0.52)
    pen.line(shoulder, elbow, 0.08 * build, _shade(shirt, 0.8))
    pen.line(elbow, hand, 0.065 * build, skin)
    pen.disc((x - 0.014, 0.105), 0.1, hair)
    pen.disc((x + 0.02, 0.118), 0.082, skin)
    if has_hat:
        pen.box(x - 0.1, 0.04, x + 0.14, 0.075, shirt)
        pen.box(x - 0.075, 0.0, x + 0.075, 0.06, shirt)
    return pen


def _draw_car(height_px: int, rng: np.random.Generator, angle_rad: float) -> _Pen:
    """Draw a car driving to the right."""
    paint, glass = _random_colour(rng), _shade((110, 90, 70), float(rng.uniform(0.4, 1.8)))
    length = float(rng.uniform(1.9, 2.6))
    rear_roof, front_roof = float(rng.uniform(0.08, 0.26)) * length, float(rng.uniform(0.55, 0.68)) * length
    front_glass = front_roof + float(rng.uniform(0.1, 0.16)) * length
    belt = float(rng.uniform(0.38, 0.46))
    pen = _Pen(length, height_px)
    pen.polygon(
        [(rear_roof, 0.02), (front_roof, 0.02), (front_glass, belt + 0.02), (0.03 * length, belt + 0.02)],
        paint,
    )
    pen.polygon(
        [
            (rear_roof + 0.06, 0.1),
            (front_roof - 0.02, 0.1),
            (front_glass - 0.1, belt),
            (0.07 * length + 0.06, belt),
        ],
        glass,
    )
    pillar = 0.5 * (rear_roof + front_roof)
    pen.box(pillar - 0.03, 0.08, pillar + 0.03, belt, paint)
    pen.polygon(
        [
            (0.0, belt + 0.06),
            (0.05, belt),
            (front_glass, belt),
            (length - 0.08, belt + 0.1),
            (length, belt + 0.2),
            (length, 0.84),
            (0.0, 0.84),
        ],
        paint,
    )
    pen.box(0.0, 0.74, length, 0.84, _shade(paint, 0.6))
    pen.line((pillar, belt), (pillar, 0.76), 0.02, _shade(paint, 0.55))
    pen.box(length - 0.12, belt + 0.16, length, belt + 0.26, (190, 245, 255))
    pen.box(0.0, belt + 0.12, 0.07, belt + 0.24, (30, 30, 200))
    for centre_x in (0.21 * length, 0.79 * length):
        centre = (centre_x, 0.79)
        pen.disc(centre, 0.205, (28, 28, 28))
        pen.disc(centre, 0.115, (170, 170, 170))
        for spoke in range(2):
            direction = angle_rad + spoke * np.pi / 2
            pen.line(_around(centre, 0.11, direction), _around(centre, -0.11, direction), 0.035, (80, 80, 80))
    return pen


def _draw_bicycle(height_px: int, rng: np.random.Generator, angle_rad: float) -> _Pen:
    """Draw a bicycle rolling to the right."""
    paint, tyre = _random_colour(rng), _random_colour(rng, 0, 60)
    length = float(rng.uniform(1.6, 1.8))
    radius = float(rng.uniform(0.29, 0.32))
    has_basket = rng.random() < 0.4
    pen = _Pen(length, height_px)
    rear, front = (radius + 0.04, 0.96 - radius), (length - radius - 0.04, 0.96 - radius)
    crank, seat = (0.46 * length, 0.72), (0.38 * length, 0.24)
    head = (0.68 * length, 0.22)
    for wheel in (rear, front):
        for spoke in range(3):
            direction = angle_rad + spoke * np.pi / 3
            pen.line(_around(wheel, radius, direction), _around(wheel, -radius, direction), 0.02, (170, 170, 170))
        pen.ring(wheel, radius, 0.075, tyre)
        pen.disc(wheel, 0.05, (150, 150, 150))
    joint = (0.395 * length, 0.34)
    for start, end in (
        (rear, crank),
        (rear, joint),
        (crank, joint),
        (crank, head),
        (joint, (head[0], 0.3)),
        (head, front),
    ):
        pen.line(start, end, 0.07, paint)
    pen.line(joint, seat, 0.05, (120, 120, 120))
    pen.line((seat[0] - 0.12, 0.2), (seat[0] + 0.12, 0.2), 0.08, (30, 30, 30))
    pen.line(head, (head[0] - 0.03, 0.06), 0.05, (120, 120, 120))
    pen.line((head[0] - 0.14, 0.05), (head[0] + 0.06, 0.05), 0.06, (30, 30, 30))
    pen.line(_around(crank, 0.13, angle_rad), _around(crank, -0.13, angle_rad), 0.05, (60, 60, 60))
    pen.disc(crank, 0.07, (90, 90, 90))
    if has_basket:
        pen.box(head[0] + 0.04, 0.14, head[0] + 0.28, 0.34, _random_colour(rng, 40, 200))
    return pen


_DRAWERS: dict[str, Callable[[int, np.random.Generator, float], _Pen]] = {
    "person": _draw_person,
    "car": _draw_car,
    "bicycle": _draw_bicycle,
}


@lru_cache(maxsize=1024)
def _sprite(class_name: str, height_px: int, colour_seed: int, faces_left: bool, phase: int) -> _Sprite:
    rng = np.random.default_rng((CLASS_NAMES.index(class_name), colour_seed))
    pen = _DRAWERS[class_name](height_px, rng, 2 * np.pi * phase / _PHASES)
    size = (max(1, pen.opacity.shape[1] // _SUPERSAMPLING), pen.opacity.shape[0] // _SUPERSAMPLING)
    colour = cv2.resize(pen.colour, size, interpolation=cv2.INTER_AREA)
    opacity = cv2.resize(pen.opacity, size, interpolation=cv2.INTER_AREA)
    if faces_left:
        colour, opacity = colour[:, ::-1], opacity[:, ::-1]
    solid = opacity > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    outline = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _Sprite(
        colour=colour[outline].astype(np.uint16) * 255,
        transparency=255 - opacity[outline].astype(np.uint16)[..., None],
        solid=np.ascontiguousarray(solid[outline]),
        solid_count=int(solid.sum()),
    )


# --- backgrounds --------------------------------------------------------------------------------------------


def _fill_gradient(picture: Picture, y_min: int, y_max: int, top: Colour, bottom: Colour) -> None:
    """Fill the rows from `y_min` to `y_max` with a vertical gradient."""
    y_max = min(y_max, picture.shape[0])
    if y_max > y_min:
        steps = np.linspace(0.0, 1.0, y_max - y_min)[:, None, None]
        picture[y_min:y_max] = (np.array(top) * (1 - steps) + np.array(bottom) * steps).astype(np.uint8)


def _add_texture(
    picture: Picture, y_min: int, y_max: int, rng: np.random.Generator, sigma: float, grain_px: int
) -> None:
    """Add smooth random texture to some rows; `grain_px` is the size of its spots."""
    part = picture[y_min:y_max]
    if part.shape[0] == 0:
        return
    height_px, width_px = part.shape[:2]
    coarse = rng.normal(0, sigma, (height_px // grain_px + 2, width_px // grain_px + 2, 1)).astype(np.float32)
    texture = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_LINEAR)[..., None]
    part[:] = np.clip(part.astype(np.float32) + texture, 0, 255).astype(np.uint8)


def _grey(rng: np.random.Generator, low: int, high: int) -> Colour:
    """Return a slightly tinted grey."""
    base, tint = int(rng.integers(low, high)), rng.integers(-12, 13, 3)
    blue, green, red = (int(np.clip(base + value, 0, 255)) for value in tint)
    return blue, green, red


def _mix(colour: Colour, other: Colour) -> Colour:
    """Return a colour of which a quarter is the first one and the rest the other."""
    blue, green, red = ((first + 3 * second) // 4 for first, second in zip(colour, other, strict=True))
    return blue, green, red


def _draw_buildings(picture: Picture, base_y: int, rng: np.random.Generator) -> None:
    x = -int(rng.integers(0, 60))
    while x < picture.shape[1]:
        width, height = int(rng.integers(50, 160)), int(rng.integers(base_y // 3, base_y + 20))
        wall, window = (
            _mix(_random_colour(rng), _grey(rng, 60, 220)),
            _mix(_random_colour(rng), _grey(rng, 20, 240)),
        )
        cv2.rectangle(picture, (x, base_y - height), (x + width, base_y), wall, -1)
        step_x, step_y = int(rng.integers(14, 30)), int(rng.integers(16, 32))
        for window_y in range(base_y - height + 6, base_y - 12, step_y):
            for window_x in range(x + 5, x + width - 10, step_x):
                cv2.rectangle(
                    picture,
                    (window_x, window_y),
                    (window_x + step_x // 2, window_y + step_y // 2),
                    window,
                    -1,
                )
        x += width + int(rng.integers(0, 12))


def _draw_trees(picture: Picture, base_y: int, rng: np.random.Generator, count: int) -> None:
    for _ in range(count):
        x, height = int(rng.integers(0, picture.shape[1])), int(rng.integers(40, 110))
        green = (int(rng.integers(20, 80)), int(rng.integers(70, 160)), int(rng.integers(20, 100)))
        cv2.line(picture, (x, base_y), (x, base_y - height), (40, 60, 80), max(2, height // 14))
        for _ in range(6):
            offset_x, offset_y = (int(value) for value in rng.integers(-height // 5, height // 5 + 1, 2))
            radius = int(rng.integers(height // 6, height // 3))
            shade = _shade(green, float(rng.uniform(0.8, 1.2)))
            cv2.circle(picture, (x + offset_x, base_y - height + offset_y), radius, shade, -1)


def _draw_clutter(picture: Picture, y_min: int, y_max: int, rng: np.random.Generator, count: int) -> None:
    """Draw things that are none of the classes: posts, signs, bins, manholes and stains."""
    for _ in range(count):
        x, base_y = int(rng.integers(0, picture.shape[1])), int(rng.integers(y_min, max(y_min + 1, y_max)))
        size, colour = int(rng.integers(10, 60)), _random_colour(rng)
        kind = int(rng.integers(0, 6))
        if kind == 0:
            cv2.line(picture, (x, base_y), (x, base_y - 2 * size), colour, max(2, size // 12))
            cv2.circle(picture, (x, base_y - 2 * size), max(2, size // 6), _random_colour(rng), -1)
        elif kind == 1:
            cv2.rectangle(picture, (x, base_y - size), (x + size // 2, base_y), colour, -1)
            cv2.rectangle(
                picture,
                (x - 2, base_y - size),
                (x + size // 2 + 2, base_y - size + 3),
                _shade(colour, 0.6),
                -1,
            )
        elif kind == 2:
            cv2.ellipse(picture, (x, base_y), (size // 2, max(1, size // 6)), 0, 0, 360, _grey(rng, 30, 120), -1)
        elif kind == 3:
            cv2.rectangle(picture, (x, base_y - size // 2), (x + 2 * size, base_y), colour, -1)
        elif kind == 4:
            cv2.circle(picture, (x, base_y - size // 2), max(2, size // 3), colour, max(1, size // 12))
        else:
            end = (x + int(rng.integers(-80, 81)), base_y + int(rng.integers(-30, 31)))
            cv2.line(picture, (x, base_y), end, colour, int(rng.integers(1, 5)))


def _draw_street(picture: Picture, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    shift = float(rng.uniform(-0.02, 0.02))
    pavement_y, road_y, kerb_y = (round((part + shift) * height) for part in (0.24, 0.39, 0.87))
    sky = _mix(_random_colour(rng), _grey(rng, 150, 240))
    _fill_gradient(picture, 0, pavement_y, sky, _shade(sky, 1.15))
    _draw_buildings(picture, pavement_y, rng)
    paving, asphalt = _grey(rng, 110, 200), _grey(rng, 45, 120)
    _fill_gradient(picture, pavement_y, road_y, paving, _shade(paving, 0.9))
    _fill_gradient(picture, road_y, kerb_y, asphalt, _shade(asphalt, 1.15))
    _fill_gradient(picture, kerb_y, height, _shade(paving, 0.95), paving)
    _add_texture(picture, pavement_y, height, rng, 5, int(rng.integers(2, 6)))
    marking = (225, 225, 225) if rng.random() < 0.7 else (90, 200, 230)
    dash, gap = int(rng.integers(25, 60)), int(rng.integers(20, 60))
    for part in (1, 2):
        y = road_y + (kerb_y - road_y) * part // 3
        for x in range(-int(rng.integers(0, 60)), width, dash + gap):
            cv2.rectangle(picture, (x, y - 1), (x + dash, y + 1), marking, -1)
    for y in (road_y, kerb_y):
        cv2.line(picture, (0, y), (width, y), _shade(paving, 0.6), 2)
    if rng.random() < 0.3:
        x = int(rng.integers(0, width))
        for y in range(road_y + 6, kerb_y - 6, 18):
            cv2.rectangle(picture, (x, y), (x + 60, y + 9), marking, -1)
    _draw_trees(picture, pavement_y, rng, int(rng.integers(0, 4)))


def _draw_yard(picture: Picture, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    wall_y = round(float(rng.uniform(0.15, 0.4)) * height)
    wall, ground = _random_colour(rng, 60, 210), _grey(rng, 70, 190)
    _fill_gradient(picture, 0, wall_y, _shade(wall, 1.1), _shade(wall, 0.85))
    _fill_gradient(picture, wall_y, height, ground, _shade(ground, float(rng.uniform(0.8, 1.2))))
    step = int(rng.integers(8, 70))
    for x in range(0, width, step):
        cv2.line(picture, (x, 0), (x, wall_y), _shade(wall, 0.75), 1 + step // 30)
    if rng.random() < 0.5:
        for x in range(40, width, int(rng.integers(90, 220))):
            cv2.rectangle(picture, (x, wall_y // 3), (x + 50, wall_y), _random_colour(rng, 30, 200), -1)
    for x in range(0, width, int(rng.integers(60, 140))):
        if rng.random() < 0.6:
            end = (x + int(rng.integers(-40, 41)), height)
            cv2.line(picture, (x, (wall_y + height) // 2), end, (215, 215, 215), 2)
    _add_texture(picture, 0, height, rng, float(rng.uniform(3, 10)), int(rng.integers(2, 30)))


def _draw_park(picture: Picture, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    horizon_y = round(float(rng.uniform(0.15, 0.35)) * height)
    sky = _mix(_random_colour(rng), _grey(rng, 150, 240))
    _fill_gradient(picture, 0, horizon_y, sky, _shade(sky, 1.15))
    grass = (int(rng.integers(30, 90)), int(rng.integers(90, 170)), int(rng.integers(40, 120)))
    _fill_gradient(picture, horizon_y, height, _shade(grass, 0.8), _shade(grass, 1.2))
    _add_texture(picture, horizon_y, height, rng, float(rng.uniform(6, 20)), int(rng.integers(1, 6)))
    path_y, path_width = int(rng.integers(horizon_y + 20, height)), int(rng.integers(20, 90))
    tilt = int(rng.integers(-60, 61))
    cv2.line(picture, (0, path_y), (width, path_y + tilt), _grey(rng, 110, 190), path_width)
    _draw_trees(picture, horizon_y + 8, rng, int(rng.integers(2, 8)))


def _draw_plaza(picture: Picture, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    stone = _random_colour(rng, 80, 210)
    _fill_gradient(picture, 0, height, _shade(stone, float(rng.uniform(0.7, 1.0))), stone)
    step_x, step_y = int(rng.integers(18, 80)), int(rng.integers(12, 50))
    tilt, joint = int(rng.integers(-80, 81)), _shade(stone, float(rng.uniform(0.6, 0.9)))
    for y in range(0, height, step_y):
        cv2.line(picture, (0, y), (width, y), joint, 1)
    for x in range(-80, width + 80, step_x):
        cv2.line(picture, (x, 0), (x + tilt, height), joint, 1)
    _add_texture(picture, 0, height, rng, float(rng.uniform(2, 8)), int(rng.integers(2, 40)))


def _draw_plain(picture: Picture, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    _fill_gradient(picture, 0, height, _random_colour(rng, 20, 240), _random_colour(rng, 20, 240))
    for _ in range(int(rng.integers(0, 12))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        axes = (int(rng.integers(20, 160)), int(rng.integers(10, 80)))
        cv2.ellipse(picture, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, _random_colour(rng, 20, 240), -1)
    _add_texture(picture, 0, height, rng, float(rng.uniform(2, 25)), int(rng.integers(1, 50)))


_BACKGROUND_DRAWERS: dict[str, Callable[[Picture, np.random.Generator], None]] = {
    "street": _draw_street,
    "yard": _draw_yard,
    "park": _draw_park,
    "plaza": _draw_plaza,
    "plain": _draw_plain,
}


@lru_cache(maxsize=8)
def _background_picture(background: Background, width_px: int, height_px: int) -> Picture:
    """Draw what stands still, shape (height_px, width_px, 3)."""
    rng = np.random.default_rng((BACKGROUND_STYLES.index(background.style), background.seed))
    picture: Picture = np.zeros((height_px, width_px, 3), np.uint8)
    _BACKGROUND_DRAWERS[background.style](picture, rng)
    if background.has_clutter:
        _draw_clutter(picture, height_px // 5, height_px, rng, int(rng.integers(0, 9)))
    picture.setflags(write=False)
    return picture


@lru_cache(maxsize=8)
def _noise_pattern(seed: int, sigma: float, width_px: int, height_px: int) -> NDArray[np.int8]:
    """Draw sensor noise somewhat larger than the picture, so that each frame can use another part of it."""
    shape = (height_px + _NOISE_MARGIN_PX, width_px + _NOISE_MARGIN_PX, 3)
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(sigma)
    pattern: NDArray[np.int8] = np.clip(np.rint(noise), -127, 127).astype(np.int8)
    return pattern


# --- frames -------------------------------------------------------------------------------------------------


def _object_sprite(item: SceneObject, time_s: float) -> _Sprite:
    travelled_px = abs(item.velocity_x_px_s) * (time_s - item.appear_time_s)
    cycle_px = max(1.0, item.height_px * 0.9)
    phase = (int(travelled_px / cycle_px * _PHASES) + item.colour_seed) % _PHASES
    return _sprite(item.class_name, item.height_px, item.colour_seed, item.velocity_x_px_s < 0, phase)


def _apply_camera(picture: Picture, scene: Scene, time_s: float) -> Picture:
    """Apply brightness, lens blur and sensor noise to a picture."""
    background = scene.background
    wave = np.sin(2 * np.pi * time_s / background.brightness_period_s)
    brightness = background.brightness * (1 + background.brightness_swing * float(wave))
    if brightness != 1.0:
        picture = cv2.convertScaleAbs(picture, alpha=brightness)
    if background.blur_sigma_px > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), background.blur_sigma_px)
    if background.noise_sigma > 0:
        pattern = _noise_pattern(scene.seed, background.noise_sigma, scene.width_px, scene.height_px)
        shift_rng = np.random.default_rng((scene.seed, round(abs(time_s) * 1e6)))
        left, top = (int(value) for value in shift_rng.integers(0, _NOISE_MARGIN_PX, 2))
        noise = pattern[top : top + scene.height_px, left : left + scene.width_px]
        picture = cast(Picture, cv2.add(picture, noise, dtype=cv2.CV_8U))
    return picture


def draw_frame(scene: Scene, time_s: float) -> tuple[Picture, list[TruthBox]]:
    """Draw the scene at one moment.

    Args:
        scene: The scene.
        time_s: Seconds from its start.

    Returns:
        The picture, BGR of shape (height_px, width_px, 3), and the truth: a box for each object of which at
        least `MIN_VISIBLE_FRACTION` is visible, ordered by object number.
    """
    width_px, height_px = scene.width_px, scene.height_px
    picture = _background_picture(scene.background, width_px, height_px).copy()
    owner = np.zeros((height_px, width_px), np.uint16)
    present = [(item, *item.position_px(time_s)) for item in scene.objects if item.exists_at(time_s)]
    present.sort(key=lambda entry: (entry[2], entry[0].object_id))
    candidates: list[tuple[SceneObject, tuple[int, int, int, int], int, int]] = []
    for number, (item, centre_x_px, base_y_px) in enumerate(present, start=1):
        sprite = _object_sprite(item, time_s)
        sprite_height_px, sprite_width_px = sprite.solid.shape
        left, top = round(centre_x_px - sprite_width_px / 2), round(base_y_px) - sprite_height_px
        x_min, y_min = max(0, left), max(0, top)
        x_max, y_max = min(width_px, left + sprite_width_px), min(height_px, top + sprite_height_px)
        if x_min >= x_max or y_min >= y_max:
            continue
        inside = np.s_[y_min - top : y_max - top, x_min - left : x_max - left]
        region = picture[y_min:y_max, x_min:x_max]
        region[:] = (region * sprite.transparency[inside] + sprite.colour[inside] + 127) // 255
        owner[y_min:y_max, x_min:x_max][sprite.solid[inside]] = number
        candidates.append((item, (x_min, y_min, x_max, y_max), number, sprite.solid_count))
    visible_counts = np.bincount(owner.ravel(), minlength=len(present) + 1)
    boxes = []
    for item, edges, number, solid_count in candidates:
        visible_fraction = int(visible_counts[number]) / solid_count
        if visible_fraction >= MIN_VISIBLE_FRACTION:
            boxes.append(TruthBox(item.object_id, item.class_name, *edges, visible_fraction=visible_fraction))
    boxes.sort(key=lambda box: box.object_id)
    return _apply_camera(picture, scene, time_s), boxes


# --- scenes -------------------------------------------------------------------------------------------------


def _random_background(rng: np.random.Generator, style: str) -> Background:
    return Background(
        style=style,
        seed=int(rng.integers(0, 2**31)),
        brightness=float(rng.uniform(0.5, 1.2)),
        brightness_swing=float(rng.uniform(0.0, 0.12)),
        brightness_period_s=float(rng.uniform(8.0, 40.0)),
        noise_sigma=float(rng.uniform(0.0, 6.0)),
        blur_sigma_px=float(rng.uniform(0.4, 1.1)) if rng.random() < 0.35 else 0.0,
    )


def random_scene(
    seed: int,
    duration_s: float = 4.0,
    *,
    max_objects: int = 12,
    width_px: int = 640,
    height_px: int = 360,
    frame_rate: Fraction | int = 25,
) -> Scene:
    """Make a scene with anything anywhere: crowds, occlusions, objects cut by the edges, sometimes nothing.

    Args:
        seed: Equal seeds give equal scenes.
        duration_s: Length in seconds.
        max_objects: Largest number of objects.
        width_px: Width of the picture.
        height_px: Height of the picture.
        frame_rate: Frames per second.

    Returns:
        The scene. Every object passes through the picture at some time; all exist from the start to the end.
    """
    rng = np.random.default_rng((1, seed))
    background = _random_background(rng, str(rng.choice(BACKGROUND_STYLES)))
    crowd_centre = (rng.uniform(0, width_px), rng.uniform(0.2 * height_px, height_px))
    is_crowd = rng.random() < 0.2
    objects = []
    for object_id in range(1, int(rng.integers(0, max_objects + 1)) + 1):
        class_name = str(rng.choice(CLASS_NAMES))
        low_px, high_px = _HEIGHT_RANGE_PX[class_name]
        size_px = round(float(np.exp(rng.uniform(np.log(low_px), np.log(high_px)))))
        if is_crowd and rng.random() < 0.6:
            x_px = crowd_centre[0] + rng.normal(0, 60)
            base_y_px = crowd_centre[1] + rng.normal(0, 30)
        else:
            x_px, base_y_px = rng.uniform(0, width_px), rng.uniform(0.15 * height_px, 1.08 * height_px)
        velocity_x_px_s = rng.uniform(20, _SPEED_RANGE_PX_S[class_name][1]) * rng.choice((-1, 1))
        velocity_y_px_s = rng.normal(0, 8)
        passing_time_s = rng.uniform(0, duration_s)
        objects.append(
            SceneObject(
                object_id=object_id,
                class_name=class_name,
                height_px=size_px,
                start_x_px=float(x_px - velocity_x_px_s * passing_time_s),
                start_base_y_px=float(base_y_px - velocity_y_px_s * passing_time_s),
                velocity_x_px_s=float(velocity_x_px_s),
                velocity_y_px_s=float(velocity_y_px_s),
                appear_time_s=0.0,
                vanish_time_s=duration_s,
                colour_seed=int(rng.integers(0, 2**31)),
            )
        )
    return Scene(width_px, height_px, Fraction(frame_rate), duration_s, seed, tuple(objects), background)


@dataclass(frozen=True)
class _Lane:
    """A line across the picture on which one class moves; lengths as fractions of the picture's height."""

    class_name: str
    base_y: float
    height: float
    goes_left: bool


_LANES = (
    _Lane("person", 0.365, 0.15, False),
    _Lane("car", 0.535, 0.13, True),
    _Lane("car", 0.69, 0.145, False),
    _Lane("bicycle", 0.835, 0.135, True),
    _Lane("person", 0.985, 0.19, True),
)
_LENGTH_TO_HEIGHT = {"person": 0.65, "car": 2.6, "bicycle": 1.8}  # upper limits over all drawings


def _lane_objects(
    lane: _Lane, count: int, scene_size_px: tuple[int, int], duration_s: float, rng: np.random.Generator
) -> Iterator[SceneObject]:
    """Let objects cross the picture one after the other, all at the lane's speed (numbered later)."""
    width_px, height_px = scene_size_px
    longest_px = lane.height * 1.05 * height_px * _LENGTH_TO_HEIGHT[lane.class_name]
    crossing_px, spacing_px = width_px + longest_px, 1.5 * longest_px
    path_px = crossing_px + max(0, count - 1) * spacing_px
    slowest_px_s = path_px / (0.85 * duration_s)
    zoom = width_px / _REFERENCE_WIDTH_PX
    if count > 0 and slowest_px_s > _MAX_LANE_SPEED_PX_S[lane.class_name] * zoom:
        raise ValueError(f"{count} objects of class {lane.class_name} do not fit in a lane during {duration_s} s")
    usual_px_s = float(rng.uniform(*_SPEED_RANGE_PX_S[lane.class_name])) * zoom
    speed_px_s = max(usual_px_s, slowest_px_s)
    crossing_s, headway_s = crossing_px / speed_px_s, spacing_px / speed_px_s
    slack_s = duration_s - path_px / speed_px_s
    starts_s = np.sort(rng.uniform(0, slack_s, count)) + headway_s * np.arange(count)
    for start_s in starts_s:
        yield SceneObject(
            object_id=0,
            class_name=lane.class_name,
            height_px=round(lane.height * float(rng.uniform(0.92, 1.05)) * height_px),
            start_x_px=width_px + longest_px / 2 if lane.goes_left else -longest_px / 2,
            start_base_y_px=lane.base_y * height_px + float(rng.uniform(-2, 2)),
            velocity_x_px_s=-speed_px_s if lane.goes_left else speed_px_s,
            velocity_y_px_s=0.0,
            appear_time_s=float(start_s),
            vanish_time_s=float(start_s + crossing_s),
            colour_seed=int(rng.integers(0, 2**31)),
        )


def demo_scene(
    seed: int,
    duration_s: float,
    counts: Mapping[str, int],
    *,
    width_px: int = 640,
    height_px: int = 360,
    frame_rate: Fraction | int = 25,
) -> Scene:
    """Make a street scene with an exactly known number of objects of each class.

    Each object enters the picture at one side, crosses it in its lane and leaves at the other side before the
    end; lanes hardly overlap, so objects do not hide each other for long.

    Args:
        seed: Equal arguments give equal scenes.
        duration_s: Length in seconds.
        counts: Number of objects by class name; classes left out have none.
        width_px: Width of the picture.
        height_px: Height of the picture.
        frame_rate: Frames per second.

    Returns:
        The scene, its objects numbered from 1 in the order in which they enter.

    Raises:
        ValueError: If a class is unknown, or so many objects do not fit in the time.
    """
    unknown = set(counts) - set(CLASS_NAMES)
    if unknown:
        raise ValueError(f"unknown classes: {', '.join(sorted(unknown))}")
    rng = np.random.default_rng((2, seed))
    background = _random_background(rng, "street")
    background = replace(background, brightness=float(rng.uniform(0.8, 1.1)), has_clutter=False)
    entering: list[SceneObject] = []
    for class_name in CLASS_NAMES:
        lanes = [lane for lane in _LANES if lane.class_name == class_name]
        total = counts.get(class_name, 0)
        for index, lane in enumerate(lanes):
            count = (total + index) // len(lanes)  # as equal as possible
            entering.extend(_lane_objects(lane, count, (width_px, height_px), duration_s, rng))
    entering.sort(key=lambda item: item.appear_time_s)
    objects = tuple(replace(item, object_id=number) for number, item in enumerate(entering, start=1))
    return Scene(width_px, height_px, Fraction(frame_rate), duration_s, seed, objects, background)


# --- files --------------------------------------------------------------------------------------------------


def write_video(
    scene: Scene,
    path: Path,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> None:
    """Write the scene as a video without sound, at its constant frame rate.

    Args:
        scene: The scene.
        path: The file; its extension decides the container format.
        codec: Encoder name as FFmpeg knows it.
        pixel_format: Pixel format name as FFmpeg knows it.
        options: Encoder options; for libx264 the default is {"preset": "veryfast", "crf": "21"}.
    """
    if options is None:
        options = {"preset": "veryfast", "crf": "21"} if codec == "libx264" else {}
    # Bit-exact: Matroska writes a random number otherwise, and the same recording would be another one each time.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=scene.frame_rate, options=dict(options)))
        stream.width, stream.height, stream.pix_fmt = scene.width_px, scene.height_px, pixel_format
        stream.time_base = 1 / scene.frame_rate
        for index in range(scene.frame_count):
            picture, _ = draw_frame(scene, scene.frame_time_s(index))
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = index, 1 / scene.frame_rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def scene_truth(scene: Scene, file_name: str) -> dict[str, Any]:
    """Collect the truth of a scene written as a video.

    Args:
        scene: The scene.
        file_name: Name of the video.

    Returns:
        What `write_truth` writes: "file", "frame_count", "frame_rate" (frames per second),
        "frame_rate_fraction" (the same, exact, as text), "width_px", "height_px", "objects" (object_id,
        class_name and the times of the first and last frame with a box of it) and "boxes" (for each frame a
        list of the fields of `TruthBox`).
        Objects that are never visible enough to have a box are left out.
    """
    frames = [draw_frame(scene, scene.frame_time_s(index))[1] for index in range(scene.frame_count)]
    objects: dict[int, dict[str, Any]] = {}
    for index, boxes in enumerate(frames):
        time_s = scene.frame_time_s(index)
        for box in boxes:
            first = {"object_id": box.object_id, "class_name": box.class_name, "first_time_s": time_s}
            objects.setdefault(box.object_id, first)["last_time_s"] = time_s
    return {
        "file": file_name,
        "frame_count": scene.frame_count,
        "frame_rate": float(scene.frame_rate),
        "frame_rate_fraction": str(scene.frame_rate),
        "width_px": scene.width_px,
        "height_px": scene.height_px,
        "objects": [objects[object_id] for object_id in sorted(objects)],
        "boxes": [[asdict(box) for box in boxes] for boxes in frames],
    }


def write_truth(scene: Scene, path: Path, *, file_name: str | None = None) -> None:
    """Write the truth of a scene as JSON (see `scene_truth`).

    Args:
        scene: The scene.
        path: The JSON file.
        file_name: Name of the video of the scene; by default that of the JSON file, ending in .mp4.
    """
    truth = scene_truth(scene, file_name or path.with_suffix(".mp4").name)
    path.write_text(json.dumps(truth) + "\n", encoding="utf-8")
