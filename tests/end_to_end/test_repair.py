"""Damaged tables and results through the commands of a person: reported, repaired and computed again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.storage.results_database import results_path
from tests.builders.command_line import run_cv_assets, write_settings
from tests.builders.damaged_tables import empty_newest_entry, lose_file, lose_newest_entry

pytestmark = pytest.mark.long
COUNTS = "SELECT (SELECT count(*) FROM frames), (SELECT count(*) FROM tracks), (SELECT count(*) FROM crops) > 0 AS c"


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings, and a data folder with two processed recordings."""
    folder = tmp_path_factory.mktemp("processed")
    write_settings(folder)
    for number in (5, 6):
        write_video(demo_scene(number, 4, {"car": 1}), folder / "recordings" / f"{number}.mp4")
    process = run_cv_assets("process", folder / "recordings", "--settings", folder / "pipeline.yaml", timeout_s=900)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.fixture
def folder(processed: Path, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "copy"
    shutil.copytree(processed, folder, symlinks=True)
    yield folder


def run(folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and output of a command with the settings of a folder."""
    process = run_cv_assets(*arguments, "--settings", folder / "pipeline.yaml", timeout_s=900)
    assert "Traceback" not in process.stdout + process.stderr
    return process.returncode, process.stdout + process.stderr


def test_lost_rows_and_files_are_reported_repaired_and_computed_again(folder: Path) -> None:
    process = ("process", folder / "recordings")
    _, counts = run(folder, "sql", COUNTS)
    lose_newest_entry(folder / "data" / "tables" / "tracks")
    code, output = run(folder, *process)
    assert code == 1, output
    assert "tracks: rows of 1 recording are lost or outdated" in output
    assert "Nothing to do" not in output and "run cv-assets repair, then this command again" in output
    lose_file(folder / "data" / "tables" / "crops")
    code, output = run(folder, *process)
    assert code == 2 and "crops: its file" in output, output
    code, output = run(folder, "doctor", "--full")
    assert code == 1 and "crops: its file" in output, output
    lose_file(folder / "data" / "tables" / "source_files")
    code, output = run(folder, "repair")
    assert "source_files: the pipeline writes lost rows again." in output
    assert code == 0 and "Lost results of" in output and "(crops, tracks)" in output, output
    code, output = run(folder, *process)
    assert code == 0 and "Nothing to do" not in output, output
    assert run(folder, "sql", COUNTS) == (0, counts)
    code, output = run(folder, "doctor", "--full")
    assert code == 0 and "files (contents)" in output, output
    assert run(folder, "repair") == (0, "No results are missing.\n")


def test_a_commit_that_a_power_cut_has_cut_off_is_undone_by_the_next_start(folder: Path) -> None:
    log = folder / "data" / "tables" / "source_files" / "_delta_log"
    newest = max(int(file.stem) for file in log.glob("*.json"))
    shutil.copy(log / f"{newest:020}.json", log / f"{newest + 1:020}.json")
    empty_newest_entry(log.parent)
    code, output = run(folder, "process", folder / "recordings")
    assert code == 0, output
    assert "source_files: the newest commits were cut off, as by a power cut, and are undone (1 files" in output


def test_damaged_and_copied_results_answer_with_their_own_rows(folder: Path) -> None:
    _, counts = run(folder, "sql", COUNTS)
    published = results_path(folder / "data").resolve()
    published.write_bytes(published.read_bytes()[:5000])
    assert run(folder, "sql", COUNTS) == (0, counts)
    moved = folder.rename(folder.with_name("moved"))
    assert run(moved, "sql", COUNTS) == (0, counts)
    assert run(moved, "process", moved / "recordings")[0] == 0
