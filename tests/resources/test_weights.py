import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.inference.weights import check_weights, detection_version
from resources.settings import DetectionSettings
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
