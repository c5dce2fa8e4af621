"""Drawn persons with attributes that a probe can be taught: in random clothes, light, size and pose."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

ATTRIBUTES = ("helmet", "hat", "bag", "stripe", "vest")
"""A yellow helmet, a hat of any colour, a bag of any colour at the hip, a white stripe, an orange vest."""
_SIZE_PX = (100, 200)
_CROPS_PER_TRACK = 3
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class DrawnTracks:
    """Tracks of drawn persons.

    Attributes:
        crops: uint8 BGR pictures of each track.
        has_attribute: Shape (tracks, attributes), in the order of `ATTRIBUTES`.
    """

    crops: list[list[np.ndarray]]
    has_attribute: np.ndarray


def draw_tracks(count: int, seed: int) -> DrawnTracks:
    """Draw the crops of some persons, each with any of the attributes, but not with a helmet and a hat.

    Args:
        count: Number of persons.
        seed: Equal seeds give equal persons.
    """
    random = np.random.default_rng(seed)
    crops, rows = [], []
    for _ in range(count):
        has = dict(zip(ATTRIBUTES, map(bool, random.integers(0, 2, len(ATTRIBUTES))), strict=True))
        has["hat"] = has["hat"] and not has["helmet"]
        crops.append(list(_draw_person(random, has)))
        rows.append([has[name] for name in ATTRIBUTES])
    return DrawnTracks(crops, np.array(rows))


def _draw_person(random: np.random.Generator, has: dict[str, bool]) -> Iterator[np.ndarray]:
    """Draw the crops of one person: equal clothes, another moment each."""
    skin = _colour(np.array([90, 130, 190]) * random.uniform(0.4, 1.2))
    shirt, trousers, shoes, bag, hat = (_colour(random.integers(20, 235, 3)) for _ in range(5))
    hair = _colour(random.integers(10, 90, 3))
    helmet = _colour(np.array([20, 210, 240]) + random.normal(0, 12, 3))
    half_width = int(19 * random.uniform(0.85, 1.2))
    for _ in range(_CROPS_PER_TRACK):
        cells = random.integers(30, 220, (8, 4, 3)).astype(np.uint8)
        image = cv2.GaussianBlur(cv2.resize(cells, _SIZE_PX, interpolation=cv2.INTER_CUBIC), (0, 0), 5)
        x, top, side = int(50 + random.integers(-8, 9)), int(12 + random.integers(-5, 6)), int(random.choice([-1, 1]))
        stride, swing = int(random.integers(0, 10)), int(random.integers(-10, 11))
        for leg in (-1, 1):
            foot = x + leg * (stride + 8)
            cv2.line(image, (x + leg * 8, top + 95), (foot, top + 168), trousers, 13, cv2.LINE_AA)
            cv2.line(image, (foot - 4, top + 170), (foot + 6, top + 170), shoes, 7, cv2.LINE_AA)
        _fill(image, (x - half_width, top + 30, x + half_width, top + 97), shirt)
        if has["vest"]:
            _fill(image, (x - half_width, top + 30, x + half_width, top + 85), (30, 120, 250))
            _fill(image, (x - 4, top + 30, x + 4, top + 85), shirt)
        if has["stripe"]:
            _fill(image, (x - half_width, top + 56, x + half_width, top + 66), (235, 235, 235))
        for arm in (-1, 1):
            hand = (x + arm * (half_width + 5) + swing * arm, top + 88)
            cv2.line(image, (x + arm * half_width, top + 34), hand, shirt, 8, cv2.LINE_AA)
        if has["bag"]:
            hip = x + side * (half_width + 8)
            _fill(image, (hip - 11, top + 72, hip + 11, top + 104), bag)
            cv2.line(image, (x - side * half_width // 2, top + 30), (hip, top + 74), bag, 3, cv2.LINE_AA)
        cv2.circle(image, (x, top + 15), 12, skin, -1, cv2.LINE_AA)
        if has["helmet"]:
            cv2.ellipse(image, (x, top + 11), (15, 13), 0, 180, 360, helmet, -1, cv2.LINE_AA)
            cv2.line(image, (x - 16, top + 11), (x + 16 + side * 4, top + 11), helmet, 3)
        elif has["hat"]:
            _fill(image, (x - 11, top - 6, x + 11, top + 8), hat)
            cv2.line(image, (x - 21, top + 8), (x + 21, top + 8), hat, 4, cv2.LINE_AA)
        else:
            cv2.ellipse(image, (x, top + 10), (13, 12), 0, 180, 360, hair, -1, cv2.LINE_AA)
        yield _photograph(image, random)


def _photograph(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Scale, blur, light and cut a drawing, add noise, and mirror half of them."""
    height_px = int(random.integers(110, 260))
    width_px = round(_SIZE_PX[0] * height_px / _SIZE_PX[1])
    scaled = cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(scaled, (0, 0), float(random.uniform(0.3, 1.0)))
    lit = blurred * random.uniform(0.65, 1.2) + random.normal(0, 8, blurred.shape)
    margins = np.array([width_px, height_px, width_px, height_px]) * random.uniform(0, 0.05, 4)
    left, top, right, bottom = margins.astype(int)
    part = np.clip(lit, 0, 255).astype(np.uint8)[top : height_px - bottom, left : width_px - right]
    return np.ascontiguousarray(part[:, :: random.choice([-1, 1])])


def _fill(image: np.ndarray, box: tuple[int, int, int, int], colour: _Colour) -> None:
    cv2.rectangle(image, box[:2], box[2:], colour, -1)


def _colour(values: np.ndarray) -> _Colour:
    blue, green, red = (int(value) for value in np.clip(values, 0, 255))
    return blue, green, red
