"""Draw sprites of persons, cars and bicycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.drawn_scenes.scenes import CLASS_NAMES, Colour, Image, Point

_SUPERSAMPLING = 3  # sprites are drawn this many times larger, then averaged down
PHASES = 12  # sprites in one cycle of steps or wheel turns


@dataclass(frozen=True)
class Sprite:
    """An object cut out along its bounding box; the colour is already multiplied by the opacity."""

    colour: NDArray[np.uint16]  # (height, width, 3), 0 to 255 * 255
    transparency: NDArray[np.uint16]  # (height, width, 1), 0 (solid) to 255
    solid: NDArray[np.bool_]  # (height, width)
    solid_count: int


class _Pen:
    """Draws shapes on a colour and an opacity canvas at once; lengths in units of the object's height."""

    def __init__(self, width: float, height_px: int) -> None:
        self._scale = height_px * _SUPERSAMPLING
        shape = (self._scale, max(1, round(width * self._scale)))
        self.colour: Image = np.zeros((*shape, 3), np.uint8)
        self.opacity: Image = np.zeros(shape, np.uint8)

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


def random_colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    """Choose a random BGR colour whose channels are from `low` to `high`, exclusive."""
    blue, green, red = (int(value) for value in rng.integers(low, high, 3))
    return blue, green, red


def shade(colour: Colour, factor: float) -> Colour:
    """Multiply a colour by a factor, clipped to 0 to 255."""
    blue, green, red = (min(255, max(0, round(channel * factor))) for channel in colour)
    return blue, green, red


def _point_on_circle(centre: Point, radius: float, angle_rad: float) -> Point:
    return centre[0] + radius * float(np.cos(angle_rad)), centre[1] + radius * float(np.sin(angle_rad))


def _draw_person(height_px: int, rng: np.random.Generator, angle_rad: float) -> _Pen:
    """Draw a person walking to the right."""
    skin = shade((140, 170, 225), float(rng.uniform(0.35, 1.1)))
    shirt, trousers, hair = random_colour(rng), random_colour(rng, 0, 200), random_colour(rng, 0, 120)
    build = float(rng.uniform(0.85, 1.15))
    has_bag, has_hat, has_skirt = (bool(value) for value in rng.random(3) < 0.3)
    stride = float(np.sin(angle_rad))
    stride = 0.17 * stride + (0.05 if stride >= 0 else -0.05)  # the feet never quite meet
    pen = _Pen(0.7, height_px)
    x = 0.33
    hip, shoulder = (x, 0.52), (x, 0.26)
    half_width = 0.125 * build
    pen.line(shoulder, (x + 0.9 * stride, 0.5), 0.07 * build, shade(shirt, 0.7))
    if has_bag:
        pen.box(x - half_width - 0.08, 0.24, x, 0.46, random_colour(rng))
    for side, factor in ((-1, 0.75), (1, 1.0)):
        knee, foot = (x + side * stride * 0.55, 0.74), (x + side * stride, 0.94)
        pen.line(hip, knee, 0.115 * build, shade(trousers, factor))
        pen.line(knee, foot, 0.095 * build, shade(trousers, factor))
        pen.line(foot, (foot[0] + 0.07, 0.96), 0.07, shade(hair, factor))
    top, bottom = half_width, half_width * 0.9
    pen.polygon([(x - top, 0.21), (x + top, 0.21), (x + bottom, 0.56), (x - bottom, 0.56)], shirt)
    if has_skirt:
        pen.polygon([(x - 0.11, 0.48), (x + 0.11, 0.48), (x + 0.18, 0.73), (x - 0.18, 0.73)], trousers)
    elbow, hand = (x - 0.6 * stride, 0.39), (x - 1.0 * stride + 0.03, 0.52)
    pen.line(shoulder, elbow, 0.08 * build, shade(shirt, 0.8))
    pen.line(elbow, hand, 0.065 * build, skin)
    pen.disc((x - 0.014, 0.105), 0.1, hair)
    pen.disc((x + 0.02, 0.118), 0.082, skin)
    if has_hat:
        pen.box(x - 0.1, 0.04, x + 0.14, 0.075, shirt)
        pen.box(x - 0.075, 0.0, x + 0.075, 0.06, shirt)
    return pen


