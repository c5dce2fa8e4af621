"""The state of every recording: missing and failed assets, attempts, and whether an unfinished run contains it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from dagster import DagsterInstance, DagsterRun, RunsFilter

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from resources.dagster_instance.dagster_names import QUEUED_STATUSES, UNFINISHED_STATUSES
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.schema.views import STATUS_SEVERITY
from resources.source_index import SourceIndex
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.stage_runs import newest_stage_runs
from sensors.recomputation import find_recomputed
from sensors.retries import NO_ATTEMPTS, count_attempts, process_start_s, recordings_of_run

_FAILED_STATUSES = ("quarantined", "failed", "interrupted")

# Thousands of recordings are complete, so their rows are counted here and never become Python objects.
_STORED_STAGES_SQL = """
SELECT recording_id, CAST(sum(1 << position) AS BIGINT) AS stored_stages
FROM newest JOIN stages USING (stage)
WHERE status NOT IN ('quarantined', 'failed', 'interrupted') AND data_version IS NOT NULL GROUP BY recording_id
"""
_OTHER_ROWS_SQL = """
SELECT recording_id, stage, attempt, status, error, finished_at_utc
FROM newest JOIN stages USING (stage) WHERE status <> 'ok' ORDER BY recording_id, finished_at_utc DESC, stage
"""
_DURATIONS_SQL = """
SELECT recording_id, coalesce(duration_s_from_content, duration_s_from_header, 0.0) AS duration_s
FROM headers LEFT JOIN contents USING (recording_id)
"""


@dataclass(frozen=True)
class RecordingState:
    """The state of one recording.

    Attributes:
        recording_id: The recording.
        missing: Assets that are not materialized; stale ones, too, where the pipeline recomputes them.
        failed: The missing assets whose last attempt failed or was interrupted.
        attempt_count: Number of attempts at the failed assets.
        retry_at_s: Time before which the recording is not retried, in seconds since 1970.
        is_in_flight: Whether an unfinished run contains the recording.
        is_rejected: Whether its file can never be processed.
        status: Its status, from the newest attempt at every stage; None before the first attempt has ended.
        error: Reason of a status other than ok.
        failed_stage: The stage that failed, was interrupted or quarantined; None with another status.
        hold_reason: What a person must fix before a retry can succeed; empty if nothing holds the recording.
        duration_s: Duration of the recording; 0 while unknown.
        has_unhashed_files: Whether files must be read whole, to compare them with the content of the recording.
    """

    recording_id: str
    missing: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    attempt_count: int = 0
    retry_at_s: float = 0.0
    is_in_flight: bool = False
    is_rejected: bool = False
    status: str | None = None
    error: str | None = None
    failed_stage: str | None = None
    hold_reason: str = ""
    duration_s: float = 0.0
    has_unhashed_files: bool = False

    def is_done(self, max_attempts: int) -> bool:
        """Whether no further run will be requested: complete, rejected, or failed on the last attempt."""
        if self.is_in_flight or (self.has_unhashed_files and not self.has_failed_probe(max_attempts)):
            return False
        return self.is_rejected or not self.missing or (bool(self.failed) and self.attempt_count >= max_attempts)

    def has_failed_probe(self, max_attempts: int) -> bool:
        """Whether the stage that compares files failed on the last attempt, so that they are not compared."""
        return RECORDINGS.name in self.failed and self.attempt_count >= max_attempts


@dataclass(frozen=True)
class RecordingStates:
    """The states of all recordings.

    Attributes:
        states: In partition order.
        queued_run_counts: Number of runs in the queue by job.
    """

    states: Sequence[RecordingState]
    queued_run_counts: Mapping[str, int] = field(default_factory=dict)


def read_unfinished_runs(instance: DagsterInstance) -> Sequence[DagsterRun]:
    """Read the runs that are queued or in progress."""
    return instance.get_runs(RunsFilter(statuses=UNFINISHED_STATUSES))


def read_recording_states(
    instance: DagsterInstance, store: Store, graph: AssetGraph, unfinished_runs: Sequence[DagsterRun] | None = None
) -> RecordingStates:
    """Read the state of every recording; stale assets that the pipeline recomputes count as missing.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
        unfinished_runs: The unfinished runs, if they were read before; None reads them.
    """
    # The runs first: the rows of one that ends meanwhile are complete, and its recordings count as in flight.
    runs = read_unfinished_runs(instance) if unfinished_runs is None else unfinished_runs
    recording_ids = list(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    in_flight = {recording_id for run in runs for recording_id in recordings_of_run(run, recording_ids)}
    queued_run_counts: dict[str, int] = {}
    for run in runs:
        if run.status in QUEUED_STATUSES:
            queued_run_counts[run.job_name] = queued_run_counts.get(run.job_name, 0) + 1
    stages = list(graph.stages)
    stored_stages, other_rows = _read_stage_rows(store, stages)
    stale = find_recomputed(store, graph, recording_ids)
    durations_s, started_s = _read_durations(store), process_start_s()
    unhashed = SourceIndex(store).unhashed_recordings()
    missing_assets: dict[int, frozenset[str]] = {}
    states = []
    for recording_id in recording_ids:
        stored, rows = stored_stages.get(recording_id, 0), other_rows.get(recording_id, ())
        if stored not in missing_assets:
            lacking = (stage for position, stage in enumerate(stages) if not stored >> position & 1)
            missing_assets[stored] = frozenset(name for stage in lacking for name in graph.stages[stage])
        missing = missing_assets[stored]
        # As the view recording_status has it: of equally severe stages the newest.
        worst = min(rows, key=lambda row: STATUS_SEVERITY.index(row["status"]), default=None)
        failed_rows = [row for row in rows if row["status"] in _FAILED_STATUSES]
        attempts = count_attempts(failed_rows, started_s) if failed_rows else NO_ATTEMPTS
        states.append(
            RecordingState(
                recording_id,
                missing=missing | stale[recording_id] if recording_id in stale else missing,
                failed=frozenset(name for row in failed_rows for name in graph.stages[row["stage"]]),
                attempt_count=attempts.attempt_count,
                retry_at_s=attempts.retry_at_s,
                is_in_flight=recording_id in in_flight,
                is_rejected=worst is not None and worst["status"] == "rejected",
                status=worst["status"] if worst else "ok" if stored else None,
                error=worst["error"] if worst else None,
                failed_stage=worst["stage"] if worst and worst["status"] in _FAILED_STATUSES else None,
                hold_reason=attempts.hold_reason,
                duration_s=durations_s.get(recording_id, 0.0),
                has_unhashed_files=recording_id in unhashed,
            )
        )
    return RecordingStates(states, queued_run_counts)


def change_token(instance: DagsterInstance, store: Store) -> str:
    """Cheap fingerprint of run and table state: sensors skip while it is unchanged.

    Events inside a run do not change it before the run ends: until then its recordings are in flight. It differs in
    every process, so that each start checks again.
    """
    unfinished = sorted(instance.get_run_ids(RunsFilter(statuses=UNFINISHED_STATUSES)))
    newest_partition = instance.get_paginated_dynamic_partitions(
        recordings_partitions.name or "", limit=1, ascending=False
    )
    parts: list[object] = [process_start_s(), newest_partition.results, unfinished]
    if unfinished:
        parts.append(sorted(instance.get_run_ids(RunsFilter(statuses=QUEUED_STATUSES))))
    else:
        newest_runs = instance.get_run_records(limit=1, order_by="update_timestamp")
        parts.append([(record.dagster_run.run_id, record.update_timestamp) for record in newest_runs])
        parts.append(sorted(store.commit_times()))
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _read_stage_rows(store: Store, stages: Sequence[str]) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]]]:
    """Read the newest row of every stage.

    Returns:
        By recording, the stages with stored results as bits (the first stage is bit 0), and the rows whose status is
        not ok, newest first.
    """
    columns = ("recording_id", "stage", "attempt", "status", "error", "data_version", "finished_at_utc")
    tables = {
        "newest": newest_stage_runs(store, columns=columns),
        "stages": pa.table({"stage": list(stages), "position": list(range(len(stages)))}),
    }
    stored = select(_STORED_STAGES_SQL, tables)
    stored_stages = dict(zip(stored["recording_id"].to_pylist(), stored["stored_stages"].to_pylist(), strict=True))
    other_rows: dict[str, list[dict[str, Any]]] = {}
    for row in select(_OTHER_ROWS_SQL, tables).to_pylist():
        other_rows.setdefault(row["recording_id"], []).append(row)
    return stored_stages, other_rows


def _read_durations(store: Store) -> dict[str, float]:
    tables = {
        "headers": store.read(RECORDINGS, columns=["recording_id", "duration_s_from_header"]),
        "contents": store.read(RECORDING_CONTENTS, columns=["recording_id", "duration_s_from_content"]),
    }
    rows = select(_DURATIONS_SQL, tables)
    return dict(zip(rows["recording_id"].to_pylist(), rows["duration_s"].to_pylist(), strict=True))
