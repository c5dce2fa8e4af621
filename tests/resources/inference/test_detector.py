import itertools
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.rendering import draw_frame
from demo.drawn_scenes.video_files import write_video
from resources.config.detection_config import DetectionSettings
from resources.inference.detector import Models, _map_in_order
from resources.media.frame_reader import Image, read_images
from tests.builders.locations import BUNDLED_WEIGHTS

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))
SCENE = demo_scene(3, 8, {"car": 2, "bicycle": 1})


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_detections_come_in_order_and_do_not_depend_on_the_other_frames(engine: str) -> None:
    images = [draw_frame(SCENE, step / 2)[0] for step in range(16)]
    detector = Models().detector(SETTINGS.model_copy(update={"engine": engine}), 640, 360, "cpu")
    assert engine in detector.engine_name
    detections_by_frame = list(detector.detect(iter(images)))
    assert len(detections_by_frame) == 16
    assert sum(len(detections) for detections in detections_by_frame) > 10
    for image, detections in list(zip(images, detections_by_frame, strict=True))[::5]:
        single_frame = next(iter(detector.detect(iter([image]))))
        assert np.allclose(single_frame.xyxy, detections.xyxy, atol=0.5)


@pytest.mark.slow
def test_downscaled_images_give_the_same_boxes_in_pixels_of_the_full_size(tmp_path: Path) -> None:
    video, frame_indices, rate_fps = tmp_path / "a.mp4", range(10, 200, 10), Fraction(25)
    write_video(SCENE, video)
    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    full_size = list(detector.detect(read_images(video, frame_indices, rate_fps)))
    half_size_images = read_images(video, frame_indices, rate_fps, downscale_factor=2)
    half_size = list(detector.detect(half_size_images, (640, 360)))
    assert sum(len(detections) for detections in full_size) > 10
    for pair in zip(full_size, half_size, strict=True):
        expected, boxes = (detections.xyxy[detections.confidence > 0.3] for detections in pair)
        assert expected.shape == boxes.shape
        assert np.allclose(expected[np.argsort(expected[:, 0])], boxes[np.argsort(boxes[:, 0])], atol=2)


@pytest.mark.parametrize(
    ("width_px", "height_px", "factor"),
    [(640, 360, 2), (960, 540, 3), (320, 180, 1), (800, 450, 1), (640, 362, 1)],
)
def test_images_are_downscaled_only_to_exactly_the_scaled_size(width_px: int, height_px: int, factor: int) -> None:
    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    assert detector.downscale_factor(width_px, height_px) == factor


def test_images_of_the_input_size_are_accepted_in_any_memory_layout() -> None:
    whole_image = np.random.default_rng(0).integers(0, 255, (400, 400, 3)).astype(np.uint8)
    view = whole_image[50:242, 40:360]  # as a detection region crops it
    read_only = view.copy()
    read_only.flags.writeable = False
    engine = Models().detector(SETTINGS, 320, 192, "cpu")._engine
    outputs = [output[0].copy() for output in engine.infer([view.copy(), view, read_only])]
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])


def test_an_error_of_the_decoder_is_raised_by_the_detector() -> None:
    def decode_one_frame() -> Iterator[np.ndarray]:
        yield np.zeros((360, 640, 3), np.uint8)
        raise RuntimeError("the disk is gone")

    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(detector.detect(decode_one_frame()))


def test_closing_the_generator_early_ends_its_threads() -> None:
    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    detections = detector.detect(itertools.repeat(np.zeros((360, 640, 3), np.uint8)))
    next(iter(detections))
    detections.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_unchanged_frames_reuse_the_detections_of_the_last_changed_frame() -> None:
    first, second = (draw_frame(SCENE, time_s)[0] for time_s in (2, 5))
    images = [first, None, None, second, None, first]
    detections = list(Models().detector(SETTINGS, 640, 360, "cpu").detect(iter(images)))
    assert [frame.is_reused for frame in detections] == [False, True, True, False, True, False]
    assert len(detections[0]) > 0
    assert np.array_equal(detections[0].xyxy, detections[2].xyxy)
    assert np.allclose(detections[0].xyxy, detections[5].xyxy)


@pytest.mark.parametrize("thread_count", [0, 3])
def test_mapping_in_threads_keeps_the_order(thread_count: int) -> None:
    import torch

    def double_slowly(value: Image) -> Image:
        time.sleep(0.02 if value[0] % 5 == 0 else 0)
        return value * 2

    arrays = (np.array([number]) for number in range(30))
    assert [int(value[0]) for value in _map_in_order(double_slowly, arrays, thread_count)] == list(range(0, 60, 2))
    tensors = (torch.tensor([number]) for number in range(30))
    assert [int(value[0]) for value in _map_in_order(double_slowly, tensors, thread_count)] == list(range(0, 60, 2))
