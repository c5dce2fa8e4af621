"""Damaged files of Dagster's storage are named with the remedy, by every command that reads them."""

import os
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance

from cli.doctor import check_machine
from cli.main import commands
from resources.config.settings import Settings
from resources.dagster_instance.sqlite_files import damaged_files, sqlite_problem
from resources.environment import choose_settings, prepare_data_folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a data folder with Dagster's storage."""
    (tmp_path / "recordings").mkdir()
    settings = choose_settings(watched_folder=tmp_path / "recordings", data_folder=tmp_path / "data")
    prepare_data_folder(settings)
    with DagsterInstance.get() as instance:
        assert instance.get_runs() == []
        instance.all_instigator_state()
    return settings


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, os.urandom(5000)], ids=["empty", "zeros", "random"])
@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_damaged_file_is_named_with_the_remedy(settings: Settings, name: str, content: bytes) -> None:
    home = settings.data_folder / "dagster"
    assert list(damaged_files(home)) == []
    assert [result.subject for result in check_machine(settings) if "SQLite" in result.message] == ["storage"]
    for leftover in (home / name).parent.glob(f"{Path(name).name}-*"):
        leftover.unlink()
    (home / name).write_bytes(content)
    (problem,) = damaged_files(home)
    assert problem.startswith(str(home / name))
    (result,) = (result for result in check_machine(settings) if result.subject == "storage")
    assert not result.is_ok and problem in result.message and "cv-assets adopt" in result.message


def test_a_command_ends_with_one_sentence(settings: Settings) -> None:
    (settings.data_folder / "tables").mkdir()
    index = settings.data_folder / "dagster" / "history" / "runs.db"
    for leftover in index.parent.glob("runs.db-*"):
        leftover.unlink()
    index.write_bytes(os.urandom(5000))
    result = CliRunner().invoke(commands, ["keep", "gate-1", "--data", str(settings.data_folder)])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("cv-assets: ")]
    assert f"{index} is damaged" in line and "cv-assets adopt" in line


def test_other_errors_are_no_damage(settings: Settings) -> None:
    assert sqlite_problem(sqlite3.OperationalError("database is locked")) is None
    assert sqlite_problem(ValueError("file is not a database")) is None
