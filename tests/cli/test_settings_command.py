"""The commands settings and init, and which settings file is in force."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from cli.main import commands
from cli.settings_command import _EXAMPLES
from resources.config.camera_config import CameraSettings, GroundSettings, LineSettings, ZoneSettings
from resources.config.detection_config import ModelSettings
from resources.config.network_config import NetworkSettings
from resources.config.operations_config import EmailSettings, WebhookSettings
from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_VARIABLE, find_settings_file, load_settings
from resources.environment import choose_settings


def printed_settings(folder: Path, text: str = "") -> str:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    result = CliRunner().invoke(commands, ["settings", "--settings", str(file)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_output_is_yaml_with_the_values_in_force(tmp_path: Path) -> None:
    text = "{watched_folder: w, tracks: {lost_s: 2.5}, cameras: {gate: {lines: [{name: a, points: [[0, 0], [1, 1]]}]}}}"
    values: dict[str, Any] = yaml.safe_load(printed_settings(tmp_path, text))
    values["ingest"].pop("captured_at_patterns")  # shortened
    settings = Settings.model_validate(values)
    assert settings.watched_folder == tmp_path / "w"
    assert settings.tracks.lost_s == 2.5
    assert settings.camera("gate").lines == load_settings(tmp_path / "pipeline.yaml", {}).camera("gate").lines
    assert set(values) == set(Settings.model_fields)


def test_the_keys_below_empty_settings_are_shown_in_examples(tmp_path: Path) -> None:
    text = printed_settings(tmp_path)
    commented = "\n".join(line.removeprefix("# ") for line in text.splitlines())
    sections: tuple[type[BaseModel], ...] = (
        *(
            CameraSettings,
            ZoneSettings,
            LineSettings,
            GroundSettings,
            ModelSettings,
            NetworkSettings,
            WebhookSettings,
            EmailSettings,
        ),
    )
    for section in sections:
        for name in section.model_fields:
            assert f"{name}:" in commented, (section.__name__, name)
    for name, example in _EXAMPLES.items():
        if name in ("cameras", "models", "crop_models"):
            Settings.model_validate({name: example})


def test_long_patterns_are_folded(tmp_path: Path) -> None:
    patterns = [line for line in printed_settings(tmp_path).splitlines() if "(?P<" in line]
    assert len(patterns) == len(Settings().ingest.captured_at_patterns)
    assert all(len(line) < 110 for line in patterns)


def test_the_settings_file_of_the_current_folder_is_used_before_that_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    project_file = find_settings_file(None, {})
    assert project_file.parent != tmp_path
    (tmp_path / "pipeline.yaml").write_text("watched_folder: here")
    named_file = tmp_path / "named.yaml"
    named_file.write_text("watched_folder: there")
    assert find_settings_file(None, {}) == tmp_path / "pipeline.yaml"
    assert find_settings_file(None, {SETTINGS_VARIABLE: str(named_file)}) == named_file
    assert find_settings_file(Path("other.yaml"), {SETTINGS_VARIABLE: str(named_file)}) == tmp_path / "other.yaml"
    assert choose_settings().watched_folder == tmp_path / "here"
    assert capsys.readouterr().err == f"Settings: {tmp_path / 'pipeline.yaml'}\n"
    monkeypatch.chdir(tmp_path.parent)
    assert load_settings().watched_folder == tmp_path / "here"  # as a child process with another folder reads them
    assert choose_settings(settings=named_file).watched_folder == tmp_path / "there"
    assert capsys.readouterr().err == ""


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with recordings of two cameras, and one that belongs to none."""
    folder = tmp_path / "my 'recordings'"
    for path in ("front: door/a.mp4", "front: door/b.mp4", "yard/2026/c.mp4", "d.mp4", "notes.txt"):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return folder


def test_a_starter_file_has_the_cameras_of_the_folder_and_is_never_overwritten(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(commands, ["init", str(recordings)])
    assert result.exit_code == 0, result.output
    assert shlex.split(result.output.rpartition("then ")[2].rstrip(".\n")) == ["cv-assets", "process", str(recordings)]
    settings = load_settings(tmp_path / "pipeline.yaml", {})
    assert settings.watched_folder == recordings
    assert settings.data_folder == tmp_path / "data"
    assert set(settings.cameras) == {"", "front: door", "yard"}
    uncommented = (tmp_path / "pipeline.yaml").read_text().replace("    # zones:\n    #   -", "    zones:\n      -")
    assert len(Settings.model_validate(yaml.safe_load(uncommented)).camera("yard").zones) == 1
    again = CliRunner().invoke(commands, ["init", str(recordings)])
    assert again.exit_code == 2
    assert "pipeline.yaml exists and is not overwritten" in again.stderr


def test_a_starter_file_is_not_written_into_the_folder_of_the_recordings_nor_for_a_missing_folder(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings / "yard")
    inside = CliRunner().invoke(commands, ["init", str(recordings)])
    assert inside.exit_code == 2
    assert "is inside the folder of the recordings" in inside.stderr
    monkeypatch.chdir(recordings.parent)
    missing = CliRunner().invoke(commands, ["init", "nowhere"])
    assert missing.exit_code == 2
    assert "does not exist: create it" in missing.stderr
    assert not list(recordings.parent.rglob("pipeline.yaml"))
