import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.rendering import draw_frame
from resources.config.detection_config import DetectionSettings
from resources.inference import engine_selection
from resources.inference.detector import Models
from resources.inference.engine_selection import (
    MEASURED_AFTER_FRAMES,
    EngineMeasurement,
    EngineSelection,
    Footage,
    _measure_frames_per_s,
)
from resources.inference.letterbox import Letterbox
from resources.inference.weights import load_weights
from tests.builders.locations import BUNDLED_WEIGHTS

pytestmark = pytest.mark.slow

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))


def build_selection(device: str, cache_folder: Path) -> EngineSelection:
    model, letterbox = load_weights(SETTINGS, Models().cache_folder), Letterbox.for_stride(320, 180, 320)
    return EngineSelection(model, letterbox, SETTINGS, device, cache_folder)


def build_measurement(
    precision: str, frames_per_s: float, recall: float = 1.0, box_count: int = 200
) -> EngineMeasurement:
    return EngineMeasurement(
        engine_name=precision,
        precision=precision,
        frames_per_s=frames_per_s,
        sample_frame_count=24,
        reference_name="torch-f32",
        reference_box_count=box_count,
        recall_iou50=recall,
        precision_iou50=1.0,
        recall_iou90=1.0,
        precision_iou90=1.0,
        confidence_shift=0.0,
    )


class SimulatedEngine:
    """An engine with a simulated clock: each batch takes the same time; one is computed while one is consumed."""

    name, precision = "simulated", "f32"

    def __init__(self, batch: int, batch_s: float) -> None:
        self.batch, self._batch_s = batch, batch_s
        self.in_flight = 2 * batch
        self.now_s = 0.0

    def infer(self, images: Iterable[Any]) -> Iterator[Any]:
        source, batches, busy_until_s = iter(images), deque[tuple[int, float]](), 0.0
        while True:
            image_count = len(list(itertools.islice(source, self.batch)))
            if image_count:
                busy_until_s = max(busy_until_s, self.now_s) + self._batch_s
                batches.append((image_count, busy_until_s))
            if len(batches) == 2 or (batches and not image_count):
                output_count, end_s = batches.popleft()
                self.now_s = max(self.now_s, end_s)
                yield from range(output_count)
            elif not image_count:
                return


@pytest.mark.parametrize("batch", [1, 16, 32])
def test_the_speed_of_an_engine_is_its_batch_size_over_the_interval_between_batches(batch: int) -> None:
    # If batches counted that were computed before the measurement starts, large batches would seem faster.
    engine = SimulatedEngine(batch, 0.05)
    images = [np.zeros((2, 2, 3), np.uint8)] * 24
    frames_per_s = _measure_frames_per_s(engine, images, clock_s=lambda: engine.now_s)
    assert frames_per_s == pytest.approx(batch / 0.05)


def test_agreeing_engines_are_ranked_by_speed_and_the_reference_precision_is_last(tmp_path: Path) -> None:
    selection = build_selection("cpu", tmp_path)
    candidates = ["f32", "bf16", "int8"]
    assert selection._rank(candidates, []) == ["bf16"]
    measurements = [build_measurement("f32", 40), build_measurement("bf16", 80), build_measurement("int8", 110)]
    assert selection._rank(candidates, measurements) == ["int8", "bf16", "f32"]
    measurements[2] = build_measurement("int8", 110, recall=0.9)
    assert selection._rank(candidates, measurements) == ["bf16", "f32"]
    assert selection._rank(candidates, [build_measurement("bf16", 80, recall=0.9)]) == ["f32"]
    assert selection._rank(["tensorrt", "f32", "f16"], []) == ["f16"]


def test_int8_must_agree_better_where_there_are_few_boxes(tmp_path: Path) -> None:
    selection = build_selection("cpu", tmp_path)
    candidates = ["f32", "bf16", "int8"]
    assert selection._rank(candidates, [build_measurement("int8", 110, recall=0.985)]) == ["int8", "f32"]
    assert selection._rank(candidates, [build_measurement("int8", 110, recall=0.985, box_count=80)]) == ["f32"]
    assert selection._rank(candidates, [build_measurement("bf16", 110, recall=0.985, box_count=80)]) == ["bf16", "f32"]


def test_an_engine_that_cannot_be_built_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorRT needs an NVIDIA GPU and its package; without them it fails here as it would in production.
    monkeypatch.setattr(engine_selection, "has_tensorrt", lambda: True)
    selection = build_selection("cuda:99", tmp_path)
    assert selection._candidates() == ["tensorrt", "f32", "f16"]
    torch_only = SETTINGS.model_copy(update={"engine": "torch"})
    assert replace(selection, settings=torch_only)._candidates() == ["f32", "f16"]
    with caplog.at_level("WARNING", engine_selection.__name__):
        assert list(selection._create_working_engines(["tensorrt"], None)) == []
    assert "tensorrt cannot be used for street-" in caplog.text


