"""Results are on the disk before their row is in stage_runs, and the row before anything that follows."""

import errno
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage import durability
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs
from tests.builders.class_minutes import class_minutes

ATTEMPT = StageRun("a", "summaries", 1, "ok", "run", datetime(2026, 3, 1, tzinfo=UTC), "person", data_version="d")


def test_the_disk_is_synced_before_and_after_attempts_are_appended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_counts: list[tuple[int, int]] = []

    def sync() -> None:
        row_counts.append((store.row_count(CLASS_MINUTES), store.row_count(STAGE_RUNS)))

    monkeypatch.setattr(store, "sync", sync)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    append_stage_runs(store, [])
    assert row_counts == []  # nothing to append costs nothing
    append_stage_runs(store, [ATTEMPT])
    assert row_counts == [(3, 0), (3, 1)]


_COMMIT = """
import sys
from pathlib import Path
from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage.delta_store import Store
from resources.storage.stage_runs import append_stage_runs
from tests.builders.class_minutes import class_minutes
from tests.resources.storage.test_durability import ATTEMPT
store = Store(Path(sys.argv[1]))
for name in ("a", "b"):
    store.replace(CLASS_MINUTES, [name], class_minutes(name, 3))
    append_stage_runs(store, [ATTEMPT])
"""


@pytest.mark.slow
def test_system_calls_sync_the_disk_between_results_and_attempts(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace here: the order of system calls is not shown, only that of the calls in Python")
    log = tmp_path / "strace.log"
    command = ["strace", "-f", "-qq", "-y", "-e", "trace=syncfs,openat,link,linkat,rename,renameat,renameat2", "-o"]
    traced = subprocess.run(
        [*command, str(log), sys.executable, "-c", _COMMIT, str(tmp_path / "data")],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    if "PTRACE" in traced.stderr:
        pytest.skip("strace may not trace processes here")
    assert traced.returncode == 0, traced.stderr
    calls = []
    for line in log.read_text().splitlines():
        commit = re.search(r"(class_minutes|stage_runs)/_delta_log/0{19}[1-9]\.json\"", line)
        if "syncfs(" in line and " resumed" not in line:
            calls.append("sync")
        elif commit and ("openat(" not in line or "O_CREAT" in line) and "ENOENT" not in line:
            calls.append(commit[1])
    once = [call for call, previous in zip(calls, [None, *calls], strict=False) if call != previous]
    assert once == ["class_minutes", "sync", "stage_runs", "sync"] * 2


def test_without_syncfs_every_new_file_and_folder_is_synced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durability, "_sync_file_system", lambda folder: False)
    monkeypatch.setattr(durability, "sync_path", synced.append)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    store.sync()
    log = store.tables_folder / CLASS_MINUTES.name / "_delta_log"
    expected = {*map(Path, store.files(CLASS_MINUTES)), log / f"{1:020}.json", log, log.parent}
    assert expected <= set(synced)
    for file in log.parent.rglob("*"):
        os.utime(file, (1, 1))
    synced.clear()
    store.sync()
    assert not set(map(Path, store.files(CLASS_MINUTES))) & set(synced)


def test_a_disk_that_accepts_no_data_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durability, "_sync_file_system", lambda folder: False)
    monkeypatch.setattr(durability, "sync_path", fail)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    with pytest.raises(PipelineError, match=r"does not store what is written to it \(Input/output error\): check"):
        append_stage_runs(store, [ATTEMPT])
    assert store.row_count(STAGE_RUNS) == 0
