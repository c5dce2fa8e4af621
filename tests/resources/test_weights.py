import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.inference.weights import check_weights, detection_version, load_weights
from resources.settings import DetectionSettings, Settings
from tests.conftest import BUNDLED_WEIGHTS

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))


def test_weights_that_cannot_work_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="do not exist"):
        check_weights(DetectionSettings(weights=str(tmp_path / "none.pt")))
    (tmp_path / "short.pt").write_bytes(b"123456789012345")
    with pytest.raises(PipelineError, match=r"not a PyTorch file \(15 bytes\)"):
        check_weights(DetectionSettings(weights=str(tmp_path / "short.pt")))
    with zipfile.ZipFile(tmp_path / "odd.pt", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(PipelineError, match="cannot be loaded by Ultralytics"):
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(tmp_path / "odd.pt")))
    with pytest.raises(PipelineError, match="knows no class 'cat'"):
        Models().detector(SETTINGS.model_copy(update={"class_names": ("cat",)}), 640, 360, "cpu")


def _half(target: Path) -> None:
    content = BUNDLED_WEIGHTS.read_bytes()
    target.write_bytes(content[: len(content) // 2])


def _something_else(target: Path) -> None:
    import torch

    torch.save({"answer": 42}, target)


def _not_a_network_inside(target: Path) -> None:
    import torch

    torch.save({"model": "no network"}, target)


def _with_a_hole(target: Path) -> None:
    content = bytearray(BUNDLED_WEIGHTS.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    target.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("half.pt", _half, r"half.pt are not a PyTorch file \(\d+ bytes\): fetch or copy them again"),
        ("other.pt", _something_else, "other.pt cannot be loaded by Ultralytics: "),
        ("text.pt", _not_a_network_inside, "text.pt cannot be loaded by Ultralytics: "),
        ("hole.pt", _with_a_hole, r"hole.pt are damaged \(.* does not match its checksum\): fetch or copy"),
        ("text.onnx", lambda path: path.write_text("no network"), "text.onnx cannot be read as a network: "),
        ("empty.onnx", lambda path: path.touch(), "empty.onnx "),
        ("net.tflite", lambda path: path.write_text("x"), "net.tflite are neither a .pt or .onnx file nor an OpenVINO"),
        ("folder", lambda path: path.mkdir(), "are a folder without an OpenVINO network: name a folder that holds one"),
    ],
)
def test_weights_that_are_no_model_get_one_sentence(
    name: str, make: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(PipelineError, match=sentence) as caught:
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(tmp_path / name)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_exported_network_that_was_cut_short_gets_one_sentence(tmp_path: Path) -> None:
    from ultralytics import YOLO

    shutil.copyfile(BUNDLED_WEIGHTS, tmp_path / "street.pt")
    folder = Path(YOLO(tmp_path / "street.pt").export(format="openvino", imgsz=(192, 320), verbose=False))
    network = next(folder.glob("*.xml"))
    network.write_text(network.read_text()[:20_000])
    with pytest.raises(PipelineError, match=r"street.xml cannot be read as a network: "):
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(folder)))


def test_weights_of_another_task_are_refused() -> None:
    with pytest.raises(PipelineError, match="of the task 'detect', and the settings ask for 'pose': set task: detect"):
        Models().weights(SETTINGS.model_copy(update={"task": "pose"}))


def test_published_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ultralytics.utils import downloads

    def no_route(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(downloads, "safe_download", no_route)
    monkeypatch.setattr("resources.inference.weights.PROJECT_ROOT", tmp_path)
    with pytest.raises(
        PipelineError, match=r"yolo26n.pt are not on this machine .* put the file at .*weights/yolo26n.pt"
    ):
        Models(tmp_path / "cache").weights(DetectionSettings(weights="yolo26n.pt"))


def test_the_version_follows_the_content_of_the_weights(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / f"{name}.pt" for name in ("one", "copy", "other"))
    one.write_bytes(b"a")
    copy.write_bytes(b"a")
    other.write_bytes(b"b")
    versions = [detection_version(DetectionSettings(weights=str(path))) for path in (one, copy, other)]
    assert versions[0] == versions[1] != versions[2]


def test_real_weights_of_another_task_are_refused(corpus: Path, tmp_path: Path) -> None:
    settings = DetectionSettings(weights=str(corpus / "weights" / "weather-cls.pt"))
    with pytest.raises(
        PipelineError, match="of the task 'classify', and the settings ask for 'detect': set task: classify"
    ):
        Models(tmp_path / "cache").weights(settings)


def test_the_real_broken_file_is_refused(corpus: Path) -> None:
    path = corpus / "weights" / "broken_15_bytes.pt"
    with pytest.raises(PipelineError, match=r"broken_15_bytes.pt are not a PyTorch file \(15 bytes\)"):
        Models().weights(DetectionSettings(weights=str(path)))


@pytest.mark.parametrize("way", ["path", "link", "name in weights"])
def test_weights_in_a_watched_folder_are_never_loaded_however_they_are_named(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, project = tmp_path / "recordings", tmp_path / "project"
    watched.mkdir()
    (project / "weights").mkdir(parents=True)
    dropped = watched / "dropped.pt"
    dropped.write_bytes(BUNDLED_WEIGHTS.read_bytes())
    (tmp_path / "link.pt").symlink_to(dropped)
    (project / "weights" / "named.pt").symlink_to(dropped)
    monkeypatch.setattr("resources.inference.weights.PROJECT_ROOT", project)
    monkeypatch.setattr("resources.inference.weights.current_settings", lambda: Settings(watched_folder=watched))
    weights = {"path": str(dropped), "link": str(tmp_path / "link.pt"), "name in weights": "named.pt"}[way]
    with pytest.raises(PipelineError, match="lie in the watched folder"):
        load_weights(DetectionSettings(weights=weights), tmp_path / "cache")


def test_other_class_names_beside_a_network_make_other_weights(tmp_path: Path) -> None:
    folder = tmp_path / "openvino"
    folder.mkdir()
    for name in ("model.xml", "model.bin"):
        (folder / name).write_bytes(b"x")
    settings, versions = DetectionSettings(weights=str(folder)), []
    for number, names in enumerate(("names: {0: person}", "names: {0: pedestrian}")):
        (folder / "metadata.yaml").write_text(names)
        os.utime(folder / "metadata.yaml", (number, number + 2e9))
        versions.append(detection_version(settings))
    assert versions[0] != versions[1]


@pytest.mark.parametrize("told", ["names: [", "plain words", "{names: {x: person}, imgsz: [640, 640], task: detect}"])
def test_what_is_written_beside_a_network_may_be_anything(told: str, tmp_path: Path) -> None:
    import openvino

    folder = tmp_path / "openvino"
    folder.mkdir()
    parameter = openvino.opset13.parameter([1, 3, 64, 64], np.float32, name="x")
    openvino.save_model(openvino.Model([openvino.opset13.relu(parameter)], [parameter], "m"), folder / "model.xml")
    (folder / "metadata.yaml").write_text(told)
    with pytest.raises(PipelineError, match=r"^The weights .*model.xml (cannot be read as|do not say)"):
        load_weights(DetectionSettings(weights=str(folder)), tmp_path / "cache")


def test_a_name_that_no_file_can_have_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="do not exist"):
        load_weights(DetectionSettings(weights="w" * 5000 + ".pt"), tmp_path)