def test_an_engine_whose_compiled_network_is_damaged_is_skipped(tmp_path: Path) -> None:
    selection = build_selection("cpu", tmp_path)
    if "int8" not in selection._candidates():
        pytest.skip("this processor has a single precision only")
    selection._create_engine("f32", None)
    (selection._engine_folder / "int8.xml").write_text("no network")
    selection._write_measurements([build_measurement("f32", 40), build_measurement("int8", 110)])
    engine, measurements = selection.select(None)
    assert engine.name == "openvino-f32-320x192"
    assert len(measurements) == 2


@pytest.mark.parametrize("content", ["{", '[{"engine_name": "openvino"}]'])
def test_a_damaged_measurements_file_counts_as_missing(content: str, tmp_path: Path) -> None:
    selection = build_selection("cpu", tmp_path)
    selection._measurements_file.parent.mkdir(parents=True)
    selection._measurements_file.write_text(content)
    assert selection._read_measurements() == []


def test_torch_is_used_where_even_the_reference_precision_does_not_agree(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    selection = build_selection("cpu", tmp_path)
    if not selection.has_alternatives:
        pytest.skip("this processor has a single precision only")
    candidates = selection._candidates()
    measurements = [build_measurement(name, 50, recall=0.5) for name in candidates]
    assert selection._rank(candidates, measurements) == []
    selection._write_measurements([m for m in measurements if m.precision != "int8"])
    engine, _ = selection.select(None)
    assert engine.name.startswith("torch-f32")
    assert "No faster engine can be used for street-" in caplog.text


def read_no_images() -> Sequence[np.ndarray]:
    pytest.fail("measuring the engines is not due")


def read_empty_images() -> Sequence[np.ndarray]:
    return [np.zeros((360, 640, 3), np.uint8)] * 8


def read_busy_images() -> Sequence[np.ndarray]:
    scene = demo_scene(3, 12, {"car": 4, "bicycle": 3, "person": 4})
    return [draw_frame(scene, 2 + step / 10)[0] for step in range(80)]


def test_engines_are_measured_after_much_footage_and_only_before_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not build_selection("cpu", tmp_path).has_alternatives:
        pytest.skip("this processor has a single precision only")
    clip = MEASURED_AFTER_FRAMES // 3
    for _ in range(2):  # of each process, a new `Models`: the frames are counted over all of them
        detector = Models(tmp_path).detector(SETTINGS, 640, 360, "cpu", Footage(clip, read_no_images))
        assert not detector.measurements
        detector.count_analysed_frames(clip)
    models, steps = Models(tmp_path), list[str]()
    monkeypatch.setattr(models, "_show_step", steps.append)
    first = models.detector(SETTINGS, 640, 360, "cpu", Footage(clip - 1, read_no_images))
    assert models.detector(SETTINGS, 640, 360, "cpu", Footage(clip - 1, read_no_images)) is first
    # With the third clip the limit is reached, but there are too few detections to measure on.
    second = models.detector(SETTINGS, 640, 360, "cpu", Footage(clip, read_empty_images))
    assert not second.measurements
    assert second._engine is first._engine  # the engine is not loaded again
    assert models.detector(SETTINGS, 640, 360, "cpu", Footage(clip, read_no_images)) is second
    engine_before = second.engine_name
    # A recording of two hours reaches the limit by itself.
    measured = models.detector(SETTINGS, 640, 360, "cpu", Footage(2 * 3600 * 25, read_busy_images))
    assert measured.measurements
    assert any("to be tried on images of the recording" in step for step in steps)
    assert any("the engines of street-" in step and "to be measured (" in step for step in steps)
    assert second.engine_name == engine_before  # a recording in progress keeps its engine
    after = models.detector(SETTINGS, 640, 360, "cpu", Footage(10 * MEASURED_AFTER_FRAMES, read_no_images))
    assert after is measured
    measured.count_analysed_frames(clip)
    assert build_selection("cpu", tmp_path)._read_analysed_frames() == 0


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"frame_count": null}'])
def test_a_damaged_count_of_frames_starts_again(content: str, tmp_path: Path) -> None:
    selection = build_selection("cpu", tmp_path)
    selection._analysed_frames_file.parent.mkdir(parents=True)
    selection._analysed_frames_file.write_text(content)
    assert selection._read_analysed_frames() == 0
