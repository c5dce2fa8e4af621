"""cv-assets stage test: the rows of a stage on stored inputs, and how they differ from the last ones."""

import errno
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from cli.main import commands
from resources.storage.delta_store import Store
from tests.builders.own_stage_files import FRAME_STAGE, store_normalized_recording, write_stage

VALID = FRAME_STAGE.format(body="")


@pytest.fixture
def folder(tmp_path: Path, store: Store) -> Path:
    store_normalized_recording(store, frame_count=3)
    (tmp_path / "pipeline.yaml").write_text(f"data_folder: {store.data_folder}\nwatched_folder: recordings\n")
    return tmp_path


def run(folder: Path, file: Path, recording: str = "r") -> Result:
    arguments = ["stage", "test", str(file), "--recording", recording, "--settings", str(folder / "pipeline.yaml")]
    return CliRunner().invoke(commands, arguments)


def test_the_rows_are_shown_and_compared_with_those_of_the_last_test(folder: Path) -> None:
    first = run(folder, write_stage(folder, VALID))
    assert first.exit_code == 0, first.output
    assert "frame_levels: 3 rows from 3 frames in " in first.output
    assert "frame_index=1  time_s=0.1  brightness=" in first.output
    assert "There are no earlier rows to compare with." in first.output
    unchanged = run(folder, write_stage(folder, f"# a comment\n{VALID}"))
    assert "UTC: no differences" in unchanged.output
    fewer = VALID.replace("in batch.frames", "in batch.frames[:2]").replace("frame.image.mean()", "7.0")
    changed = run(folder, write_stage(folder, fewer))
    assert "UTC: 3 differences\n  ~ frame_index=0: brightness 7 (was " in changed.output
    assert "\n  - frame_index=2  time_s=0.2  brightness=" in changed.output


def test_a_test_that_cannot_store_its_rows_keeps_those_of_the_last_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_stage(folder, VALID)
    assert run(folder, file).exit_code == 0

    def fill_disk(_: object, path: Path) -> None:
        path.write_bytes(b"PAR1 half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as context:
        context.setattr(pq, "write_table", fill_disk)
        assert run(folder, file).exit_code == 2
    assert "UTC: no differences" in run(folder, file).output


def test_a_fault_is_one_sentence(folder: Path) -> None:
    failing = run(folder, write_stage(folder, FRAME_STAGE.format(body="raise OSError('no camera')")))
    assert failing.exit_code == 2
    assert "cv-assets: frame_levels: its function raised OSError: no camera (my_stage.py, line 17).\n" in failing.output
    unknown = run(folder, write_stage(folder, VALID.replace('["frames"]', '["frame"]')))
    assert "no stage before it writes the input 'frame'; did you mean frames?" in unknown.output
    other = run(folder, write_stage(folder, VALID), recording="rr")
    assert "has no recording 'rr'; did you mean r?" in other.output


def test_a_broken_file_in_the_settings_is_a_warning_of_settings_and_a_problem_for_doctor(folder: Path) -> None:
    from cli.doctor import check_machine
    from resources.config.settings_file import load_settings

    write_stage(folder, "def f(:")
    with (folder / "pipeline.yaml").open("a") as settings:
        settings.write("stages: [{file: my_stage.py}]\n")
    result = CliRunner().invoke(commands, ["settings", "--settings", str(folder / "pipeline.yaml")])
    assert f"Warning: {folder}/my_stage.py, line 1: the file is not valid Python: " in result.output
    (check,) = [check for check in check_machine(load_settings(folder / "pipeline.yaml")) if check.subject == "stages"]
    assert not check.is_ok and "not valid Python" in check.message
