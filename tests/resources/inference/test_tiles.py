"""Tiles: small objects of a large frame are detected, and an object across a seam is one box."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from demo.drawn_scenes.rendering import draw_frame
from demo.drawn_scenes.scenes import Background, Scene, SceneObject, TruthBox
from resources.config.detection_config import DetectionSettings
from resources.config.tile_config import TileSettings
from resources.geometry.box_overlap import iou_matrix
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Detector, Models
from resources.inference.tiles import Tile, TiledDetector, merge_tiles, plan_tiles
from tests.builders.locations import BUNDLED_WEIGHTS

WIDTH_PX, HEIGHT_PX = 1856, 1080
TILES = TileSettings(size_px=640, overlap=0.05)  # 32 px: less than the length of a car
SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS), precision="f32", tiles=TILES)


def test_tiles_cover_the_frame_and_overlap() -> None:
    tiles = plan_tiles(WIDTH_PX, HEIGHT_PX, TILES)
    assert tiles[-1] == Tile(0, 0, WIDTH_PX, HEIGHT_PX)
    count = np.zeros((HEIGHT_PX, WIDTH_PX), int)
    for tile in tiles[:-1]:
        assert (tile.width_px, tile.height_px) == (640, 640)
        tile.cut(count)[:] += 1
    assert count.min() == 1
    lefts = sorted({tile.left_px for tile in tiles[:-1]})
    assert lefts == [0, 608, 1216]
    assert len(plan_tiles(WIDTH_PX, 400, replace_settings(whole_frame=False, overlap=0.2))) == 4
    assert plan_tiles(640, 480, TILES) == ()


def replace_settings(**values: Any) -> TileSettings:
    return TILES.model_copy(update=values)


def in_tile(*boxes: tuple[float, float, float, float, float], class_id: int = 0) -> Detections:
    """Detections in pixels of the frame: corners and confidence."""
    values = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4], np.full(len(values), class_id, np.int32))


LEFT, RIGHT, WHOLE = Tile(0, 0, 100, 100), Tile(80, 0, 100, 100), Tile(0, 0, 180, 100)


def merge(*parts: Detections) -> list[list[float]]:
    tiles = (LEFT, RIGHT, WHOLE)[: len(parts)]
    merged = merge_tiles(tiles, parts, (180, 100), DetectionSettings())
    return [[*box, round(float(score), 2)] for box, score in zip(merged.xyxy.tolist(), merged.confidence, strict=True)]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # Larger than the overlap, cut by both seams.
        ([in_tile((40, 20, 100, 60, 0.7)), in_tile((80, 21, 140, 60, 0.9))], [[40, 20, 140, 60, 0.9]]),
        # Whole in the right tile, cut by the edge of the left one.
        ([in_tile((85, 20, 100, 60, 0.9)), in_tile((85, 20, 120, 60, 0.6))], [[85, 20, 120, 60, 0.9]]),
        # Whole in both.
        ([in_tile((84, 20, 96, 60, 0.6)), in_tile((84, 21, 96, 60, 0.8))], [[84, 21, 96, 60, 0.8]]),
        # Two objects, one above the other, at the seam.
        (
            [in_tile((60, 10, 100, 30, 0.9)), in_tile((80, 60, 130, 90, 0.8))],
            [[60, 10, 100, 30, 0.9], [80, 60, 130, 90, 0.8]],
        ),
        # Found in the left tile alone: the piece is kept.
        ([in_tile((40, 20, 100, 60, 0.7)), in_tile()], [[40, 20, 100, 60, 0.7]]),
        # The whole frame shows the whole object, the tiles pieces of other heights.
        (
            [in_tile((10, 20, 100, 80, 0.9)), in_tile((80, 30, 170, 80, 0.9)), in_tile((10, 20, 170, 80, 0.5))],
            [[10, 20, 170, 80, 0.9]],
        ),
        ([in_tile(), in_tile()], []),
    ],
)
def test_the_boxes_of_one_object_become_one(parts: Sequence[Detections], expected: list[list[float]]) -> None:
    assert merge(*parts) == expected


def test_objects_of_two_classes_at_a_seam_stay_two() -> None:
    parts = [in_tile((84, 20, 96, 60, 0.6)), in_tile((84, 20, 96, 60, 0.8), class_id=1)]
    assert len(merge_tiles((LEFT, RIGHT), parts, (180, 100), DetectionSettings())) == 2


def test_tiles_are_for_upright_boxes_only() -> None:
    with pytest.raises(ValidationError, match="tiles are for the task detect, not for pose: leave out tiles"):
        DetectionSettings(task="pose", tiles=TILES)


def scene_object(number: int, class_name: str, x_px: float, base_y_px: float, height_px: int) -> SceneObject:
    return SceneObject(number, class_name, height_px, x_px, base_y_px, 60.0, 0.0, 0.0, 1.0, number)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(scope="module")
def drawn_frame() -> tuple[np.ndarray, list[TruthBox]]:
    """A wide view with small cars and persons, and a car across the seam at x = 608 to 640."""
    small = [
        scene_object(number, "car" if number % 2 else "person", 100 + 190 * (number % 9), 300 + 240 * (number // 9), 26)
        for number in range(18)
    ]
    large = scene_object(30, "car", 600, 900, 72)
    background = Background("plain", 3, noise_sigma=1.0, has_clutter=False)
    scene = Scene(WIDTH_PX, HEIGHT_PX, Fraction(10), 1.0, 1, (*small, large), background)
    return draw_frame(scene, 0.5)


def load(models: Models, settings: DetectionSettings) -> Detector | TiledDetector:
    if settings.tiles is None:
        return models.detector(settings, WIDTH_PX, HEIGHT_PX, "cpu")
    tiles = plan_tiles(WIDTH_PX, HEIGHT_PX, settings.tiles)
    return TiledDetector(models.detector(settings, 640, 640, "cpu"), tiles, settings)


def find_objects(detections: Detections, truth: Sequence[TruthBox], min_iou: float = 0.5) -> np.ndarray:
    """Which objects of the truth have a confident box."""
    boxes = np.array([[box.x_min_px, box.y_min_px, box.x_max_px, box.y_max_px] for box in truth], np.float32)
    confident = detections.xyxy[detections.confidence >= 0.3]
    overlaps = iou_matrix(boxes, confident) if len(confident) else np.zeros((len(boxes), 1))
    return np.asarray(overlaps.max(axis=1) >= min_iou)


def test_small_objects_are_found_with_tiles_only_and_an_object_across_a_seam_is_one_box(
    models: Models, drawn_frame: tuple[np.ndarray, list[TruthBox]]
) -> None:
    image, truth = drawn_frame
    is_small = np.array([box.y_max_px - box.y_min_px < 40 for box in truth])
    (without,) = load(models, SETTINGS.model_copy(update={"tiles": None})).detect([image])
    (tiled,) = load(models, SETTINGS).detect([image])
    assert find_objects(without, truth)[is_small].mean() <= 0.2
    assert find_objects(tiled, truth)[is_small].mean() >= 0.8
    for settings in (SETTINGS, SETTINGS.model_copy(update={"tiles": replace_settings(whole_frame=False)})):
        (detections,) = load(models, settings).detect([image])
        large = truth[-1]
        assert find_objects(detections, [large], 0.75).all()
        centres = (detections.xyxy[:, :2] + detections.xyxy[:, 2:]) / 2
        is_inside = (centres > [large.x_min_px, large.y_min_px]) & (centres < [large.x_max_px, large.y_max_px])
        assert (is_inside.all(axis=1) & (detections.confidence >= 0.3) & (detections.class_id == 1)).sum() == 1


def test_unchanged_frames_reuse_the_merged_boxes(
    models: Models, drawn_frame: tuple[np.ndarray, list[TruthBox]]
) -> None:
    image, _ = drawn_frame
    detector = load(models, SETTINGS)
    frames = list(detector.detect([image, None, np.zeros_like(image), None, None]))
    assert [frame.is_reused for frame in frames] == [False, True, False, True, True]
    assert len(frames[0]) == len(frames[1]) > 10
    assert np.array_equal(frames[0].xyxy, frames[1].xyxy) and len(frames[4]) == len(frames[2])
    assert replace(frames[0], is_reused=True).confidence.tolist() == frames[1].confidence.tolist()
    assert detector.downscale_factor(WIDTH_PX, HEIGHT_PX) == 1


def test_a_plain_network_runs_on_tiles(models: Models) -> None:
    import cv2

    from demo.convert_nanodet import TEST_FOLDER

    person = cv2.imread(str(TEST_FOLDER / "person_250.png"))
    assert person is not None
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8)
    left, top = 624 - person.shape[1] // 2, 300
    image[top : top + person.shape[0], left : left + person.shape[1]] = person  # across a seam
    settings = DetectionSettings(weights="nanodet", precision="f32", tiles=TILES)
    (detections,) = load(models, settings).detect([image])
    persons = detections.xyxy[(detections.class_id == 0) & (detections.confidence >= 0.3)]
    assert len(persons) == 1
    assert persons[0][0] >= left - 5 and persons[0][2] <= left + person.shape[1] + 5


def test_many_boxes_of_a_large_frame_need_little_memory() -> None:
    tiles = plan_tiles(3840, 2160, TileSettings())
    random = np.random.default_rng(0)
    parts = []
    for tile in tiles:
        corner = random.random((60, 2)) * (tile.width_px - 40, tile.height_px - 40) + (tile.left_px, tile.top_px)
        xyxy = np.concatenate([corner, corner + 10 + 30 * random.random((60, 2))], axis=1).astype(np.float32)
        parts.append(Detections(xyxy, random.random(60).astype(np.float32), np.zeros(60, np.int32)))
    tracemalloc.start()
    try:
        merge_tiles(tiles, parts, (3840, 2160), DetectionSettings())
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_neighbours_of_a_class_with_a_high_number_stay_apart() -> None:
    near = ((15, 20, 25, 30, 0.9), (17, 20, 27, 30, 0.8))
    for class_id in (0, 900):
        merged = merge_tiles((LEFT, RIGHT), (in_tile(*near, class_id=class_id), in_tile()), (180, 100), SETTINGS)
        assert len(merged) == 2
