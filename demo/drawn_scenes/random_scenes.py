"""Random scenes, for training and testing the bundled detector."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from demo.drawn_scenes.scenes import BACKGROUND_STYLES, CLASS_NAMES, Background, Scene, SceneObject

_HEIGHT_RANGE_PX = {"person": (36, 110), "car": (22, 84), "bicycle": (26, 84)}
REFERENCE_WIDTH_PX = 640  # frame width to which the speeds below refer
SPEED_RANGE_PX_S = {"person": (50.0, 100.0), "car": (130.0, 230.0), "bicycle": (90.0, 160.0)}


def random_background(rng: np.random.Generator, style: str) -> Background:
    """Choose a random background and camera.

    Args:
        rng: Random generator.
        style: One of `BACKGROUND_STYLES`.
    """
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
    """Create a scene with objects anywhere: crowds, occlusions, objects cut by the frame's edge, sometimes none.

    Args:
        seed: Equal seeds give equal scenes.
        duration_s: Length in seconds.
        max_objects: Largest number of objects.
        width_px: Width of the frames.
        height_px: Height of the frames.
        frame_rate: Frames per second.

    Returns:
        The scene. Every object is in the frame at some time; all exist from the start to the end.
    """
    rng = np.random.default_rng((1, seed))
    background = random_background(rng, str(rng.choice(BACKGROUND_STYLES)))
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
        velocity_x_px_s = rng.uniform(20, SPEED_RANGE_PX_S[class_name][1]) * rng.choice((-1, 1))
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
