"""Draw the backgrounds of scenes: street, yard, park, plaza and plain."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from demo.drawn_scenes.scenes import BACKGROUND_STYLES, Background, Colour, Image
from demo.drawn_scenes.sprites import random_colour, shade


def _fill_gradient(image: Image, y_min: int, y_max: int, top: Colour, bottom: Colour) -> None:
    """Fill the rows from `y_min` to `y_max` with a vertical gradient."""
    y_max = min(y_max, image.shape[0])
    if y_max > y_min:
        steps = np.linspace(0.0, 1.0, y_max - y_min)[:, None, None]
        image[y_min:y_max] = (np.array(top) * (1 - steps) + np.array(bottom) * steps).astype(np.uint8)


def _add_texture(image: Image, y_min: int, y_max: int, rng: np.random.Generator, sigma: float, grain_px: int) -> None:
    """Add smooth random texture to the rows from `y_min` to `y_max`; `grain_px` is the size of its spots."""
    part = image[y_min:y_max]
    if part.shape[0] == 0:
        return
    height_px, width_px = part.shape[:2]
    coarse = rng.normal(0, sigma, (height_px // grain_px + 2, width_px // grain_px + 2, 1)).astype(np.float32)
    texture = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_LINEAR)[..., None]
    part[:] = np.clip(part.astype(np.float32) + texture, 0, 255).astype(np.uint8)


def _grey(rng: np.random.Generator, low: int, high: int) -> Colour:
    """Choose a slightly tinted grey with values from `low` to `high`."""
    base, tint = int(rng.integers(low, high)), rng.integers(-12, 13, 3)
    blue, green, red = (int(np.clip(base + value, 0, 255)) for value in tint)
    return blue, green, red


def _mix(first: Colour, second: Colour) -> Colour:
    """Mix a quarter of the first colour with three quarters of the second."""
    blue, green, red = (
        (first_value + 3 * second_value) // 4 for first_value, second_value in zip(first, second, strict=True)
    )
    return blue, green, red


def _draw_buildings(image: Image, base_y: int, rng: np.random.Generator) -> None:
    x = -int(rng.integers(0, 60))
    while x < image.shape[1]:
        width, height = int(rng.integers(50, 160)), int(rng.integers(base_y // 3, base_y + 20))
        wall, window = (
            _mix(random_colour(rng), _grey(rng, 60, 220)),
            _mix(random_colour(rng), _grey(rng, 20, 240)),
        )
        cv2.rectangle(image, (x, base_y - height), (x + width, base_y), wall, -1)
        step_x, step_y = int(rng.integers(14, 30)), int(rng.integers(16, 32))
        for window_y in range(base_y - height + 6, base_y - 12, step_y):
            for window_x in range(x + 5, x + width - 10, step_x):
                cv2.rectangle(
                    image,
                    (window_x, window_y),
                    (window_x + step_x // 2, window_y + step_y // 2),
                    window,
                    -1,
                )
        x += width + int(rng.integers(0, 12))


def _draw_trees(image: Image, base_y: int, rng: np.random.Generator, count: int) -> None:
    for _ in range(count):
        x, height = int(rng.integers(0, image.shape[1])), int(rng.integers(40, 110))
        green = (int(rng.integers(20, 80)), int(rng.integers(70, 160)), int(rng.integers(20, 100)))
        cv2.line(image, (x, base_y), (x, base_y - height), (40, 60, 80), max(2, height // 14))
        for _ in range(6):
            offset_x, offset_y = (int(value) for value in rng.integers(-height // 5, height // 5 + 1, 2))
            radius = int(rng.integers(height // 6, height // 3))
            leaves = shade(green, float(rng.uniform(0.8, 1.2)))
            cv2.circle(image, (x + offset_x, base_y - height + offset_y), radius, leaves, -1)


def _draw_clutter(image: Image, y_min: int, y_max: int, rng: np.random.Generator, count: int) -> None:
    """Draw objects of no class: posts, signs, bins, manholes and stains."""
    for _ in range(count):
        x, base_y = int(rng.integers(0, image.shape[1])), int(rng.integers(y_min, max(y_min + 1, y_max)))
        size, colour = int(rng.integers(10, 60)), random_colour(rng)
        kind = int(rng.integers(0, 6))
        if kind == 0:
            cv2.line(image, (x, base_y), (x, base_y - 2 * size), colour, max(2, size // 12))
            cv2.circle(image, (x, base_y - 2 * size), max(2, size // 6), random_colour(rng), -1)
        elif kind == 1:
            cv2.rectangle(image, (x, base_y - size), (x + size // 2, base_y), colour, -1)
            cv2.rectangle(
                image,
                (x - 2, base_y - size),
                (x + size // 2 + 2, base_y - size + 3),
                shade(colour, 0.6),
                -1,
            )
        elif kind == 2:
            cv2.ellipse(image, (x, base_y), (size // 2, max(1, size // 6)), 0, 0, 360, _grey(rng, 30, 120), -1)
        elif kind == 3:
            cv2.rectangle(image, (x, base_y - size // 2), (x + 2 * size, base_y), colour, -1)
        elif kind == 4:
            cv2.circle(image, (x, base_y - size // 2), max(2, size // 3), colour, max(1, size // 12))
        else:
            end = (x + int(rng.integers(-80, 81)), base_y + int(rng.integers(-30, 31)))
            cv2.line(image, (x, base_y), end, colour, int(rng.integers(1, 5)))


def _draw_street(image: Image, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    shift = float(rng.uniform(-0.02, 0.02))
    pavement_y, road_y, kerb_y = (round((part + shift) * height) for part in (0.24, 0.39, 0.87))
    sky = _mix(random_colour(rng), _grey(rng, 150, 240))
    _fill_gradient(image, 0, pavement_y, sky, shade(sky, 1.15))
    _draw_buildings(image, pavement_y, rng)
    paving, asphalt = _grey(rng, 110, 200), _grey(rng, 45, 120)
    _fill_gradient(image, pavement_y, road_y, paving, shade(paving, 0.9))
    _fill_gradient(image, road_y, kerb_y, asphalt, shade(asphalt, 1.15))
    _fill_gradient(image, kerb_y, height, shade(paving, 0.95), paving)
    _add_texture(image, pavement_y, height, rng, 5, int(rng.integers(2, 6)))
    marking = (225, 225, 225) if rng.random() < 0.7 else (90, 200, 230)
    dash, gap = int(rng.integers(25, 60)), int(rng.integers(20, 60))
    for part in (1, 2):
        y = road_y + (kerb_y - road_y) * part // 3
        for x in range(-int(rng.integers(0, 60)), width, dash + gap):
            cv2.rectangle(image, (x, y - 1), (x + dash, y + 1), marking, -1)
    for y in (road_y, kerb_y):
        cv2.line(image, (0, y), (width, y), shade(paving, 0.6), 2)
    if rng.random() < 0.3:
        x = int(rng.integers(0, width))
        for y in range(road_y + 6, kerb_y - 6, 18):
            cv2.rectangle(image, (x, y), (x + 60, y + 9), marking, -1)
    _draw_trees(image, pavement_y, rng, int(rng.integers(0, 4)))


def _draw_yard(image: Image, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    wall_y = round(float(rng.uniform(0.15, 0.4)) * height)
    wall, ground = random_colour(rng, 60, 210), _grey(rng, 70, 190)
    _fill_gradient(image, 0, wall_y, shade(wall, 1.1), shade(wall, 0.85))
    _fill_gradient(image, wall_y, height, ground, shade(ground, float(rng.uniform(0.8, 1.2))))
    step = int(rng.integers(8, 70))
    for x in range(0, width, step):
        cv2.line(image, (x, 0), (x, wall_y), shade(wall, 0.75), 1 + step // 30)
    if rng.random() < 0.5:
        for x in range(40, width, int(rng.integers(90, 220))):
            cv2.rectangle(image, (x, wall_y // 3), (x + 50, wall_y), random_colour(rng, 30, 200), -1)
    for x in range(0, width, int(rng.integers(60, 140))):
        if rng.random() < 0.6:
            end = (x + int(rng.integers(-40, 41)), height)
            cv2.line(image, (x, (wall_y + height) // 2), end, (215, 215, 215), 2)
    _add_texture(image, 0, height, rng, float(rng.uniform(3, 10)), int(rng.integers(2, 30)))


def _draw_park(image: Image, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    horizon_y = round(float(rng.uniform(0.15, 0.35)) * height)
    sky = _mix(random_colour(rng), _grey(rng, 150, 240))
    _fill_gradient(image, 0, horizon_y, sky, shade(sky, 1.15))
    grass = (int(rng.integers(30, 90)), int(rng.integers(90, 170)), int(rng.integers(40, 120)))
    _fill_gradient(image, horizon_y, height, shade(grass, 0.8), shade(grass, 1.2))
    _add_texture(image, horizon_y, height, rng, float(rng.uniform(6, 20)), int(rng.integers(1, 6)))
    path_y, path_width = int(rng.integers(horizon_y + 20, height)), int(rng.integers(20, 90))
    tilt = int(rng.integers(-60, 61))
    cv2.line(image, (0, path_y), (width, path_y + tilt), _grey(rng, 110, 190), path_width)
    _draw_trees(image, horizon_y + 8, rng, int(rng.integers(2, 8)))


def _draw_plaza(image: Image, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    stone = random_colour(rng, 80, 210)
    _fill_gradient(image, 0, height, shade(stone, float(rng.uniform(0.7, 1.0))), stone)
    step_x, step_y = int(rng.integers(18, 80)), int(rng.integers(12, 50))
    tilt, joint = int(rng.integers(-80, 81)), shade(stone, float(rng.uniform(0.6, 0.9)))
    for y in range(0, height, step_y):
        cv2.line(image, (0, y), (width, y), joint, 1)
    for x in range(-80, width + 80, step_x):
        cv2.line(image, (x, 0), (x + tilt, height), joint, 1)
    _add_texture(image, 0, height, rng, float(rng.uniform(2, 8)), int(rng.integers(2, 40)))


def _draw_plain(image: Image, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    _fill_gradient(image, 0, height, random_colour(rng, 20, 240), random_colour(rng, 20, 240))
    for _ in range(int(rng.integers(0, 12))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        axes = (int(rng.integers(20, 160)), int(rng.integers(10, 80)))
        cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, random_colour(rng, 20, 240), -1)
    _add_texture(image, 0, height, rng, float(rng.uniform(2, 25)), int(rng.integers(1, 50)))


_BACKGROUND_DRAWERS: dict[str, Callable[[Image, np.random.Generator], None]] = {
    "street": _draw_street,
    "yard": _draw_yard,
    "park": _draw_park,
    "plaza": _draw_plaza,
    "plain": _draw_plain,
}


@lru_cache(maxsize=8)
def draw_background(background: Background, width_px: int, height_px: int) -> Image:
    """Draw a background.

    Returns:
        BGR image of shape (height_px, width_px, 3), read-only because it is cached.
    """
    rng = np.random.default_rng((BACKGROUND_STYLES.index(background.style), background.seed))
    image: Image = np.zeros((height_px, width_px, 3), np.uint8)
    _BACKGROUND_DRAWERS[background.style](image, rng)
    if background.has_clutter:
        _draw_clutter(image, height_px // 5, height_px, rng, int(rng.integers(0, 9)))
    image.setflags(write=False)
    return image
