"""Views of a camera: the same by day and by night, and how far a camera was turned."""

import cv2
import numpy as np
import pytest

from demo.drawn_scenes.random_scenes import random_scene
from demo.drawn_scenes.rendering import draw_frame
from resources.media.camera_view import compare_views, decode_view, encode_view, summarize_view

SIZE_PX = (640, 360)  # of the view, which looks at a part of a larger scene
SEEDS = (0, 1, 4, 6)
PLAIN_SEED = 3  # by night, nothing of this scene has edges


def look(seed: int, start_s: float, x_px: int = 0, y_px: int = 0) -> list[np.ndarray]:
    """Frames of a scene with moving objects, as a camera sees them that was turned by some pixels."""
    scene = random_scene(seed, 20, width_px=960, height_px=540)
    left, top = 160 + x_px, 90 + y_px
    return [
        np.asarray(draw_frame(scene, start_s + second)[0][top : top + SIZE_PX[1], left : left + SIZE_PX[0]])
        for second in range(6)
    ]


def at_night(images: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The same frames dark and noisy, with lamps."""
    random = np.random.default_rng(seed)
    lamps = np.zeros(images[0].shape[:2], np.float32)
    for x, y in random.uniform((0, 0), SIZE_PX, (5, 2)).astype(int):
        cv2.circle(lamps, (int(x), int(y)), 30, 120, -1)
    light = cv2.GaussianBlur(lamps, (0, 0), 15)[..., None]
    dark = [(image / 255.0) ** 2 * 90 + light + random.normal(0, 8, image.shape) for image in images]
    return [np.clip(image, 0, 255).astype(np.uint8) for image in dark]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_camera_that_stands_still_shows_the_same_by_day_and_night(seed: int) -> None:
    before = decode_view(encode_view(summarize_view(look(seed, 0))))
    for images in (look(seed, 10), at_night(look(seed, 10), seed)):
        comparison = compare_views(summarize_view(images), [before])
        assert comparison.moved_count == 0
        assert comparison.same_count == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("x_px", "y_px"), [(48, 0), (-120, 40), (0, -60)])
def test_the_shift_of_a_turned_camera_is_measured(seed: int, x_px: int, y_px: int) -> None:
    before = summarize_view(look(seed, 0))
    comparison = compare_views(summarize_view(look(seed, 10, x_px, y_px)), [before, before])
    assert (comparison.same_count, comparison.moved_count) == (0, 2)
    assert comparison.x_share == pytest.approx(-x_px / SIZE_PX[0], abs=0.02)
    assert comparison.y_share == pytest.approx(-y_px / SIZE_PX[1], abs=0.03)


def test_a_view_without_edges_says_nothing() -> None:
    before = summarize_view(look(PLAIN_SEED, 0))
    comparison = compare_views(summarize_view(at_night(look(PLAIN_SEED, 10), PLAIN_SEED)), [before])
    assert (comparison.same_count, comparison.moved_count) == (0, 0)


def test_other_views_and_other_shapes_do_not_count() -> None:
    view = summarize_view(look(0, 0))
    others = [summarize_view(look(seed, 0)) for seed in (5, 6, 7)]
    comparison = compare_views(view, [*others, view[:40], np.full_like(view, 90)])
    assert (comparison.same_count, comparison.moved_count) == (0, 0)
