"""Dagster's storage in SQLite files with reused engines: events that other processes write are read and followed."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance, DagsterRunStatus
from dagster._core.storage.dagster_run import DagsterRun

from resources.environment import prepare_data_folder

pytestmark = pytest.mark.slow

OTHER_PROCESS = """
import sys
from dagster import AssetMaterialization, DagsterInstance
with DagsterInstance.get() as instance:
    for run_id in sys.argv[1:]:
        run = instance.get_run_by_id(run_id)
        instance.report_engine_event("written by another process", run)
    instance.report_runless_asset_event(AssetMaterialization("tracks", partition="a"))
"""


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder; DAGSTER_HOME is set to the Dagster home in it."""
    folder = tmp_path / "data"
    prepare_data_folder(folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    return folder


def write_in_other_process(*run_ids: str) -> None:
    """Store an event for each run, and a materialization, in another process."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", OTHER_PROCESS, *run_ids], check=True, timeout=60)


@pytest.mark.usefixtures("data_folder")
def test_events_of_another_process_are_read() -> None:
    with DagsterInstance.get() as instance, DagsterInstance.get() as second:
        for number in range(6):  # more runs than engines are cached
            instance.add_run(DagsterRun("job", run_id=f"run-{number}", status=DagsterRunStatus.STARTED))
        assert len(second.get_runs()) == 6
        max_id_before = second.event_log_storage.get_maximum_record_id() or 0
        write_in_other_process(*(f"run-{number}" for number in range(6)))
        for number in range(6):
            (record,) = instance.all_logs(f"run-{number}")
            assert record.dagster_event is not None and record.dagster_event.message == "written by another process"
        assert (second.event_log_storage.get_maximum_record_id() or 0) > max_id_before
        latest = second.get_latest_materialization_event(AssetKey("tracks"))
        assert latest is not None and latest.asset_materialization == AssetMaterialization("tracks", partition="a")


@pytest.mark.usefixtures("data_folder")
def test_a_watcher_of_a_run_is_notified_of_events_of_another_process() -> None:
    is_notified, entries = threading.Event(), []
    with DagsterInstance.get() as instance:
        instance.add_run(DagsterRun("job", run_id="watched", status=DagsterRunStatus.STARTED))

        def collect(entry: object, cursor: str) -> None:
            entries.append(entry)
            is_notified.set()

        instance.watch_event_logs("watched", None, collect)
        write_in_other_process("watched")
        assert is_notified.wait(30)
        instance.end_watch_event_logs("watched", collect)
    assert len(entries) == 1


@pytest.mark.usefixtures("data_folder")
def test_deleting_a_run_leaves_the_events_of_other_runs() -> None:
    with DagsterInstance.get() as instance:
        for run_id in ("other", "deleted"):
            run = instance.add_run(DagsterRun("job", run_id=run_id, status=DagsterRunStatus.SUCCESS))
            instance.report_engine_event("worked", run)
        instance.delete_run("deleted")
        assert [run.run_id for run in instance.get_runs()] == ["other"]
        assert len(instance.all_logs("other")) == 1
        assert not instance.all_logs("deleted")
