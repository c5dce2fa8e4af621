"""The run launcher: queues by tag, cancellation, and the health of started runs."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from resources.config.settings import Settings
from resources.dagster_instance.run_coordinator import HOUSEKEEPING_TAG
from resources.dagster_instance.run_launcher import CPU_TAG, GPU_TAG, WorkerRunLauncher
from resources.environment import prepare_data_folder
from resources.workers.run_queue import open_run_queue
from resources.workers.worker_states import WorkerState, write_worker_state


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """Dagster's instance in a prepared data folder."""
    monkeypatch.setenv("CV_ASSETS_DATA", str(tmp_path / "data"))
    prepare_data_folder(Settings(data_folder=tmp_path / "data"))
    with DagsterInstance.from_config(str(tmp_path / "data" / "dagster")) as instance:
        yield instance


def add_run(instance: DagsterInstance, status: DagsterRunStatus, **tags: str) -> DagsterRun:
    return instance.run_storage.add_run(DagsterRun(job_name="ingest", status=status, tags=tags))


def status_of(instance: DagsterInstance, run: DagsterRun) -> DagsterRunStatus:
    stored_run = instance.get_run_by_id(run.run_id)
    assert stored_run is not None
    return stored_run.status


def worker_of(run: DagsterRun) -> WorkerState:
    return WorkerState("w", socket.gethostname(), os.getpid(), "gpu", "", "v", time.time(), run.run_id)


def test_each_run_goes_to_the_queue_of_its_tag(instance: DagsterInstance, tmp_path: Path) -> None:
    launcher, queue = instance.run_launcher, open_run_queue(tmp_path / "data", {})
    for name, tags in (("gpu", GPU_TAG), ("cpu", CPU_TAG), ("housekeeping", HOUSEKEEPING_TAG)):
        run = add_run(instance, DagsterRunStatus.STARTING, **tags)
        context: Any = SimpleNamespace(dagster_run=run, workspace=None)
        launcher.launch_run(context)
        assert queue.take(name) == run.run_id


def test_a_started_run_is_healthy_while_its_worker_lives(instance: DagsterInstance, tmp_path: Path) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, WorkerRunLauncher)
    assert launcher.supports_check_run_worker_health
    run = add_run(instance, DagsterRunStatus.STARTED)
    lost = launcher.check_run_worker_health(run)
    assert (lost.status.value, "has died" in lost.msg) == ("FAILED", True)
    write_worker_state(tmp_path / "data", worker_of(run))
    assert launcher.check_run_worker_health(run).status.value == "RUNNING"
    write_worker_state(tmp_path / "data", replace(worker_of(run), renewed_at_s=time.time() - 60))
    assert launcher.check_run_worker_health(run).status.value == "FAILED"


def test_a_run_with_a_worker_is_interrupted_by_it_and_others_are_canceled_at_once(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    launcher = instance.run_launcher
    executing, waiting, ended = (
        add_run(instance, status)
        for status in (DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.SUCCESS)
    )
    write_worker_state(tmp_path / "data", worker_of(executing))
    assert [launcher.terminate(run.run_id) for run in (executing, waiting, ended)] == [True, True, False]
    assert status_of(instance, executing) == DagsterRunStatus.CANCELING
    assert status_of(instance, waiting) == DagsterRunStatus.CANCELED
    assert status_of(instance, ended) == DagsterRunStatus.SUCCESS
