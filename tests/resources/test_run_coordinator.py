from collections.abc import Mapping
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator.base import SubmitRunContext

from resources.run_coordinator import TaggingRunCoordinator

BY_SENSOR = {"dagster/sensor_name": "reconciliation"}


def priority_of(tags: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, **of_run: Any) -> str:
    """The priority of a run without a model stage, once it has been queued."""
    monkeypatch.setattr(QueuedRunCoordinator, "submit_run", lambda _, context: context.dagster_run)
    with DagsterInstance.ephemeral() as instance:
        run = instance.run_storage.add_run(DagsterRun(job_name="ingest", tags=dict(tags), **of_run))
        coordinator = TaggingRunCoordinator()
        coordinator.register_instance(instance)
        coordinator.submit_run(SubmitRunContext(run, None))  # type: ignore[arg-type]
        queued = instance.get_run_by_id(run.run_id)
        assert queued is not None
        return queued.tags["dagster/priority"]


def test_a_person_goes_ahead_of_what_machinery_has_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = {"parent_run_id": "p", "root_run_id": "p"}
    inherited = {**BY_SENSOR, "dagster/priority": "10"}
    assert priority_of({}, monkeypatch) == "30"
    assert priority_of(BY_SENSOR, monkeypatch) == "10"
    assert priority_of({"dagster/backfill": "b"}, monkeypatch) == "10"
    assert priority_of({"dagster/priority": "7"}, monkeypatch) == "7"
    assert priority_of(inherited, monkeypatch, **parent) == "30"  # a person's re-execution of a sensor's run
    assert priority_of({**inherited, "dagster/retry_number": "1"}, monkeypatch, **parent) == "10"


def test_settings_that_cannot_be_read_fail_nothing_that_waits() -> None:
    found = TaggingRunCoordinator().get_run_queue_config()
    assert found.max_user_code_failure_retries * found.user_code_failure_retry_delay > 24 * 3600
