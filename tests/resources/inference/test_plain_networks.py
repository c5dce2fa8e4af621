"""Plain detectors, built as small OpenVINO networks, run through the same detector as the weights of Ultralytics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.inference.weights import detection_version

NETWORK = {"head": "ssd", "classes": ["spot"], "std": [1, 1, 1], "box_unit": "shares"}


def write_spot_detector(folder: Path, *, is_channels_last: bool = False, size_px: int = 32) -> Path:
    """Write a network that outputs one row of DetectionOutput for images of 32x32 px.

    Its box is the right half, and its confidence the share of the first colour at the first pixel, after preprocessing.
    """
    import openvino
    from openvino import opset13 as ops

    shape = [1, size_px, size_px, 3] if is_channels_last else [1, 3, size_px, size_px]
    image = ops.parameter(shape, np.float32, name="image")
    first_value = ops.slice(image, [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 2, 3])
    confidence = ops.divide(first_value, np.float32(255))
    start, end = np.zeros((1, 1, 1, 2), np.float32), np.array([0.5, 0, 1, 1], np.float32).reshape(1, 1, 1, 4)
    rows = ops.concat([ops.constant(start), confidence, ops.constant(end)], 3)
    folder.mkdir()
    openvino.save_model(openvino.Model([rows], [image], "spot"), folder / "spot.xml", compress_to_fp16=False)
    return folder


def detector_settings(weights: Path, **network: Any) -> DetectionSettings:
    values = {"weights": str(weights), "precision": "f32", "network": {**NETWORK, **network}}
    return DetectionSettings.model_validate(values)


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize(("colors", "confidence"), [("rgb", 200 / 255), ("bgr", 100 / 255)])
def test_colours_layout_and_boxes_are_as_described(
    colors: str, confidence: float, is_channels_last: bool, tmp_path: Path
) -> None:
    settings = detector_settings(
        write_spot_detector(tmp_path / "spot", is_channels_last=is_channels_last), colors=colors, resize="stretch"
    )
    image = np.full((60, 80, 3), (100, 0, 200), np.uint8)  # blue, green, red
    detector = Models(tmp_path / "cache").detector(settings, 80, 60, "cpu")
    for detections in detector.detect(iter([image] * 5)):
        # Also in an image of another shape than the input.
        assert np.allclose(detections.xyxy, [[40, 0, 80, 60]], atol=0.01)
        assert detections.confidence == pytest.approx([confidence], abs=1e-3)
    assert detector.class_names == {0: "spot"}
    assert detector.engine_name == "openvino-f32-32x32"


def test_images_are_letterboxed_and_normalized_as_described(tmp_path: Path) -> None:
    network = write_spot_detector(tmp_path / "spot")
    settings = detector_settings(network, mean=[100, 0, 0], std=[0.5, 1, 1])
    image = np.full((32, 64, 3), 255, np.uint8)
    (detections,) = Models(tmp_path / "cache").detector(settings, 64, 32, "cpu").detect(iter([image]))
    assert detections.confidence == pytest.approx([28 / 255], abs=1e-3)  # the padding's grey of 114, less 100, times 2
    assert detections.xyxy.tolist() == [[32, 0, 64, 32]]


def test_another_description_is_another_version_and_another_model(tmp_path: Path) -> None:
    folder = write_spot_detector(tmp_path / "spot")
    first, second = detector_settings(folder), detector_settings(folder, std=[2, 2, 2])
    assert detection_version(first) != detection_version(second)
    models = Models(tmp_path / "cache")
    assert models.weights(first).model_id != models.weights(second).model_id


def test_a_setting_that_is_not_used_is_in_no_version() -> None:
    assert "network" not in DetectionSettings().model_dump(mode="json")


def test_a_description_that_does_not_match_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    folder = write_spot_detector(tmp_path / "spot")
    settings = detector_settings(folder, head="gfl", strides=[8])
    with pytest.raises(PipelineError, match=r"spot.xml do not match their description\. network: the outputs have"):
        Models(tmp_path / "cache").weights(settings)


def test_weights_of_ultralytics_need_no_description(tmp_path: Path) -> None:
    (tmp_path / "street.pt").write_bytes(b"x")
    with pytest.raises(PipelineError, match=r"street.pt are a .pt file, .*: remove the key network"):
        Models(tmp_path / "cache").weights(detector_settings(tmp_path / "street.pt"))


def test_a_network_without_a_description_is_refused_with_both_remedies(tmp_path: Path) -> None:
    settings = DetectionSettings(weights=str(write_spot_detector(tmp_path / "spot")))
    with pytest.raises(PipelineError, match=r"export them with Ultralytics, .*, or describe a plain detector"):
        Models(tmp_path / "cache").weights(settings)


def test_a_network_whose_input_is_no_image_is_refused(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    values = ops.parameter([1, 7], np.float32)
    openvino.save_model(openvino.Model([ops.relu(values)], [values], "m"), tmp_path / "m.xml")
    with pytest.raises(PipelineError, match=r"m.xml have the inputs \[1,7\], but a network must have a single one"):
        Models(tmp_path / "cache").weights(detector_settings(tmp_path / "m.xml"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "gfl", "classes": "coco"}, "the head gfl needs strides"),
        ({"head": "ssd", "classes": ["a"], "std": [0, 1, 1]}, "every std must be more than 0"),
        ({"head": "ssd", "classes": []}, "classes"),
    ],
)
def test_an_incomplete_description_is_invalid(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectionSettings.model_validate({"network": values})
