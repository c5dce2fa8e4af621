from pathlib import Path

import pytest

from cv_assets.commands.doctor import examine
from resources.errors import PipelineError
from resources.settings import DetectionSettings, Settings, load_settings
from tests.conftest import BUNDLED_WEIGHTS


def strays(watched: Path) -> list[str]:
    settings = Settings(
        watched_folder=watched,
        data_folder=watched.parent / "data",
        detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
    )
    return [
        finding.told for finding in examine(settings) if finding.subject == "weights in folder" and not finding.is_ok
    ]


@pytest.mark.parametrize("names", [("x.pt",), ("x.PTH",), ("x.onnx",), ("x.engine",), ("net.bin", "net.xml")])
def test_weights_in_the_watched_folder_are_warned_of(names: tuple[str, ...], tmp_path: Path) -> None:
    watched = tmp_path / "recordings"
    (watched / "gate").mkdir(parents=True)
    assert strays(watched) == []
    for name in names:
        (watched / "gate" / name).write_bytes(b"x")
    assert strays(watched) == [f"gate/{names[-1]}: weights are programs; they are never loaded from here."]


def test_weights_in_the_watched_folder_are_never_loaded(tmp_path: Path) -> None:
    watched = tmp_path / "recordings"
    (watched / "yolo26n.pt").parent.mkdir()
    (watched / "yolo26n.pt").write_bytes(BUNDLED_WEIGHTS.read_bytes())
    file = tmp_path / "pipeline.yaml"
    for named in (watched / "yolo26n.pt", "recordings/yolo26n.pt"):
        file.write_text(f"detections: {{weights: '{named}'}}")
        with pytest.raises(PipelineError, match="lie in the watched folder, where anybody may drop files"):
            load_settings(file, {})
    (tmp_path / "link.pt").symlink_to(watched / "yolo26n.pt")
    file.write_text(f"detections: {{weights: {tmp_path / 'link.pt'}}}")
    with pytest.raises(PipelineError, match="lie in the watched folder"):
        load_settings(file, {})
