"""Retries: how often each recording was attempted, when a failed one is retried, and the attempts of runs that died.

Every attempt is a row of the table stage_runs. The batch loop appends it when the attempt ends; for a run that died
(killed, out of memory, canceled in the queue) `record_dead_runs` appends it, from the run's status and crash marker.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRecord,
    RunsFilter,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.attempt_log import CANCELED_ERROR, attempt_number, requester_of
from cv_assets.batch import STOPPED_TAG, failure_sentence, is_fenced
from cv_assets.crash_marker import delete_crash_marker, marked_run_ids, read_crash_marker
from cv_assets.partitions import recordings_partitions
from cv_assets.recording_status import report_statuses
from resources.dagster_instance.dagster_names import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    UNFINISHED_STATUSES,
)
from resources.errors import PipelineError
from resources.schema.operations_tables import STAGE_RUNS
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs, newest_stage_runs
from sensors.adoption import register_materializations
from sensors.crash_recovery import INTERRUPTED_TAG

RETRY_DELAY_S = 120.0
"""Seconds until work is requested again that was interrupted for a reason that remains until a person acts."""
UNSTARTED_RETRY_DELAY_S = 30.0
"""The same for a run that ended before its first recording, so that one that crashes by itself does not loop."""

UNSTARTED_ERROR = (
    "The run ended without a result: it was canceled, its process was killed, or Dagster's storage was not available."
)

_DEAD_STATUSES = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_CRASH = "(killed, out of memory, or a crash in native code)"


class Attempts(NamedTuple):
    """Attempts at the failed stages of a recording so far.

    Attributes:
        attempt_count: Number of attempts.
        retry_at_s: Time before which the recording is not retried, in seconds since 1970.
        hold_reason: What a person must fix before a retry can succeed; empty if nothing holds the recording.
    """

    attempt_count: int = 0
    retry_at_s: float = 0.0
    hold_reason: str = ""


NO_ATTEMPTS = Attempts()


@functools.cache  # computed again, it would change whenever the clock is adjusted
def process_start_s() -> float:
    """When this process started, in seconds since 1970."""
    return psutil.Process().create_time()


def count_attempts(rows: Iterable[Mapping[str, Any]], started_s: float) -> Attempts:
    """Count the attempts at a recording, and determine when it is retried.

    A person may fix the reason of an interruption while the pipeline is stopped, so after a restart nothing is delayed.

    Args:
        rows: The newest row of `stage_runs` of each failed, interrupted or quarantined stage.
        started_s: When the process started that retries, in seconds since 1970.
    """
    attempts = NO_ATTEMPTS
    for row in rows:
        if row["status"] != "interrupted":
            attempts = attempts._replace(attempt_count=max(attempts.attempt_count, row["attempt"]))
            continue
        attempts = attempts._replace(attempt_count=max(attempts.attempt_count, row["attempt"] - 1))
        ended_s, error = row["finished_at_utc"].timestamp(), row["error"]
        if error is None or ended_s < started_s:
            continue
        delay_s = UNSTARTED_RETRY_DELAY_S if error == UNSTARTED_ERROR else RETRY_DELAY_S
        hold_reason = "" if error in (CANCELED_ERROR, UNSTARTED_ERROR) else error
        attempts = attempts._replace(
            retry_at_s=max(attempts.retry_at_s, ended_s + delay_s), hold_reason=attempts.hold_reason or hold_reason
        )
    return attempts


def recordings_of_run(run: DagsterRun, recording_ids: Sequence[str]) -> list[str]:
    """The recordings that a run contains.

    Args:
        run: The run.
        recording_ids: All recordings in partition order, which a range refers to.
    """
    if single := run.tags.get(PARTITION_NAME_TAG):
        return [single]
    start, end = run.tags.get(ASSET_PARTITION_RANGE_START_TAG), run.tags.get(ASSET_PARTITION_RANGE_END_TAG)
    if start in recording_ids and end in recording_ids:
        return list(recording_ids[recording_ids.index(start) : recording_ids.index(end) + 1])
    return []


def record_dead_runs(
    instance: DagsterInstance, store: Store, graph: AssetGraph, since: datetime | None = None
) -> list[StageRun]:
    """Append the attempts of runs that died to `stage_runs`; a crash at the last allowed attempt is a quarantine.

    Results that such a run stored, but did not report, are registered in Dagster.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph; its settings limit the attempts.
        since: Runs that ended earlier were examined before, unless they have a crash marker; None examines all.

    Returns:
        The rows that were appended.

    Raises:
        PipelineError: The data folder cannot be written.
    """
    recording_ids = instance.get_dynamic_partitions(recordings_partitions.name or "")
    dead_runs = _find_dead_runs(instance, store, recording_ids, since)
    if not dead_runs:
        return []
    rows_by_run, newest = _read_rows(store, dead_runs)
    rows = [
        row for run in dead_runs for row in _rows_of_dead_run(instance, graph, run, rows_by_run[run.run_id], newest)
    ]
    append_stage_runs(store, rows)
    for run in dead_runs:
        stored = {row["recording_id"] for row in rows_by_run[run.run_id] if row["data_version"] is not None}
        if stored and not run.has_reported(instance):
            register_materializations(instance, store, graph, sorted(stored))
    failed_ids = {row.recording_id for row in rows if row.status != "interrupted"}
    report_statuses(instance, store, list(graph.stages), sorted(failed_ids))
    for run in dead_runs:
        if run.has_marker:
            delete_crash_marker(store, run.run_id)
    return rows


@dataclass(frozen=True)
class _DeadRun:
    """A run that failed or was canceled, or one that has a crash marker and is not in Dagster any more.

    Attributes:
        run_id: The run.
        record: Its record in Dagster; None if there is none.
        recording_ids: Its recordings.
        has_marker: Whether its process was killed inside a stage.
        crash: Stage and recording in progress when its process was killed.
        ended_at: When it ended.
    """

    run_id: str
    record: RunRecord | None
    recording_ids: Sequence[str]
    has_marker: bool
    crash: tuple[str, str] | None
    ended_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of the run."""
        return self.record.dagster_run.tags if self.record else {}

    @property
    def is_canceled(self) -> bool:
        """Whether a person canceled it."""
        is_canceled = self.record is not None and self.record.dagster_run.status == DagsterRunStatus.CANCELED
        return is_canceled and INTERRUPTED_TAG not in self.tags

    @property
    def is_stopped(self) -> bool:
        """Whether it ended for a reason unrelated to its recordings: it was canceled, or the pipeline was stopped."""
        return self.record is None or self.is_canceled or STOPPED_TAG in self.tags

    def has_reported(self, instance: DagsterInstance) -> bool:
        """Whether its steps ended by themselves: then they have reported to Dagster what they stored."""
        failures = _step_failures(instance, self.run_id)
        return not self.has_marker and bool(failures) and all(map(failure_sentence, failures))


