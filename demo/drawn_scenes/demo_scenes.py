"""Scenes of the demo: a street with objects in lanes, whose number is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from demo.drawn_scenes.random_scenes import REFERENCE_WIDTH_PX, SPEED_RANGE_PX_S, random_background
from demo.drawn_scenes.scenes import CLASS_NAMES, Scene, SceneObject

_MAX_LANE_SPEED_PX_S = {"person": 200.0, "car": 400.0, "bicycle": 300.0}


@dataclass(frozen=True)
class _Lane:
    """A lane across the frame in which one class moves; lengths as shares of the frame's height."""

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
_LENGTH_TO_HEIGHT = {"person": 0.65, "car": 2.6, "bicycle": 1.8}  # upper limits over all sprites


def _lane_objects(
    lane: _Lane, count: int, scene_size_px: tuple[int, int], duration_s: float, rng: np.random.Generator
) -> Iterator[SceneObject]:
    """Let objects cross the frame one after the other at the lane's speed; they are numbered later."""
    width_px, height_px = scene_size_px
    longest_px = lane.height * 1.05 * height_px * _LENGTH_TO_HEIGHT[lane.class_name]
    crossing_px, spacing_px = width_px + longest_px, 1.5 * longest_px
    path_px = crossing_px + max(0, count - 1) * spacing_px
    min_speed_px_s = path_px / (0.85 * duration_s)
    zoom = width_px / REFERENCE_WIDTH_PX
    if count > 0 and min_speed_px_s > _MAX_LANE_SPEED_PX_S[lane.class_name] * zoom:
        raise ValueError(
            f"The class {lane.class_name} has {count} objects in a lane, which is too many for {duration_s} s."
        )
    random_speed_px_s = float(rng.uniform(*SPEED_RANGE_PX_S[lane.class_name])) * zoom
    speed_px_s = max(random_speed_px_s, min_speed_px_s)
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
    """Create a street scene with an exact number of objects of each class.

    Each object enters the frame at one side, crosses it in its lane and leaves at the other side before the end. Lanes
    hardly overlap, so objects occlude each other only briefly.

    Args:
        seed: Equal arguments give equal scenes.
        duration_s: Length in seconds.
        counts: Number of objects by class name; classes that are left out have none.
        width_px: Width of the frames.
        height_px: Height of the frames.
        frame_rate: Frames per second.

    Returns:
        The scene; its objects are numbered from 1 in the order in which they enter.

    Raises:
        ValueError: A class is unknown, or a class has too many objects for the duration.
    """
    unknown_classes = set(counts) - set(CLASS_NAMES)
    if unknown_classes:
        raise ValueError(
            f"The classes {', '.join(sorted(unknown_classes))} are unknown; known: {', '.join(CLASS_NAMES)}."
        )
    rng = np.random.default_rng((2, seed))
    background = random_background(rng, "street")
    background = replace(background, brightness=float(rng.uniform(0.8, 1.1)), has_clutter=False)
    objects: list[SceneObject] = []
    for class_name in CLASS_NAMES:
        lanes = [lane for lane in _LANES if lane.class_name == class_name]
        total = counts.get(class_name, 0)
        for index, lane in enumerate(lanes):
            count = (total + index) // len(lanes)  # as equal as possible
            objects.extend(_lane_objects(lane, count, (width_px, height_px), duration_s, rng))
    objects.sort(key=lambda scene_object: scene_object.appear_time_s)
    numbered_objects = tuple(
        replace(scene_object, object_id=number) for number, scene_object in enumerate(objects, start=1)
    )
    return Scene(width_px, height_px, Fraction(frame_rate), duration_s, seed, numbered_objects, background)
