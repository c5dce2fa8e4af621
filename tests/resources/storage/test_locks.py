"""Locks on a data folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.errors import PipelineError
from resources.storage.locks import data_folder_lock, exclusive_lock


@pytest.mark.parametrize("name", ["pipeline", "publish"])
def test_a_lock_file_that_is_a_link_is_refused_and_its_target_keeps_its_content(tmp_path: Path, name: str) -> None:
    target, lock_file = tmp_path / "target.txt", tmp_path / f".{name}.lock"
    target.write_text("content")
    lock_file.symlink_to(target)
    lock = data_folder_lock(tmp_path) if name == "pipeline" else exclusive_lock(tmp_path, name)
    with pytest.raises(PipelineError, match=rf"^The lock file {lock_file} is a symbolic link: remove it"), lock:
        pass
    assert target.read_text() == "content"


def test_a_second_pipeline_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    with (
        data_folder_lock(tmp_path),
        pytest.raises(PipelineError, match=rf"another pipeline \(process {os.getpid()}\)"),
        data_folder_lock(tmp_path),
    ):
        pass
    with data_folder_lock(tmp_path):  # the lock is released at the end of the block
        pass


def test_pipelines_on_different_data_folders_do_not_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with data_folder_lock(tmp_path / "a"), data_folder_lock(tmp_path / "b"):
        pass


def test_a_killed_pipeline_releases_its_data_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from resources.storage.locks import data_folder_lock\n"
        "with data_folder_lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(PipelineError, match=str(holder.pid)), data_folder_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with data_folder_lock(tmp_path):
        pass