def _find_dead_runs(
    instance: DagsterInstance, store: Store, recording_ids: Sequence[str], since: datetime | None
) -> list[_DeadRun]:
    marked_ids = marked_run_ids(store)
    records = list(instance.get_run_records(RunsFilter(statuses=_DEAD_STATUSES, updated_after=since)))
    if marked_ids:
        records += instance.get_run_records(RunsFilter(run_ids=marked_ids))
    by_id: dict[str, RunRecord | None] = {record.dagster_run.run_id: record for record in records}
    dead_runs = []
    for run_id, record in (dict.fromkeys(marked_ids) | by_id).items():
        if record is not None and record.dagster_run.status in UNFINISHED_STATUSES:
            continue
        crash, has_marker = read_crash_marker(store, run_id), run_id in marked_ids
        in_run = recordings_of_run(record.dagster_run, recording_ids) if record else [crash[1]] if crash else []
        if record is None:
            dead_runs.append(_DeadRun(run_id, None, in_run, has_marker, crash))
            continue
        ended_at = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
        dead_runs.append(_DeadRun(run_id, record, in_run, has_marker, crash, ended_at))
    return dead_runs


def _read_rows(
    store: Store, dead_runs: Sequence[_DeadRun]
) -> tuple[dict[str, list[dict[str, Any]]], dict[tuple[str, str], dict[str, Any]]]:
    """Read the rows that the runs have, by run, and the newest rows of their recordings, by recording and stage."""
    recording_ids = sorted({recording_id for run in dead_runs for recording_id in run.recording_ids})
    rows_by_run: dict[str, list[dict[str, Any]]] = {run.run_id: [] for run in dead_runs}
    columns = ["recording_id", "stage", "run_id", "data_version"]
    for row in store.read(STAGE_RUNS, recording_ids, columns).to_pylist():
        if row["run_id"] in rows_by_run:
            rows_by_run[row["run_id"]].append(row)
    columns = ["recording_id", "stage", "attempt", "status", "finished_at_utc"]
    newest = newest_stage_runs(store, recording_ids, columns=columns).to_pylist()
    return rows_by_run, {(row["recording_id"], row["stage"]): row for row in newest}


