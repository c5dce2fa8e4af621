"""The run coordinator: priorities of queued runs, and a queue that survives invalid settings."""

from collections.abc import Mapping
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator.base import SubmitRunContext

from resources.dagster_instance.run_coordinator import TaggingRunCoordinator

SENSOR_TAGS = {"dagster/sensor_name": "reconciliation"}


def queued_priority(tags: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, **run_fields: Any) -> str:
    """The priority of a run without a model stage, after it was queued."""
    monkeypatch.setattr(QueuedRunCoordinator, "submit_run", lambda _, context: context.dagster_run)
    with DagsterInstance.ephemeral() as instance:
        run = instance.run_storage.add_run(DagsterRun(job_name="ingest", tags=dict(tags), **run_fields))
        coordinator = TaggingRunCoordinator()
        coordinator.register_instance(instance)
        coordinator.submit_run(SubmitRunContext(run, None))  # type: ignore[arg-type]
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


def test_queued_runs_wait_for_more_than_a_day_while_the_settings_are_invalid() -> None:
    config = TaggingRunCoordinator().get_run_queue_config()
    assert config.max_user_code_failure_retries * config.user_code_failure_retry_delay > 24 * 3600
