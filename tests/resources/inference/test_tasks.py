"""For every task, the detections are those of Ultralytics' own predictor with the same weights."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.rendering import draw_frame
from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference.detection_arrays import Detections, read_detections
from resources.inference.detector import Models
from resources.inference.letterbox import Letterbox
from resources.inference.weights import load_weights
from resources.media.frame_reader import read_images
from tests.builders.locations import BUNDLED_WEIGHTS

pytestmark = pytest.mark.slow


def read_corpus_images(video: Path, frame_indices: list[int]) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        rate_fps = container.streams.video[0].average_rate
    assert rate_fps is not None
    return list(read_images(video, frame_indices, Fraction(rate_fps)))


def draw_random_image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (180, 320, 3), np.uint8)


def detect(settings: DetectionSettings, images: list[np.ndarray], cache_folder: Path) -> list[Detections]:
    height_px, width_px = images[0].shape[:2]
    return list(Models(cache_folder).detector(settings, width_px, height_px, "cpu").detect(iter(images)))


def predict_with_ultralytics(settings: DetectionSettings, images: list[np.ndarray], *, nms: bool = True) -> list[Any]:
    from ultralytics import YOLO

    yolo = YOLO(settings.weights)
    arguments: dict[str, Any] = {}
    if settings.task != "classify":
        arguments = {
            "conf": settings.min_confidence,
            "iou": settings.nms_iou,
            "imgsz": settings.image_size_px or 640,
        }
    if not nms:
        arguments["nms"] = False
    return [yolo.predict(image, verbose=False, device="cpu", **arguments)[0] for image in images]


@pytest.mark.parametrize(
    ("name", "task", "recording"),
    [
        ("yolo11n", "detect", "traffic_camera.mp4"),
        ("yolov8n-seg", "segment", "traffic_camera.mp4"),
        ("yolov8n-pose", "pose", "one-by-one-person-detection.mp4"),
    ],
)
def test_real_weights_of_every_task_give_the_detections_of_ultralytics(
    name: str, task: str, recording: str, corpus: Path, tmp_path: Path
) -> None:
    images = read_corpus_images(corpus / "recordings" / recording, [100, 300])
    settings = DetectionSettings(
        weights=str(corpus / "weights" / f"{name}.pt"), task=task, engine="torch", min_confidence=0.25
    )
    predictions = predict_with_ultralytics(settings, images)
    for detections, prediction in zip(detect(settings, images, tmp_path), predictions, strict=True):
        assert len(detections) == len(prediction.boxes) > 0
        assert np.allclose(detections.xyxy, prediction.boxes.xyxy.numpy(), atol=0.05)
        assert np.allclose(detections.confidence, prediction.boxes.conf.numpy(), atol=1e-4)
        assert detections.class_id.tolist() == prediction.boxes.cls.int().tolist()
        if detections.keypoints is not None:
            assert np.allclose(detections.keypoints, prediction.keypoints.data.numpy(), atol=0.1)
        if detections.mask_areas is not None and detections.polygons is not None:
            scale = (prediction.masks.data.shape[2] / images[0].shape[1]) ** 2
            areas = prediction.masks.data.numpy().sum(axis=(1, 2)) / scale
            assert np.allclose(detections.mask_areas, areas, rtol=0.01, atol=4)
            for polygon, box in zip(detections.polygons, detections.xyxy, strict=True):
                assert (polygon.min(axis=0) >= box[:2] - 3).all()
                assert (polygon.max(axis=0) <= box[2:] + 3).all()


def test_a_classifier_gives_the_classes_of_ultralytics(corpus: Path, tmp_path: Path) -> None:
    images = read_corpus_images(corpus / "recordings" / "traffic_camera.mp4", [10, 400])
    settings = DetectionSettings(weights=str(corpus / "weights" / "weather-cls.pt"), task="classify", engine="torch")
    predictions = predict_with_ultralytics(settings, images)
    for detections, prediction in zip(detect(settings, images, tmp_path), predictions, strict=True):
        assert detections.class_id[0] == prediction.probs.top1
        assert detections.confidence[0] == pytest.approx(float(prediction.probs.top1conf), abs=0.01)


def write_random_weights(architecture: str, folder: Path) -> Path:
    """Write untrained weights of an Ultralytics architecture."""
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(f"{architecture}.yaml")
    for parameter in yolo.model.model[-1].parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # otherwise all anchors have the same confidence
    path = folder / f"{architecture}.pt"
    yolo.save(path)
    return path


@pytest.mark.parametrize(
    ("architecture", "task", "engine"),
    [
        ("yolo26n", "detect", "openvino"),
        ("yolo26n", "detect", "torch"),
        ("yolov10n", "detect", "openvino"),
        ("yolo26n-seg", "segment", "openvino"),
        ("yolo26n-pose", "pose", "torch"),
        pytest.param("yolo26n-pose", "pose", "openvino", marks=pytest.mark.long),  # exporting takes long
        ("yolo26n-obb", "obb", "torch"),
    ],
)
def test_networks_with_a_head_without_nms_use_it_and_give_the_detections_of_ultralytics(
    architecture: str, task: str, engine: str, tmp_path: Path
) -> None:
    images = [draw_random_image()]
    settings = DetectionSettings(
        weights=str(write_random_weights(architecture, tmp_path)),
        task=task,
        engine=engine,
        precision="f32",
        image_size_px=320,
        min_confidence=1e-4,
        max_per_frame=20,
    )
    detector = Models(tmp_path / "cache").detector(settings, 320, 180, "cpu")
    (outputs,) = detector._engine.infer([detector._letterbox(images[0])])
    assert outputs[0].shape[0] <= 300  # boxes, not anchors
    assert outputs[0].shape[1] == 6 + {"detect": 0, "segment": 32, "pose": 51, "obb": 1}[task]
    (detections,) = detector.detect(iter(images))
    (prediction,) = predict_with_ultralytics(settings, images, nms=False)
    if task == "obb":
        assert detections.oriented_boxes is not None
        predicted = prediction.obb
        assert_best_boxes_predicted(
            detections.oriented_boxes[:, :4], detections.confidence, predicted.xywhr[:, :4], predicted.conf
        )
    else:
        predicted = prediction.boxes
        assert_best_boxes_predicted(detections.xyxy, detections.confidence, predicted.xyxy, predicted.conf)


def assert_best_boxes_predicted(
    boxes: np.ndarray, confidence: np.ndarray, predicted_boxes: Any, predicted_confidence: Any
) -> None:
    """Assert that each of our five best boxes is among the predicted ones."""
    assert len(boxes) > 5
    for box, box_confidence in list(zip(boxes, confidence, strict=True))[:5]:
        has_same_confidence = np.isclose(predicted_confidence.numpy(), box_confidence, rtol=0.02)
        has_same_corners = np.abs(predicted_boxes.numpy() - box).max(axis=1) < 1
        assert (has_same_confidence & has_same_corners).any(), (box, box_confidence)


def test_the_input_of_a_network_of_larger_stride_is_a_multiple_of_its_stride(tmp_path: Path) -> None:
    images = [draw_random_image()]
    weights = str(write_random_weights("yolov8n-p6", tmp_path))
    settings = DetectionSettings(
        weights=weights, engine="torch", image_size_px=320, min_confidence=1e-4, max_per_frame=50
    )
    (detections,) = detect(settings, images, tmp_path / "cache")
    (prediction,) = predict_with_ultralytics(settings, images)
    assert_best_boxes_predicted(detections.xyxy, detections.confidence, prediction.boxes.xyxy, prediction.boxes.conf)


def test_a_network_is_exported_once_for_all_input_sizes_but_the_smallest(tmp_path: Path) -> None:
    # Its head has 300 outputs, and the smallest input has fewer anchors.
    weights = str(write_random_weights("yolo26n", tmp_path))
    image, exports = draw_random_image(), set[str]()
    for image_size_px, images in ((320, [image]), (320, [image.transpose(1, 0, 2).copy()]), (96, [image])):
        settings = DetectionSettings(
            weights=weights, engine="openvino", precision="f32", image_size_px=image_size_px, min_confidence=1e-9
        )
        (detections,) = detect(settings, images, tmp_path / "cache")
        assert len(detections) > 5
        exports = {file.parent.name for file in tmp_path.rglob("cache/*/*/model.xml")}
        assert len(exports) == (2 if image_size_px == 96 else 1)
    assert any(name.endswith("-96x64") for name in exports)


def test_oriented_boxes_are_decoded_and_suppressed_as_ultralytics_does(tmp_path: Path) -> None:
    import torch
    from ultralytics.utils.nms import non_max_suppression

    weights = write_random_weights("yolo11n-obb", tmp_path)
    model = load_weights(DetectionSettings(weights=str(weights), task="obb"), tmp_path / "cache")
    rng = np.random.default_rng(2)
    class_count, anchor_count = len(model.class_names), 60
    output = np.concatenate(
        [
            rng.uniform(50, 270, (2, anchor_count)),
            rng.uniform(20, 90, (2, anchor_count)),
            rng.uniform(0, 0.9, (class_count, anchor_count)) ** 8,
            rng.uniform(-0.7, 2.3, (1, anchor_count)),
        ]
    ).astype(np.float32)
    letterbox = Letterbox.for_stride(640, 360, 320)
    detections = read_detections((output,), model, letterbox, DetectionSettings(nms_iou=0.3), None, 640, 360)
    predicted = non_max_suppression(torch.tensor(output[None]), 0.1, 0.3, nc=class_count, rotated=True)[0].numpy()
    assert detections.oriented_boxes is not None
    assert 5 < len(detections) == len(predicted) < anchor_count
    offset = np.array([letterbox.left_px, letterbox.top_px])
    assert np.allclose(detections.oriented_boxes[:, 2:4], predicted[:, 2:4] / letterbox.scale, atol=0.01)
    assert np.allclose(detections.oriented_boxes[:, :2], (predicted[:, :2] - offset) / letterbox.scale, atol=0.01)
    assert np.allclose(detections.oriented_boxes[:, 4], predicted[:, -1], atol=1e-5)
    assert np.allclose(detections.confidence, predicted[:, 4])


def test_weights_with_an_unknown_head_are_refused(tmp_path: Path) -> None:
    path = write_random_weights("yolov8n-worldv2", tmp_path)
    with pytest.raises(PipelineError, match="have the head 'WorldDetect', which is not supported"):
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(path)))


def test_an_openvino_folder_can_be_used_as_weights(tmp_path: Path) -> None:
    from ultralytics import YOLO

    copy = tmp_path / "street.pt"
    shutil.copyfile(BUNDLED_WEIGHTS, copy)
    folder = Path(YOLO(copy).export(format="openvino", imgsz=(192, 320), verbose=False))
    scene = demo_scene(3, 8, {"car": 2, "bicycle": 1})
    images = [draw_frame(scene, time_s)[0] for time_s in range(2, 6)]
    exported = DetectionSettings(weights=str(folder), precision="f32")
    original = DetectionSettings(weights=str(BUNDLED_WEIGHTS), engine="torch", precision="f32")
    for detections, expected in zip(
        detect(exported, images, tmp_path / "cache"), detect(original, images, tmp_path / "cache"), strict=True
    ):
        assert np.allclose(detections.xyxy, expected.xyxy, atol=0.1)
    (folder / "metadata.yaml").unlink()
    with pytest.raises(PipelineError, match="do not say their classes and input size"):
        Models(tmp_path / "other_cache").weights(exported)
    next(folder.glob("*.bin")).unlink()
    with pytest.raises(PipelineError, match=r"have no street.bin in the same folder"):
        Models(tmp_path / "other_cache").weights(exported)