def _rows_of_dead_run(
    instance: DagsterInstance,
    graph: AssetGraph,
    run: _DeadRun,
    own_rows: Sequence[Mapping[str, Any]],
    newest: dict[tuple[str, str], dict[str, Any]],
) -> list[StageRun]:
    """The rows that a dead run lacks; they are also added to `newest`."""
    has_row = {(row["recording_id"], row["stage"]) for row in own_rows}
    rows = []
    for stage, recording_ids, status, error in _ends_of_dead_run(instance, graph, run, {stage for _, stage in has_row}):
        for recording_id in recording_ids:
            previous = newest.get((recording_id, stage))
            is_superseded = previous is not None and previous["finished_at_utc"] >= run.ended_at
            if (recording_id, stage) in has_row or is_superseded:
                continue
            attempt = attempt_number(run.tags, previous)
            row_status, row_error = status, error
            if status == "crashed":
                row_status, row_error = _crash_status(stage, attempt, graph.settings.batches.max_attempts)
            rows.append(
                StageRun(
                    recording_id,
                    stage,
                    attempt,
                    row_status,
                    run.run_id,
                    run.ended_at,
                    requester_of(run.tags),
                    error=row_error,
                )
            )
            newest[recording_id, stage] = {
                "attempt": attempt,
                "status": row_status,
                "finished_at_utc": run.ended_at,
            }
    return rows


def _ends_of_dead_run(
    instance: DagsterInstance, graph: AssetGraph, run: _DeadRun, stages_with_rows: set[str]
) -> list[tuple[str, Sequence[str], str, str | None]]:
    """How the attempts ended that a run did not record: stage, recordings, status (also `crashed`) and error."""
    if run.crash:
        stage, recording_id = run.crash
        error = CANCELED_ERROR if run.is_canceled else None
        return [(stage, [recording_id], "interrupted" if run.is_stopped else "crashed", error)]
    if run.record is None or not run.recording_ids:
        return []
    failures = [
        failure
        for failure in _step_failures(instance, run.run_id)
        if failure.step_key in graph.stages and failure.step_key not in stages_with_rows
    ]
    if failures:
        # The step failed outside the loop over its recordings, or could not store its rows.
        return [(failure.step_key or "", run.recording_ids, *_status_of(failure, run)) for failure in failures]
    if stages_with_rows or run.has_marker:
        return []
    error = None if run.is_stopped and not run.is_canceled else UNSTARTED_ERROR
    return [(_first_stage(run.record.dagster_run, graph), run.recording_ids, "interrupted", error)]


def _crash_status(stage: str, attempt: int, max_attempts: int) -> tuple[str, str]:
    if attempt < max_attempts:
        return "failed", f"The run of the recording crashed in the stage {stage} {_CRASH}."
    at_attempt = f"at attempt {attempt} of {max_attempts}" if max_attempts > 1 else "at its only attempt"
    return (
        "quarantined",
        f"The recording is quarantined: its run crashed {at_attempt} in the stage {stage} {_CRASH}. Materialize it to "
        "try again; the run's log is in the UI.",
    )


def _first_stage(run: DagsterRun, graph: AssetGraph) -> str:
    names = {key.to_user_string() for key in run.asset_selection or ()} or {*graph.assets_of(run.job_name)}
    stages = [stage for stage, asset_names in graph.stages.items() if not names.isdisjoint(asset_names)]
    return stages[0] if stages else next(iter(graph.stages))


def run_failure_sentence(instance: DagsterInstance, run_id: str) -> str | None:
    """Description of the first failure of a run that has one; None if none has."""
    return next(filter(None, map(failure_sentence, _step_failures(instance, run_id))), None)


def _status_of(failure: DagsterEvent, run: _DeadRun) -> tuple[str, str | None]:
    """Status and error of attempts whose step failed, from the step's failure event."""
    if run.is_canceled:
        return "interrupted", CANCELED_ERROR
    if sentence := failure_sentence(failure):
        return "interrupted" if run.is_stopped else "failed", sentence
    error = failure.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    sentence = error.message.strip().splitlines()[0] if error else "no reason given"
    if error is not None and error.cls_name == PipelineError.__name__:
        return "interrupted", sentence.partition(": ")[2]
    if run.is_stopped:
        return "interrupted", None
    return "failed", f"The step {failure.step_key} failed: {sentence}"


def _step_failures(instance: DagsterInstance, run_id: str) -> list[DagsterEvent]:
    """The failures of a run's steps; not those of a step that found out that its run had ended."""
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records
    failures = [record.event_log_entry.dagster_event for record in records]
    return [failure for failure in failures if failure is not None and not is_fenced(failure)]
