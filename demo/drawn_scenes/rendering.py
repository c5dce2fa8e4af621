"""Render frames of a scene with their ground truth, with the camera's brightness, blur and noise."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.drawn_scenes.backgrounds import draw_background
from demo.drawn_scenes.scenes import MIN_VISIBLE_FRACTION, Image, Scene, SceneObject, TruthBox
from demo.drawn_scenes.sprites import PHASES, Sprite, draw_sprite

_NOISE_MARGIN_PX = 64  # how far the noise pattern can be shifted from frame to frame


@lru_cache(maxsize=8)
def _noise_pattern(seed: int, sigma: float, width_px: int, height_px: int) -> NDArray[np.int8]:
    """Draw sensor noise somewhat larger than the frame, so that each frame can use another part of it."""
    shape = (height_px + _NOISE_MARGIN_PX, width_px + _NOISE_MARGIN_PX, 3)
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(sigma)
    pattern: NDArray[np.int8] = np.clip(np.rint(noise), -127, 127).astype(np.int8)
    return pattern


def _object_sprite(scene_object: SceneObject, time_s: float) -> Sprite:
    """The sprite of an object at a time, in the phase of its steps or wheels."""
    travelled_px = abs(scene_object.velocity_x_px_s) * (time_s - scene_object.appear_time_s)
    cycle_px = max(1.0, scene_object.height_px * 0.9)
    phase = (int(travelled_px / cycle_px * PHASES) + scene_object.colour_seed) % PHASES
    return draw_sprite(
        scene_object.class_name,
        scene_object.height_px,
        scene_object.colour_seed,
        scene_object.velocity_x_px_s < 0,
        phase,
    )


def _apply_camera(image: Image, scene: Scene, time_s: float) -> Image:
    """Apply brightness, lens blur and sensor noise to an image."""
    background = scene.background
    wave = np.sin(2 * np.pi * time_s / background.brightness_period_s)
    brightness = background.brightness * (1 + background.brightness_swing * float(wave))
    if brightness != 1.0:
        image = cv2.convertScaleAbs(image, alpha=brightness)
    if background.blur_sigma_px > 0:
        image = cv2.GaussianBlur(image, (0, 0), background.blur_sigma_px)
    if background.noise_sigma > 0:
        pattern = _noise_pattern(scene.seed, background.noise_sigma, scene.width_px, scene.height_px)
        shift_rng = np.random.default_rng((scene.seed, round(abs(time_s) * 1e6)))
        left, top = (int(value) for value in shift_rng.integers(0, _NOISE_MARGIN_PX, 2))
        noise = pattern[top : top + scene.height_px, left : left + scene.width_px]
        image = cast(Image, cv2.add(image, noise, dtype=cv2.CV_8U))
    return image


def draw_frame(scene: Scene, time_s: float) -> tuple[Image, list[TruthBox]]:
    """Render a frame of a scene.

    Args:
        scene: The scene.
        time_s: Time of the frame, in seconds from the start of the scene.

    Returns:
        The frame, BGR of shape (height_px, width_px, 3), and its ground truth: a box for each object whose visible
        fraction is at least `MIN_VISIBLE_FRACTION`, ordered by object number.
    """
    width_px, height_px = scene.width_px, scene.height_px
    image = draw_background(scene.background, width_px, height_px).copy()
    number_image = np.zeros((height_px, width_px), np.uint16)  # number of the object at each pixel; 0 is the background
    present_objects = [
        (scene_object, *scene_object.position_px(time_s))
        for scene_object in scene.objects
        if scene_object.exists_at(time_s)
    ]
    present_objects.sort(key=lambda entry: (entry[2], entry[0].object_id))
    candidates: list[tuple[SceneObject, tuple[int, int, int, int], int, int]] = []
    for number, (scene_object, centre_x_px, base_y_px) in enumerate(present_objects, start=1):
        sprite = _object_sprite(scene_object, time_s)
        sprite_height_px, sprite_width_px = sprite.solid.shape
        left, top = round(centre_x_px - sprite_width_px / 2), round(base_y_px) - sprite_height_px
        x_min, y_min = max(0, left), max(0, top)
        x_max, y_max = min(width_px, left + sprite_width_px), min(height_px, top + sprite_height_px)
        if x_min >= x_max or y_min >= y_max:
            continue
        part_in_frame = np.s_[y_min - top : y_max - top, x_min - left : x_max - left]
        region = image[y_min:y_max, x_min:x_max]
        region[:] = (region * sprite.transparency[part_in_frame] + sprite.colour[part_in_frame] + 127) // 255
        number_image[y_min:y_max, x_min:x_max][sprite.solid[part_in_frame]] = number
        candidates.append((scene_object, (x_min, y_min, x_max, y_max), number, sprite.solid_count))
    visible_counts = np.bincount(number_image.ravel(), minlength=len(present_objects) + 1)
    boxes = []
    for scene_object, edges, number, solid_count in candidates:
        visible_fraction = int(visible_counts[number]) / solid_count
        if visible_fraction >= MIN_VISIBLE_FRACTION:
            boxes.append(
                TruthBox(scene_object.object_id, scene_object.class_name, *edges, visible_fraction=visible_fraction)
            )
    boxes.sort(key=lambda box: box.object_id)
    return _apply_camera(image, scene, time_s), boxes
