"""The version of code, settings and weights: equal on machines that agree, other after each change that matters."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from resources.config.settings_file import SETTINGS_VARIABLE
from resources.workers.worker_version import VersionReader, read_required_version, write_required_version
from tests.builders.locations import BUNDLED_WEIGHTS


def write_settings(folder: Path, monkeypatch: pytest.MonkeyPatch, **sections: object) -> None:
    folder.mkdir(exist_ok=True)
    weights = folder / "model.pt"
    if not weights.exists():
        shutil.copy(BUNDLED_WEIGHTS, weights)
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"detections": {"weights": str(weights)}, **sections}))
    monkeypatch.setenv(SETTINGS_VARIABLE, str(file))


def test_only_what_changes_results_changes_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = VersionReader()
    write_settings(tmp_path / "a", monkeypatch)
    version = reader.read()
    assert version == VersionReader().read()
    other = {"data_folder": "elsewhere", "data_group": "video", "queue": {"gpu_runs": 7}, "serve": {"max_upload_gb": 1}}
    write_settings(tmp_path / "b", monkeypatch, **other)
    assert reader.read() == version, "another machine, with other folders and the same weights"
    write_settings(tmp_path / "b", monkeypatch, video={"crf": 30})
    changed = reader.read()
    assert changed != version
    (tmp_path / "b" / "model.pt").write_bytes(b"other weights")
    assert reader.read() not in (changed, version)


@pytest.mark.parametrize(
    "changed",
    [
        {"detections": {"class_names": ["car"]}},
        {"detections": {"min_confidence": 0.6}},
        {"detections": {"regions": {"gate": [[[0, 0], [1, 0], [1, 1]]]}}},
        {"crop_models": [{"name": "look", "weights": "mobilenet", "classes": ["car"]}]},
        {"stages": [{"file": "mine.py", "batch_timeout_s": 90}]},
    ],
)
def test_each_setting_of_models_and_stages_changes_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    sections: dict[str, Any] = {"crop_models": [{"name": "look", "weights": "mobilenet"}]}
    sections["stages"] = [{"file": "mine.py"}]
    write_settings(tmp_path, monkeypatch, **sections)
    version = VersionReader().read()
    weights = {"weights": str(tmp_path / "model.pt")}
    detections = weights | changed.get("detections", {})
    write_settings(tmp_path, monkeypatch, **(sections | changed | {"detections": detections}))
    assert VersionReader().read() != version


def test_the_content_of_a_probe_changes_the_version_and_its_path_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = []
    probe = {"name": "red", "task": "probe", "weights": "red.json", "embeddings": "look"}
    for folder, text in (("a", "1"), ("b", "1"), ("b", "2")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "red.json").write_text(text)
        write_settings(tmp_path / folder, monkeypatch, crop_models=[{"name": "look", "weights": "mobilenet"}, probe])
        versions.append(VersionReader().read())
    assert versions[0] == versions[1] != versions[2]


def test_the_content_of_a_stage_changes_the_version_and_its_path_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = []
    for folder, text in (("a", "1"), ("b", "1"), ("b", "2")):
        write_settings(tmp_path / folder, monkeypatch, stages=[{"file": "mine.py"}])
        (tmp_path / folder / "mine.py").write_text(text)
        versions.append(VersionReader().read())
    assert versions[0] == versions[1] != versions[2]


def test_the_required_version_is_that_of_the_last_writer(tmp_path: Path) -> None:
    assert read_required_version(tmp_path) is None
    write_required_version(tmp_path, "1")
    write_required_version(tmp_path, "2")
    assert read_required_version(tmp_path) == "2"
