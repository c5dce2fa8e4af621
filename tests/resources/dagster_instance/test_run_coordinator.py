"""The run coordinator: limits by workers and settings, priorities, and a queue that waits and does not fail."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, QueuedRunCoordinator, SubmitRunContext

from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_VARIABLE
from resources.dagster_instance.run_coordinator import TaggingRunCoordinator
from resources.dagster_instance.run_launcher import WorkerRunLauncher
from resources.environment import prepare_data_folder
from resources.errors import PipelineError
from resources.workers.worker_states import WorkerState, write_worker_state

SENSOR_TAGS = {"dagster/sensor_name": "reconciliation"}


def queued_priority(tags: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, **run_fields: Any) -> str:
    """The priority of a run without a model stage, after it was queued."""
    monkeypatch.setattr(QueuedRunCoordinator, "submit_run", lambda _, context: context.dagster_run)
    with DagsterInstance.ephemeral() as instance:
        run = instance.run_storage.add_run(DagsterRun(job_name="ingest", tags=dict(tags), **run_fields))
        workspace: Any = SimpleNamespace(instance=instance)
        TaggingRunCoordinator().submit_run(SubmitRunContext(run, workspace))
        queued_run = instance.get_run_by_id(run.run_id)
        assert queued_run is not None
        return queued_run.tags["dagster/priority"]


def test_runs_of_a_person_have_priority_over_automated_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = {"parent_run_id": "p", "root_run_id": "p"}
    inherited_tags = {**SENSOR_TAGS, "dagster/priority": "10"}
    assert queued_priority({}, monkeypatch) == "30"
    assert queued_priority(SENSOR_TAGS, monkeypatch) == "10"
    assert queued_priority({"dagster/backfill": "b"}, monkeypatch) == "10"
    assert queued_priority({"dagster/priority": "7"}, monkeypatch) == "7"
    assert queued_priority(inherited_tags, monkeypatch, **parent) == "30"  # a person re-executes a sensor's run
    assert queued_priority({**inherited_tags, "dagster/retry_number": "1"}, monkeypatch, **parent) == "10"


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dagster's home in a prepared data folder, with the settings file pipeline.yaml beside it."""
    settings_file = tmp_path / "pipeline.yaml"
    settings_file.write_text(yaml.safe_dump({"queue": {"gpu_runs": 3, "cpu_runs": 5}}))
    monkeypatch.setenv(SETTINGS_VARIABLE, str(settings_file))
    prepare_data_folder(Settings(data_folder=tmp_path / "data"))
    return tmp_path / "data" / "dagster"


def limits(instance: DagsterInstance) -> dict[str, int]:
    """The limits of the tags `gpu` and `cpu`, as Dagster's daemon reads them."""
    config = instance.get_concurrency_config().run_queue_config
    assert config is not None
    return {limit["key"]: limit["limit"] for limit in config.tag_concurrency_limits}


def start_workers(data_folder: Path, queue: str, count: int) -> None:
    for number in range(count):
        name = f"{queue}-{number}"
        state = WorkerState(name, socket.gethostname(), os.getpid(), queue, "", "", time.time())
        write_worker_state(data_folder, state)


def test_dagster_passes_its_options(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        coordinator = instance.run_coordinator
        assert isinstance(coordinator, TaggingRunCoordinator)
        config = coordinator.get_run_queue_config()
        assert config.max_concurrent_runs == -1
        assert coordinator.dequeue_interval_seconds == 1
        # Queued runs wait for more than a day while the code location cannot be loaded.
        assert config.max_user_code_failure_retries * config.user_code_failure_retry_delay > 24 * 3600


def test_runs_wait_for_live_workers_and_the_settings_limit_them(dagster_home: Path) -> None:
    data_folder, settings_file = dagster_home.parent, dagster_home.parents[1] / "pipeline.yaml"
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        assert isinstance(instance.run_launcher, WorkerRunLauncher)
        assert limits(instance) == {"gpu": 0, "cpu": 0}
        start_workers(data_folder, "gpu", 4)
        start_workers(data_folder, "cpu", 1)
        assert limits(instance) == {"gpu": 3, "cpu": 1}
        write_worker_state(
            data_folder, WorkerState("cpu-0", "h", 1, "cpu", "", "", time.time(), problem="another version")
        )
        assert limits(instance) == {"gpu": 3, "cpu": 0}
    settings_file.write_text("{}")
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        assert limits(instance) == {"gpu": 4, "cpu": 0}


def test_without_workers_the_settings_alone_limit_the_runs(dagster_home: Path) -> None:
    config = yaml.safe_load((dagster_home / "dagster.yaml").read_text())
    del config["run_launcher"]  # as in `dagster dev` by hand
    (dagster_home / "dagster.yaml").write_text(yaml.safe_dump(config))
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        assert limits(instance) == {"gpu": 3, "cpu": 5}
    (dagster_home.parents[1] / "pipeline.yaml").write_text("{}")
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        assert limits(instance) == {"gpu": 1, "cpu": 2}


def test_a_start_with_invalid_settings_is_refused(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        (dagster_home.parents[1] / "pipeline.yaml").write_text("queue: {gpu_runs: many}")
        with pytest.raises(PipelineError, match="gpu_runs"):
            instance.run_coordinator.register_instance(instance)
