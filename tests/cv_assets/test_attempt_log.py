"""The rows that a batch appends to stage_runs: numbers of attempts, interruptions and the order of rows."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRun

from cv_assets import attempt_log
from cv_assets.attempt_log import ATTEMPT_TAG, AttemptLog, requester_of
from cv_assets.data_versions import DataVersions, combine_versions
from resources.config.stage_version import StageVersion
from resources.schema.operations_tables import STAGE_RUNS
from resources.storage import stage_runs
from resources.storage.delta_store import Store
from resources.storage.stage_runs import newest_stage_runs

VERSIONS = DataVersions(StageVersion("tracks 1", {}), {"a-1": {"detections": "d1"}, "b-2": {"detections": "d1"}}, {})
RETRY = {ATTEMPT_TAG: "2"}


def new_log(store: Store, tags: Mapping[str, str] | None = None) -> AttemptLog:
    """The log of a new run of the stage `tracks`."""
    run = DagsterRun(job_name="analysis", tags=dict(tags or {}))
    return AttemptLog(store, "tracks", run, list(VERSIONS.inputs), VERSIONS)


def newest(store: Store) -> dict[str, dict[str, Any]]:
    """The newest row by recording."""
    return {row["recording_id"]: row for row in newest_stage_runs(store).to_pylist()}


def end(store: Store, status: str, tags: Mapping[str, str] | None = None, **values: Any) -> dict[str, Any]:
    """End an attempt at recording a-1 in a new run, and return its row."""
    log = new_log(store, tags)
    log.start("a-1")
    log.end("a-1", status, **values)
    log.flush()
    return newest(store)["a-1"]


def test_a_success_stores_its_versions_and_a_failure_its_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    row = end(store, "ok", has_results=True)
    assert row["data_version"] == combine_versions("tracks 1", {"detections": "d1"})
    assert (row["code_version"], row["input_versions"]) == ("tracks 1", '{"detections": "d1"}')
    row = end(store, "failed", error="No frames.")
    assert (row["status"], row["error"], row["data_version"]) == ("failed", "No frames.", None)
    (stored,) = newest_stage_runs(store, only_materialized=True).to_pylist()
    assert stored["status"] == "ok"  # its results are still in the tables


def test_failures_count_only_in_retries_and_interruptions_never(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert end(store, "failed", error="first")["attempt"] == 1
    assert end(store, "interrupted", RETRY)["attempt"] == 2
    assert end(store, "failed", RETRY, error="second")["attempt"] == 2
    assert end(store, "failed", error="by a person")["attempt"] == 1
    assert end(store, "ok", RETRY, has_results=True)["attempt"] == 2
    assert end(store, "failed", RETRY, error="after a success")["attempt"] == 1


def test_the_newest_row_wins_although_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first = end(store, "failed", error="before")
    past = datetime.now(UTC) - timedelta(days=1)

    class ClockSetBack(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "ClockSetBack":
            return cls.fromtimestamp(past.timestamp(), tz)

    monkeypatch.setattr(stage_runs, "datetime", ClockSetBack)
    row = end(store, "ok", has_results=True)
    assert row["status"] == "ok"
    assert row["finished_at_utc"] > first["finished_at_utc"]


def test_a_batch_appends_its_rows_in_one_commit_unless_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    log = new_log(store)
    for recording_id in VERSIONS.inputs:
        log.start(recording_id)
        log.end(recording_id, "ok", has_results=True)
        log.flush_if_due()
    assert store.row_count(STAGE_RUNS) == 0
    monkeypatch.setattr(attempt_log, "FLUSH_INTERVAL_S", 0.0)
    log.flush_if_due()
    log.flush()
    assert (store.row_count(STAGE_RUNS), len(store.files(STAGE_RUNS))) == (2, 1)


def test_the_requester_is_a_sensor_a_schedule_a_backfill_or_a_person() -> None:
    assert requester_of({"dagster/sensor_name": "reconciliation"}) == "reconciliation"
    assert requester_of({"dagster/schedule_name": "nightly"}) == "nightly"
    assert requester_of({"dagster/backfill": "abc"}) == "backfill"
    assert requester_of({}) == "person"
