"""Weights files in a watched folder: doctor warns of them, and settings that name one are invalid."""

from pathlib import Path

import pytest

from cli.doctor import check_machine
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.config.settings_file import load_settings
from resources.errors import PipelineError
from tests.builders.locations import BUNDLED_WEIGHTS


def warnings_of_weights(watched_folder: Path) -> list[str]:
    settings = Settings(
        watched_folder=watched_folder,
        data_folder=watched_folder.parent / "data",
        detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
    )
    results = check_machine(settings)
    return [result.message for result in results if result.subject == "weights in folder" and not result.is_ok]


@pytest.mark.parametrize("names", [("x.pt",), ("x.PTH",), ("x.onnx",), ("x.engine",), ("net.bin", "net.xml")])
def test_doctor_warns_of_weights_in_a_watched_folder(names: tuple[str, ...], tmp_path: Path) -> None:
    watched_folder = tmp_path / "recordings"
    (watched_folder / "gate").mkdir(parents=True)
    assert warnings_of_weights(watched_folder) == []
    for name in names:
        (watched_folder / "gate" / name).write_bytes(b"x")
    assert warnings_of_weights(watched_folder) == [
        f"gate/{names[-1]}: weights are code, so they are never loaded from a watched folder."
    ]


def test_settings_with_weights_in_a_watched_folder_are_invalid(tmp_path: Path) -> None:
    watched_folder = tmp_path / "recordings"
    (watched_folder / "yolo26n.pt").parent.mkdir()
    (watched_folder / "yolo26n.pt").write_bytes(BUNDLED_WEIGHTS.read_bytes())
    file = tmp_path / "pipeline.yaml"
    for weights in (watched_folder / "yolo26n.pt", "recordings/yolo26n.pt"):
        file.write_text(f"detections: {{weights: '{weights}'}}")
        with pytest.raises(PipelineError, match="are in a watched folder, to which anyone may add files"):
            load_settings(file, {})
    (tmp_path / "link.pt").symlink_to(watched_folder / "yolo26n.pt")
    file.write_text(f"detections: {{weights: {tmp_path / 'link.pt'}}}")
    with pytest.raises(PipelineError, match="are in a watched folder"):
        load_settings(file, {})
