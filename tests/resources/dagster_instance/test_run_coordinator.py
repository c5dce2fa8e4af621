"""The run coordinator: limits from the settings, priorities of queued runs, and a queue that waits, not fails."""

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
from resources.environment import prepare_data_folder
from resources.errors import PipelineError

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


def test_dagster_passes_its_options_and_the_limits_are_those_of_the_settings(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        coordinator = instance.run_coordinator
        assert isinstance(coordinator, TaggingRunCoordinator)
        config = coordinator.get_run_queue_config()
        assert config.tag_concurrency_limits == [
            {"key": "gpu", "value": "true", "limit": 3},
            {"key": "cpu", "value": "true", "limit": 5},
        ]
        assert config.max_concurrent_runs == -1
        assert coordinator.dequeue_interval_seconds == 2
        # Queued runs wait for more than a day while the code location cannot be loaded.
        assert config.max_user_code_failure_retries * config.user_code_failure_retry_delay > 24 * 3600


def test_a_start_with_invalid_settings_is_refused(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        (dagster_home.parents[1] / "pipeline.yaml").write_text("queue: {gpu_runs: many}")
        with pytest.raises(PipelineError, match="gpu_runs"):
            instance.run_coordinator.register_instance(instance)
