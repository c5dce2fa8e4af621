import zipfile
from pathlib import Path

import pytest

from resources.errors import PipelineError
from resources.inference import Models
from resources.settings import DetectionSettings
from resources.weights import check_weights, detection_version
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


def test_published_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ultralytics.utils import downloads

    def no_route(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(downloads, "safe_download", no_route)
    monkeypatch.setattr("resources.weights.PROJECT_ROOT", tmp_path)
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
