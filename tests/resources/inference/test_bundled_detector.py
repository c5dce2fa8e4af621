"""The bundled detector: its outputs are those of the original, and it takes the place of the default weights."""

import urllib.error
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.doctor import check_model_weights
from demo.convert_nanodet import TEST_FOLDER, read_test_images
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference import weights as weights_module
from resources.inference.detector import Models
from resources.inference.plain_networks import BUNDLED_FOLDER
from resources.inference.weights import (
    check_weights,
    detection_version,
    download_default_weights,
    find_weights,
    uses_fallback,
)

DEFAULT = DetectionSettings()
NANODET_FILE = BUNDLED_FOLDER / "nanodet.xml"


def test_the_outputs_are_those_of_the_original() -> None:
    import openvino

    network = openvino.Core().read_model(NANODET_FILE)
    network.reshape([1, 3, 416, 416])
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    original = np.load(TEST_FOLDER / "outputs.npz")
    anchors = original["anchors"].astype(int)
    images = read_test_images()
    assert len(images) == len(anchors) == 5
    for index, image in enumerate(images):
        outputs = compiled(image[None])
        for output, name in enumerate(("scores", "distances")):
            expected = original[name][index].astype(np.float32)
            values = outputs[output][0][anchors[index]]
            assert np.abs(values - expected).max() < 0.01 * np.abs(expected).max()
            assert np.allclose(values, expected, rtol=0.01, atol=0.002)
        assert original["scores"][index].max() > 0.3


def test_the_bundled_models_are_small_and_have_a_licence() -> None:
    assert sum(file.stat().st_size for file in BUNDLED_FOLDER.iterdir()) < 18e6
    notice = (BUNDLED_FOLDER / "NOTICE.md").read_text()
    assert all(f"`{file.name}`" in notice for file in BUNDLED_FOLDER.iterdir() if file.name != "NOTICE.md")


def fail_to_connect(*_: object, **__: object) -> Any:
    raise urllib.error.URLError(OSError(101, "Network is unreachable"))


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without weights on a machine without a network."""
    monkeypatch.setattr(weights_module, "PROJECT_ROOT", tmp_path / "project")
    monkeypatch.setattr(weights_module, "urlopen", fail_to_connect)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "project"


def test_the_bundled_detector_replaces_default_weights_that_cannot_be_had(project_folder: Path) -> None:
    target = project_folder / "weights" / "yolo26n.pt"
    assert download_default_weights([DEFAULT]) == [
        "The weights yolo26n.pt are not on this machine and could not be downloaded (Network is unreachable): the "
        "bundled detector NanoDet-g is used, which has the same 80 classes and misses more objects. To use them, put "
        f"the file at {target}."
    ]
    check_weights(DEFAULT)
    assert find_weights(DEFAULT) == NANODET_FILE
    assert detection_version(DEFAULT) == detection_version(DetectionSettings(weights="nanodet"))
    assert Models(project_folder / "cache").weights(DEFAULT).class_names[2] == "car"
    (result,) = check_model_weights(Settings(detections=DEFAULT))
    assert result.is_ok
    assert "the bundled detector NanoDet-g is used" in result.message
    target.write_bytes(b"weights")
    assert find_weights(DEFAULT) == target
    assert not uses_fallback(DEFAULT)


def test_default_weights_are_downloaded_where_there_is_a_network(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("data.pkl", "weights")
    requested = []

    def open_archive(url: str, timeout: float) -> BytesIO:
        requested.append(url)
        return BytesIO(archive.getvalue())

    monkeypatch.setattr(weights_module, "urlopen", open_archive)
    assert download_default_weights([DEFAULT, DEFAULT]) == []
    assert [url.rpartition("/")[2] for url in requested] == ["yolo26n.pt"]
    assert find_weights(DEFAULT) == project_folder / "weights" / "yolo26n.pt"
    assert list((project_folder / "weights").iterdir()) == [project_folder / "weights" / "yolo26n.pt"]


def test_a_page_of_a_proxy_is_not_taken_for_weights(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "urlopen", lambda *_, **__: BytesIO(b"<html>please log in</html>"))
    (sentence,) = download_default_weights([DEFAULT])
    assert "could not be downloaded (not a PyTorch file)" in sentence
    assert find_weights(DEFAULT) == NANODET_FILE


@pytest.mark.parametrize(
    "changes", [{"weights": "yolo11s.pt"}, {"engine": "torch"}, {"device": "cuda:0"}, {"task": "pose"}]
)
def test_other_weights_are_never_replaced(changes: dict[str, str], project_folder: Path) -> None:
    settings = DetectionSettings.model_validate(changes)
    assert download_default_weights([settings]) == []
    assert find_weights(settings) is None
    with pytest.raises(PipelineError, match=rf"{settings.weights} are not on this machine and could not be downloaded"):
        Models(project_folder / "cache").weights(settings)


def test_persons_are_detected_in_frames_of_a_sequence(tmp_path: Path) -> None:
    from PIL import Image

    images = [np.asarray(Image.open(path).convert("RGB"))[..., ::-1] for path in sorted(TEST_FOLDER.glob("vtest*"))]
    images = [np.ascontiguousarray(image.repeat(3, 0).repeat(3, 1)) for image in images]
    settings = DetectionSettings(weights="nanodet", precision="f32", min_confidence=0.4)
    detector = Models(tmp_path).detector(settings, 624, 624, "cpu")
    assert detector.engine_name == "openvino-f32-640x640"
    for detections in detector.detect(iter(images)):
        names = [detector.class_names[class_id] for class_id in detections.class_id.tolist()]
        assert names.count("person") >= 2
        assert (detections.xyxy >= 0).all() and (detections.xyxy <= 624).all()
