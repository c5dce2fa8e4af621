"""Dagster's history in SQLite files, by engines that are kept: what other processes write is seen, and told."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance, DagsterRunStatus
from dagster._core.storage.dagster_run import DagsterRun

from resources.home import prepare_data_folder

OTHER = """
import sys
from dagster import AssetMaterialization, DagsterInstance
with DagsterInstance.get() as instance:
    for run_id in sys.argv[1:]:
        run = instance.get_run_by_id(run_id)
        instance.report_engine_event("told by another process", run)
    instance.report_runless_asset_event(AssetMaterialization("tracks", partition="a"))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose DAGSTER_HOME is the environment's."""
    data_folder = tmp_path / "data"
    prepare_data_folder(data_folder)
    monkeypatch.setenv("DAGSTER_HOME", str(data_folder / "dagster"))
    return data_folder


def write_elsewhere(*run_ids: str) -> None:
    """Let another process store an event for each run, and a materialization."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", OTHER, *run_ids], check=True, timeout=60)


def test_what_another_process_stores_is_seen(home: Path) -> None:
    with DagsterInstance.get() as instance, DagsterInstance.get() as second:
        for number in range(6):  # more runs than files are kept in mind
            instance.add_run(DagsterRun("job", run_id=f"run-{number}", status=DagsterRunStatus.STARTED))
        assert len(second.get_runs()) == 6
        before = second.event_log_storage.get_maximum_record_id() or 0
        write_elsewhere(*(f"run-{number}" for number in range(6)))
        for number in range(6):
            (record,) = instance.all_logs(f"run-{number}")
            assert record.dagster_event is not None and record.dagster_event.message == "told by another process"
        assert (second.event_log_storage.get_maximum_record_id() or 0) > before
        latest = second.get_latest_materialization_event(AssetKey("tracks"))
        assert latest is not None and latest.asset_materialization == AssetMaterialization("tracks", partition="a")


def test_who_follows_a_run_is_told_of_what_another_process_stores(home: Path) -> None:
    told, seen = threading.Event(), []
    with DagsterInstance.get() as instance:
        instance.add_run(DagsterRun("job", run_id="followed", status=DagsterRunStatus.STARTED))

        def note(entry: object, cursor: str) -> None:
            seen.append(entry)
            told.set()

        instance.watch_event_logs("followed", None, note)
        write_elsewhere("followed")
        assert told.wait(30)
        instance.end_watch_event_logs("followed", note)
    assert len(seen) == 1


def test_a_runs_events_that_were_removed_leave_the_others_alone(home: Path) -> None:
    with DagsterInstance.get() as instance:
        for run_id in ("kept", "removed"):
            run = instance.add_run(DagsterRun("job", run_id=run_id, status=DagsterRunStatus.SUCCESS))
            instance.report_engine_event("worked", run)
        instance.delete_run("removed")
        assert [run.run_id for run in instance.get_runs()] == ["kept"]
        assert len(instance.all_logs("kept")) == 1
        assert not instance.all_logs("removed")
