"""What a model of any task finds is what Ultralytics' own predictor finds with the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.inference.postprocessing import Found, Letterbox, found_in
from resources.inference.weights import load_weights
from resources.media.reading import read_frames
from resources.settings import DetectionSettings

PICTURES_OF = {"weather-cls": "traffic_camera.mp4", "yolov8n-pose": "one-by-one-person-detection.mp4"}


def frames_of(video: Path, indices: list[int]) -> list[np.ndarray]:
    return [picture for _, picture in read_frames(video, wanted=indices)]


def found_by(settings: DetectionSettings, pictures: list[np.ndarray], cache: Path) -> list[Found]:
    height_px, width_px = pictures[0].shape[:2]
    return list(Models(cache).detector(settings, width_px, height_px, "cpu").detect(iter(pictures)))


def predicted(settings: DetectionSettings, pictures: list[np.ndarray], suppresses: bool = True) -> list[Any]:
    from ultralytics import YOLO

    yolo = YOLO(settings.weights)
    asked: dict[str, Any] = {
        "conf": settings.min_confidence,
        "iou": settings.nms_iou,
        "imgsz": settings.image_size_px or 640,
    }
    if settings.task == "classify":
        asked = {}
    if not suppresses:
        asked["nms"] = False
    return [yolo.predict(picture, verbose=False, device="cpu", **asked)[0] for picture in pictures]


@pytest.mark.parametrize(
    ("name", "task"), [("yolo11n", "detect"), ("yolov8n-seg", "segment"), ("yolov8n-pose", "pose")]
)
def test_real_weights_of_every_task_find_what_ultralytics_finds(
    name: str, task: str, corpus: Path, tmp_path: Path
) -> None:
    video = corpus / "recordings" / PICTURES_OF.get(name, "traffic_camera.mp4")
    pictures = frames_of(video, [100, 300])
    settings = DetectionSettings(
        weights=str(corpus / "weights" / f"{name}.pt"), task=task, engine="torch", min_confidence=0.25
    )
    for ours, theirs in zip(found_by(settings, pictures, tmp_path), predicted(settings, pictures), strict=True):
        assert len(ours) == len(theirs.boxes) > 0
        assert np.allclose(ours.xyxy, theirs.boxes.xyxy.numpy(), atol=0.05)
        assert np.allclose(ours.confidence, theirs.boxes.conf.numpy(), atol=1e-4)
        assert ours.class_id.tolist() == theirs.boxes.cls.int().tolist()
        if ours.keypoints is not None:
            assert np.allclose(ours.keypoints, theirs.keypoints.data.numpy(), atol=0.1)
        if ours.mask_areas is not None and ours.polygons is not None:
            scale = (theirs.masks.data.shape[2] / pictures[0].shape[1]) ** 2
            areas = theirs.masks.data.numpy().sum(axis=(1, 2)) / scale
            assert np.allclose(ours.mask_areas, areas, rtol=0.01, atol=4)
            for polygon, box in zip(ours.polygons, ours.xyxy, strict=True):
                assert (polygon.min(axis=0) >= box[:2] - 3).all()
                assert (polygon.max(axis=0) <= box[2:] + 3).all()


def test_a_classifier_says_the_same_classes_as_ultralytics(corpus: Path, tmp_path: Path) -> None:
    pictures = frames_of(corpus / "recordings" / "traffic_camera.mp4", [10, 400])
    settings = DetectionSettings(weights=str(corpus / "weights" / "weather-cls.pt"), task="classify", engine="torch")
    for ours, theirs in zip(found_by(settings, pictures, tmp_path), predicted(settings, pictures), strict=True):
        assert ours.class_id[0] == theirs.probs.top1
        assert ours.confidence[0] == pytest.approx(float(theirs.probs.top1conf), abs=0.01)


def random_weights(architecture: str, folder: Path) -> Path:
    """Weights that know nothing: an architecture of Ultralytics as it is made."""
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(f"{architecture}.yaml")
    for parameter in yolo.model.model[-1].parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # else all anchors are as likely
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
        ("yolo26n-pose", "pose", "openvino"),
        ("yolo26n-obb", "obb", "torch"),
    ],
)
def test_networks_that_need_no_suppression_do_without_and_find_what_ultralytics_finds(
    architecture: str, task: str, engine: str, tmp_path: Path
) -> None:
    pictures = [np.random.default_rng(1).integers(0, 255, (180, 320, 3), np.uint8)]
    settings = DetectionSettings(
        weights=str(random_weights(architecture, tmp_path)),
        task=task,
        engine=engine,
        precision="f32",
        image_size_px=320,
        min_confidence=1e-4,
        max_per_frame=20,
    )
    detector = Models(tmp_path / "cache").detector(settings, 320, 180, "cpu")
    (outputs,) = detector._engine.infer([detector._fitted(pictures[0])])
    assert outputs[0].shape[0] <= 300  # boxes, not anchors
    assert outputs[0].shape[1] == 6 + {"detect": 0, "segment": 32, "pose": 51, "obb": 1}[task]
    (ours,), (theirs,) = detector.detect(iter(pictures)), predicted(settings, pictures, suppresses=False)
    boxes = theirs.obb if task == "obb" else theirs.boxes
    one = ours.xyxy if ours.oriented is None else ours.oriented[:, :4]
    assert_found(one, ours.confidence, boxes.xyxy if task != "obb" else boxes.xywhr[:, :4], boxes.conf)


def assert_found(ours: np.ndarray, confidence: np.ndarray, theirs: Any, their_confidence: Any) -> None:
    """Each of our best boxes is among theirs."""
    assert len(ours) > 5
    for box, sure in list(zip(ours, confidence, strict=True))[:5]:
        is_same = np.isclose(their_confidence.numpy(), sure, rtol=0.02) & (np.abs(theirs.numpy() - box).max(axis=1) < 1)
        assert is_same.any(), (box, sure)


def test_a_network_of_a_larger_stride_gets_an_input_that_it_can_take(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(1).integers(0, 255, (180, 320, 3), np.uint8)]
    weights = str(random_weights("yolov8n-p6", tmp_path))
    settings = DetectionSettings(
        weights=weights, precision="f32", image_size_px=320, min_confidence=1e-4, max_per_frame=50
    )
    ours, theirs = found_by(settings, pictures, tmp_path / "cache")[0], predicted(settings, pictures)[0]
    assert_found(ours.xyxy, ours.confidence, theirs.boxes.xyxy, theirs.boxes.conf)


def test_a_picture_that_is_all_width_is_fitted() -> None:
    fit = Letterbox.of(4000, 2, 640)
    assert fit.apply(np.zeros((2, 4000, 3), np.uint8)).shape == (32, 640, 3)


def test_turned_boxes_are_decoded_and_suppressed_as_ultralytics_does_it(tmp_path: Path) -> None:
    import torch
    from ultralytics.utils.nms import non_max_suppression

    model = load_weights(
        DetectionSettings(weights=str(random_weights("yolo11n-obb", tmp_path)), task="obb"), tmp_path / "cache"
    )
    rng = np.random.default_rng(2)
    class_count, count = len(model.class_names), 60
    output = np.concatenate(
        [
            rng.uniform(50, 270, (2, count)),
            rng.uniform(20, 90, (2, count)),
            rng.uniform(0, 0.9, (class_count, count)) ** 8,
            rng.uniform(-0.7, 2.3, (1, count)),
        ]
    ).astype(np.float32)
    settings = DetectionSettings(nms_iou=0.3)
    fit = Letterbox.of(640, 360, 320)
    ours = found_in((output,), model, fit, settings, None, 640, 360)
    raw = torch.tensor(output[None])
    theirs = non_max_suppression(raw, 0.1, 0.3, nc=class_count, rotated=True)[0].numpy()
    assert ours.oriented is not None
    assert 5 < len(ours) == len(theirs) < count
    back = fit.scale
    assert np.allclose(ours.oriented[:, 2:4], theirs[:, 2:4] / back, atol=0.01)
    assert np.allclose(ours.oriented[:, 0], (theirs[:, 0] - fit.left_px) / back, atol=0.01)
    assert np.allclose(ours.oriented[:, 1], (theirs[:, 1] - fit.top_px) / back, atol=0.01)
    assert np.allclose(ours.oriented[:, 4], theirs[:, -1], atol=1e-5)
    assert np.allclose(ours.confidence, theirs[:, 4])


def test_a_head_that_is_not_known_gets_a_sentence(tmp_path: Path) -> None:
    path = random_weights("yolov8n-worldv2", tmp_path)
    with pytest.raises(PipelineError, match="have the head 'WorldDetect', which is not known here"):
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(path)))


def test_an_openvino_folder_is_taken_as_weights(tmp_path: Path) -> None:
    import shutil

    from ultralytics import YOLO

    from demo.scenes import demo_scene, draw_frame
    from tests.conftest import BUNDLED_WEIGHTS

    copy = tmp_path / "street.pt"
    shutil.copyfile(BUNDLED_WEIGHTS, copy)
    folder = Path(YOLO(copy).export(format="openvino", imgsz=(192, 320), verbose=False))
    scene = demo_scene(3, 8, {"car": 2, "bicycle": 1})
    pictures = [draw_frame(scene, moment)[0] for moment in range(2, 6)]
    exported = DetectionSettings(weights=str(folder), precision="f32")
    original = DetectionSettings(weights=str(BUNDLED_WEIGHTS), precision="f32")
    theirs = found_by(original, pictures, tmp_path / "cache")
    for ours, other in zip(found_by(exported, pictures, tmp_path / "cache"), theirs, strict=True):
        assert np.allclose(ours.xyxy, other.xyxy, atol=0.1)
    (folder / "metadata.yaml").unlink()
    with pytest.raises(PipelineError, match="do not say their classes and input size"):
        Models(tmp_path / "other").weights(exported)
    next(folder.glob("*.bin")).unlink()
    with pytest.raises(PipelineError, match=r"lack street.bin beside them"):
        Models(tmp_path / "other").weights(exported)
