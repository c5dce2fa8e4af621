import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference import weights as weights_module
from resources.inference.detector import Models
from resources.inference.weights import check_weights, detection_version, load_weights
from tests.builders.locations import BUNDLED_WEIGHTS

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="do not exist"):
        check_weights(DetectionSettings(weights=str(tmp_path / "none.pt")))


def test_a_file_that_is_no_zip_archive_is_refused_without_loading_it(tmp_path: Path) -> None:
    (tmp_path / "short.pt").write_bytes(b"123456789012345")
    with pytest.raises(PipelineError, match=r"not a PyTorch file \(15 bytes\)"):
        check_weights(DetectionSettings(weights=str(tmp_path / "short.pt")))


def test_a_class_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(PipelineError, match="has no class 'cat'"):
        Models().detector(SETTINGS.model_copy(update={"class_names": ("cat",)}), 640, 360, "cpu")


def write_first_half(path: Path) -> None:
    content = BUNDLED_WEIGHTS.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")


def write_other_pickle(path: Path) -> None:
    import torch

    torch.save({"answer": 42}, path)


def write_text_as_model(path: Path) -> None:
    import torch

    torch.save({"model": "no network"}, path)


def write_with_zeroed_bytes(path: Path) -> None:
    content = bytearray(BUNDLED_WEIGHTS.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("half.pt", write_first_half, r"half.pt are not a PyTorch file \(\d+ bytes\): download or copy them again"),
        ("odd.pt", write_other_archive, "odd.pt cannot be loaded by Ultralytics: "),
        ("other.pt", write_other_pickle, "other.pt cannot be loaded by Ultralytics: "),
        ("text.pt", write_text_as_model, "text.pt cannot be loaded by Ultralytics: "),
        ("zeroed.pt", write_with_zeroed_bytes, r"zeroed.pt are damaged \(.* does not match its checksum\): download"),
        ("text.onnx", lambda path: path.write_text("no network"), "text.onnx cannot be read as a network: "),
        ("empty.onnx", lambda path: path.touch(), "empty.onnx "),
        ("net.tflite", lambda path: path.write_text("x"), "net.tflite are neither a .pt or .onnx file nor an OpenVINO"),
        ("folder", lambda path: path.mkdir(), "are a folder without an OpenVINO network: name a folder that contains"),
    ],
)
def test_unusable_weights_are_refused_with_one_short_sentence(
    name: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(PipelineError, match=message) as error:
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(tmp_path / name)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.slow
def test_a_truncated_openvino_network_is_refused(tmp_path: Path) -> None:
    from ultralytics import YOLO

    shutil.copyfile(BUNDLED_WEIGHTS, tmp_path / "street.pt")
    folder = Path(YOLO(tmp_path / "street.pt").export(format="openvino", imgsz=(192, 320), verbose=False))
    network = next(folder.glob("*.xml"))
    network.write_text(network.read_text()[:20_000])
    with pytest.raises(PipelineError, match=r"street.xml cannot be read as a network: "):
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(folder)))


def test_weights_of_another_task_are_refused() -> None:
    with pytest.raises(PipelineError, match="of the task 'detect', but the settings say 'pose': set task: detect"):
        Models().weights(SETTINGS.model_copy(update={"task": "pose"}))


def test_published_weights_that_cannot_be_downloaded_are_an_error_that_names_the_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(weights_module, "urlopen", fail)
    monkeypatch.setattr(weights_module, "PROJECT_ROOT", tmp_path)
    with pytest.raises(
        PipelineError, match=r"yolo26s.pt are not on this machine .* put the file at .*weights/yolo26s.pt"
    ):
        Models(tmp_path / "cache").weights(DetectionSettings(weights="yolo26s.pt"))


def test_the_detection_version_depends_on_the_content_of_the_weights_not_on_their_name(tmp_path: Path) -> None:
    versions = []
    for name, content in (("original", b"a"), ("copy", b"a"), ("other", b"b")):
        path = tmp_path / f"{name}.pt"
        path.write_bytes(content)
        versions.append(detection_version(DetectionSettings(weights=str(path))))
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.slow
def test_real_weights_of_another_task_are_refused(corpus: Path, tmp_path: Path) -> None:
    settings = DetectionSettings(weights=str(corpus / "weights" / "weather-cls.pt"))
    with pytest.raises(
        PipelineError, match="of the task 'classify', but the settings say 'detect': set task: classify"
    ):
        Models(tmp_path / "cache").weights(settings)


def test_a_real_broken_file_is_refused(corpus: Path) -> None:
    path = corpus / "weights" / "broken_15_bytes.pt"
    with pytest.raises(PipelineError, match=r"broken_15_bytes.pt are not a PyTorch file \(15 bytes\)"):
        Models().weights(DetectionSettings(weights=str(path)))


@pytest.mark.parametrize("named_by", ["path", "link", "name in the weights folder"])
def test_weights_in_a_watched_folder_are_refused_however_they_are_named(
    named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched_folder, project_folder = tmp_path / "recordings", tmp_path / "project"
    watched_folder.mkdir()
    (project_folder / "weights").mkdir(parents=True)
    path = watched_folder / "dropped.pt"
    path.write_bytes(BUNDLED_WEIGHTS.read_bytes())
    (tmp_path / "link.pt").symlink_to(path)
    (project_folder / "weights" / "named.pt").symlink_to(path)
    monkeypatch.setattr(weights_module, "PROJECT_ROOT", project_folder)
    weights = {"path": str(path), "link": str(tmp_path / "link.pt"), "name in the weights folder": "named.pt"}[named_by]
    with pytest.raises(PipelineError, match="are in the watched folder"):
        load_weights(DetectionSettings(weights=weights), tmp_path / "cache", [watched_folder])


def test_the_detection_version_depends_on_the_metadata_next_to_a_network(tmp_path: Path) -> None:
    folder = tmp_path / "openvino"
    folder.mkdir()
    for name in ("model.xml", "model.bin"):
        (folder / name).write_bytes(b"x")
    settings, versions = DetectionSettings(weights=str(folder)), []
    for number, metadata in enumerate(("names: {0: person}", "names: {0: pedestrian}")):
        (folder / "metadata.yaml").write_text(metadata)
        os.utime(folder / "metadata.yaml", (number, number + 2e9))
        versions.append(detection_version(settings))
    assert versions[0] != versions[1]


@pytest.mark.parametrize(
    "metadata", ["names: [", "plain words", "{names: {x: person}, imgsz: [640, 640], task: detect}"]
)
def test_invalid_metadata_next_to_a_network_is_refused(metadata: str, tmp_path: Path) -> None:
    import openvino

    folder = tmp_path / "openvino"
    folder.mkdir()
    parameter = openvino.opset13.parameter([1, 3, 64, 64], np.float32, name="x")
    openvino.save_model(openvino.Model([openvino.opset13.relu(parameter)], [parameter], "m"), folder / "model.xml")
    (folder / "metadata.yaml").write_text(metadata)
    with pytest.raises(PipelineError, match=r"^The weights .*model.xml (cannot be read as|do not say)"):
        load_weights(DetectionSettings(weights=str(folder)), tmp_path / "cache")


def test_a_name_that_is_too_long_for_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="do not exist"):
        load_weights(DetectionSettings(weights="w" * 5000 + ".pt"), tmp_path)