def _draw_car(height_px: int, rng: np.random.Generator, angle_rad: float) -> _Pen:
    """Draw a car driving to the right."""
    paint, glass = random_colour(rng), shade((110, 90, 70), float(rng.uniform(0.4, 1.8)))
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
    pen.box(0.0, 0.74, length, 0.84, shade(paint, 0.6))
    pen.line((pillar, belt), (pillar, 0.76), 0.02, shade(paint, 0.55))
    pen.box(length - 0.12, belt + 0.16, length, belt + 0.26, (190, 245, 255))
    pen.box(0.0, belt + 0.12, 0.07, belt + 0.24, (30, 30, 200))
    for centre_x in (0.21 * length, 0.79 * length):
        centre = (centre_x, 0.79)
        pen.disc(centre, 0.205, (28, 28, 28))
        pen.disc(centre, 0.115, (170, 170, 170))
        for spoke in range(2):
            direction = angle_rad + spoke * np.pi / 2
            pen.line(
                _point_on_circle(centre, 0.11, direction),
                _point_on_circle(centre, -0.11, direction),
                0.035,
                (80, 80, 80),
            )
    return pen


def _draw_bicycle(height_px: int, rng: np.random.Generator, angle_rad: float) -> _Pen:
    """Draw a bicycle rolling to the right."""
    paint, tyre = random_colour(rng), random_colour(rng, 0, 60)
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
            pen.line(
                _point_on_circle(wheel, radius, direction),
                _point_on_circle(wheel, -radius, direction),
                0.02,
                (170, 170, 170),
            )
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
    pen.line(_point_on_circle(crank, 0.13, angle_rad), _point_on_circle(crank, -0.13, angle_rad), 0.05, (60, 60, 60))
    pen.disc(crank, 0.07, (90, 90, 90))
    if has_basket:
        pen.box(head[0] + 0.04, 0.14, head[0] + 0.28, 0.34, random_colour(rng, 40, 200))
    return pen


_DRAWERS: dict[str, Callable[[int, np.random.Generator, float], _Pen]] = {
    "person": _draw_person,
    "car": _draw_car,
    "bicycle": _draw_bicycle,
}


@lru_cache(maxsize=1024)
def draw_sprite(class_name: str, height_px: int, colour_seed: int, faces_left: bool, phase: int) -> Sprite:
    """Draw the sprite of an object.

    Args:
        class_name: One of `CLASS_NAMES`.
        height_px: Height of the object.
        colour_seed: Seed of its colours and details.
        faces_left: Whether it faces to the left, otherwise to the right.
        phase: Phase of its steps or wheels, from 0 to `PHASES` - 1.
    """
    rng = np.random.default_rng((CLASS_NAMES.index(class_name), colour_seed))
    pen = _DRAWERS[class_name](height_px, rng, 2 * np.pi * phase / PHASES)
    size = (max(1, pen.opacity.shape[1] // _SUPERSAMPLING), pen.opacity.shape[0] // _SUPERSAMPLING)
    colour = cv2.resize(pen.colour, size, interpolation=cv2.INTER_AREA)
    opacity = cv2.resize(pen.opacity, size, interpolation=cv2.INTER_AREA)
    if faces_left:
        colour, opacity = colour[:, ::-1], opacity[:, ::-1]
    solid = opacity > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    outline = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Sprite(
        colour=colour[outline].astype(np.uint16) * 255,
        transparency=255 - opacity[outline].astype(np.uint16)[..., None],
        solid=np.ascontiguousarray(solid[outline]),
        solid_count=int(solid.sum()),
    )
