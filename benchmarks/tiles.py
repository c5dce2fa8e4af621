"""Tiles beside whole frames: `python -m benchmarks.tiles` measures what they find and what they cost.

The scenes are drawn: wide views in 4K with objects that are 20 to 40 px high, and some that are large.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import click
import numpy as np

from benchmarks.report import Case, describe_machine, figure_case, min_case, print_table
from cli.options import end_process
from demo.drawn_scenes.rendering import draw_frame
from demo.drawn_scenes.scenes import CLASS_NAMES, Background, Image, Scene, SceneObject, TruthBox
from resources.config.detection_config import DetectionSettings
from resources.config.settings_file import PROJECT_ROOT
from resources.config.tile_config import TileSettings
from resources.geometry.box_overlap import iou_matrix
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Models
from resources.inference.tiles import AnyDetector, TiledDetector, plan_tiles

WIDTH_PX, HEIGHT_PX = 3840, 2160
_SCENES = 4
_WEIGHTS = PROJECT_ROOT / "demo" / "model" / "street.pt"
_SMALL_BELOW_PX = 60
_MIN_CONFIDENCE, _MIN_IOU = 0.3, 0.5


def wide_scene(seed: int) -> Scene:
    """Draw a wide view with 60 small objects, and 6 large ones anywhere, also across seams."""
    rng = np.random.default_rng(seed)
    objects = []
    for number in range(66):
        is_small = number < 60
        height_px = int(rng.integers(20, 41)) if is_small else int(rng.integers(200, 500))
        x_px = 90 + (WIDTH_PX - 180) * (number % 12 + rng.uniform(0.3, 0.7)) / 12 if is_small else rng.uniform(0, 3840)
        base_y_px = 300 + 180 * (number // 12) if is_small else HEIGHT_PX - rng.uniform(0, 500)
        class_name = str(rng.choice(CLASS_NAMES))
        objects.append(SceneObject(number + 1, class_name, height_px, x_px, base_y_px, 60.0, 0.0, 0.0, 1.0, number))
    background = Background("plain", seed, noise_sigma=2.0, has_clutter=False)
    return Scene(WIDTH_PX, HEIGHT_PX, Fraction(10), 1.0, seed, tuple(objects), background)


def count_found(detections: Detections, truth: Sequence[TruthBox]) -> tuple[int, int]:
    """Count the objects that have a confident box of their class, and the confident boxes that have no object."""
    boxes = np.array([[box.x_min_px, box.y_min_px, box.x_max_px, box.y_max_px] for box in truth], np.float32)
    classes = np.array([CLASS_NAMES.index(box.class_name) for box in truth])
    is_confident = detections.confidence >= _MIN_CONFIDENCE
    overlaps = iou_matrix(boxes, detections.xyxy[is_confident]) >= _MIN_IOU
    overlaps &= classes[:, None] == detections.class_id[is_confident][None, :]
    return int(overlaps.any(axis=1).sum()), int((~overlaps.any(axis=0)).sum())


@dataclass(frozen=True)
class _Figures:
    """What a detector finds in all scenes, as shares and per frame, and its speed."""

    small_share: float
    large_share: float
    false_count: float
    rate_fps: float

    def cases(self, name: str) -> Iterator[Case]:
        """The figures without goals."""
        yield figure_case(f"4K, {name}: share of small objects found", self.small_share)
        yield figure_case(f"4K, {name}: share of large objects found", self.large_share)
        yield figure_case(f"4K, {name}: false boxes per frame", self.false_count)
        yield figure_case(f"4K, {name}: frames/s", self.rate_fps)


def _measure(models: Models, tiles: TileSettings | None, frames: Sequence[tuple[Image, list[TruthBox]]]) -> _Figures:
    settings = DetectionSettings(weights=str(_WEIGHTS), precision="f32", tiles=tiles)
    detector: AnyDetector
    if tiles is None:
        detector = models.detector(settings, WIDTH_PX, HEIGHT_PX, "cpu")
    else:
        loaded = models.detector(settings, tiles.size_px, tiles.size_px, "cpu")
        detector = TiledDetector(loaded, plan_tiles(WIDTH_PX, HEIGHT_PX, tiles), settings)
    list(detector.detect([frames[0][0]]))  # warms up
    started_s = time.monotonic()
    results = list(detector.detect(image for image, _ in frames))
    elapsed_s = time.monotonic() - started_s
    counts = {"small": (0, 0), "large": (0, 0)}
    false_count = 0
    for detections, (_, truth) in zip(results, frames, strict=True):
        for name, is_small in (("small", True), ("large", False)):
            boxes = [box for box in truth if (box.y_max_px - box.y_min_px < _SMALL_BELOW_PX) == is_small]
            counts[name] = counts[name][0] + count_found(detections, boxes)[0], counts[name][1] + len(boxes)
        false_count += count_found(detections, truth)[1]
    small, large = (matched / total for matched, total in counts.values())
    return _Figures(small, large, false_count / len(frames), len(frames) / elapsed_s)


def tile_cases() -> Iterator[Case]:
    """Recall, false boxes and speed on whole frames and on tiles, with the bundled model of drawn scenes."""
    frames = [draw_frame(wide_scene(seed), 0.5) for seed in range(_SCENES)]
    models, tiles = Models(), TileSettings()
    whole, tiled = _measure(models, None, frames), _measure(models, tiles, frames)
    yield from whole.cases("whole frames")
    yield from tiled.cases("tiles")
    yield from _measure(models, TileSettings(whole_frame=False), frames).cases("tiles without whole frame")
    yield min_case("4K: small objects found with tiles", tiled.small_share, "share", 0.9)
    yield min_case("4K: large objects, tiles less whole frames", tiled.large_share - whole.large_share, "share", -0.05)
    tile_count = len(plan_tiles(WIDTH_PX, HEIGHT_PX, tiles))
    yield figure_case(f"4K: cost of {tile_count} tiles, in whole frames", whole.rate_fps / tiled.rate_fps)


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    print_table(list(tile_cases()))
    end_process(0)
