"""The list of commands and the version."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import commands
from resources.config.settings_file import PROJECT_ROOT, load_settings
from resources.errors import PipelineError


def test_the_list_of_commands_shows_whole_sentences() -> None:
    text = CliRunner().invoke(commands, ["--help"], terminal_width=80).output
    words = " ".join(text.split())
    assert "..." not in words.partition("Commands:")[2]
    for command in commands.commands.values():
        assert command.help is not None
        assert " ".join(command.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".") in words


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(commands, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("cv-assets 0.")


@pytest.mark.parametrize("option", ["--data", "--settings"])
def test_an_empty_path_is_not_the_current_folder(option: str) -> None:
    result = CliRunner().invoke(commands, ["sql", "SELECT 1", option, ""])
    assert result.exit_code == 2
    assert "the path is empty" in result.output


def test_settings_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        result = CliRunner().invoke(commands, ["sql", "SELECT 1", "--settings", str(path)])
        assert result.exit_code == 2
        assert f"{path}: the settings file is a folder or a device" in result.output


@pytest.mark.parametrize("key", ["watched_folder", "data_folder", "detections.weights"])
def test_empty_values_of_the_settings_are_refused(key: str, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    (tmp_path / "pipeline.yaml").write_text(f'{section}: {{{name}: ""}}' if section else f'{name}: ""')
    with pytest.raises(PipelineError, match=key):
        load_settings(tmp_path / "pipeline.yaml", {})


def test_output_that_cannot_be_written_ends_with_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from cli.main import main; main()", "settings"]
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    assert process.returncode != 0
    assert "Traceback" not in process.stderr
