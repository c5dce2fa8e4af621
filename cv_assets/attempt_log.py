"""Attempts of a batch: the rows that one run appends to the table stage_runs, when each attempt ends."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dagster import DagsterRun

from cv_assets.data_versions import DataVersions
from cv_assets.recording_status import RecordingStatus
from resources.dagster_instance.dagster_names import BACKFILL_ID_TAG, SCHEDULE_NAME_TAG, SENSOR_NAME_TAG
from resources.storage.delta_store import Store
from resources.storage.stage_runs import (
    StageRun,
    append_stage_runs,
    encode_input_versions,
    later_than,
    newest_stage_runs,
    worker_name,
)
from resources.workers.run_executor import WORKER_RUN_TAG, WORKER_TAG

CANCELED_ERROR = "The run was canceled."
ATTEMPT_TAG = "cv_assets/attempt"
"""Tag of a run that retries: the number of its attempt. A run without it starts again with attempt 1."""
FLUSH_INTERVAL_S = 10.0
_PREVIOUS = ("recording_id", "stage", "attempt", "status", "error", "finished_at_utc", "run_id")


class AttemptLog:
    """Collects the attempts of one stage in one run, and appends them in few commits.

    Args:
        store: The tables.
        stage_name: The stage.
        run: The run.
        recording_ids: The recordings of the run.
        versions: Data versions of the results that the stage stores.

    Attributes:
        rejected: The reason by recording whose file was rejected earlier.
        stages_of_run: Names of this stage and of those that the run has executed before it.
    """

    def __init__(
        self, store: Store, stage_name: str, run: DagsterRun, recording_ids: Sequence[str], versions: DataVersions
    ) -> None:
        self._store, self._stage_name, self._run, self._versions = store, stage_name, run, versions
        rows = newest_stage_runs(store, recording_ids, columns=_PREVIOUS).to_pylist()
        self.rejected: Mapping[str, str] = {
            row["recording_id"]: row["error"] or "" for row in rows if row["status"] == "rejected"
        }
        self._previous: dict[str, dict[str, Any]] = {
            row["recording_id"]: row for row in rows if row["stage"] == stage_name
        }
        self._requested_by = requester_of(run.tags)
        self._started: dict[str, tuple[datetime, float]] = {}
        self._rows: dict[str, dict[str, dict[str, Any]]] = {recording_id: {} for recording_id in recording_ids}
        for row in rows:
            self._rows[row["recording_id"]][row["stage"]] = row
        self.stages_of_run = {stage_name, *(row["stage"] for row in rows if row["run_id"] == run.run_id)}
        self._pending: list[StageRun] = []
        self._stored: list[StageRun] = []
        self._flushed_at_s = time.monotonic()

    def start(self, recording_id: str) -> None:
        """Record the start of an attempt and its commits, which are kept in memory until the attempt ends."""
        self._store.commits.start()
        self._started[recording_id] = datetime.now(UTC), time.monotonic()

    def end(
        self,
        recording_id: str,
        status: str,
        error: str | None = None,
        *,
        has_results: bool = False,
        model_load_count: int | None = None,
    ) -> None:
        """Record the end of an attempt; it is appended with the next flush.

        Args:
            recording_id: The recording.
            status: Status of the attempt, as in the column `status`.
            error: Reason of the status.
            has_results: Whether the stage has stored results.
            model_load_count: How often the process has loaded a model; None for a stage without one.
        """
        started_at, started_s = self._started.pop(recording_id, (None, None))
        previous = self._previous.get(recording_id)
        self._pending.append(
            StageRun(
                recording_id,
                self._stage_name,
                attempt_number(self._run.tags, previous),
                status,
                self._run.run_id,
                later_than(previous["finished_at_utc"] if previous else None),
                self._requested_by,
                error=error,
                data_version=self._versions.version(recording_id) if has_results else None,
                code_version=self._versions.code_version,
                input_versions=encode_input_versions(self._versions.inputs[recording_id]) if has_results else None,
                started_at_utc=started_at,
                elapsed_s=None if started_s is None else round(time.monotonic() - started_s, 3),
                worker=self._run.tags.get(WORKER_TAG) or worker_name(),
                worker_run=int(self._run.tags.get(WORKER_RUN_TAG, 1)),
                model_load_count=model_load_count,
                commits=self._store.commits.stop(),
            )
        )

    def interrupt(self, recording_ids: Sequence[str], error: str | None) -> None:
        """Record that attempts were interrupted or prevented, which does not count as an attempt; see `end`."""
        for recording_id in recording_ids:
            self.end(recording_id, "interrupted", error)

    def flush(self) -> None:
        """Append all attempts that have ended.

        Raises:
            PipelineError: The data folder is full, read-only or not accessible.
        """
        if self._pending:
            self._versions.store_settings(self._store.data_folder, self._stage_name)
        append_stage_runs(self._store, self._pending)
        self._stored += self._pending
        self._pending = []
        self._flushed_at_s = time.monotonic()

    def flush_if_due(self) -> None:
        """Append all attempts that have ended, if the last flush was ten seconds ago; see `flush`."""
        if time.monotonic() - self._flushed_at_s >= FLUSH_INTERVAL_S:
            self.flush()

    def statuses(self) -> dict[str, tuple[RecordingStatus, RecordingStatus]]:
        """Status of each whole recording before and after its attempt, for the attempts that have been appended."""
        changes = {}
        for attempt in self._stored:
            before = self._rows[attempt.recording_id]
            after = {**before, self._stage_name: vars(attempt)}
            changes[attempt.recording_id] = RecordingStatus.of(before.values()), RecordingStatus.of(after.values())
        return changes


def attempt_number(tags: Mapping[str, str], previous: Mapping[str, Any] | None) -> int:
    """Number of a run's attempt at a recording and stage.

    Args:
        tags: Tags of the run.
        previous: The newest row of `stage_runs` of the recording and stage before the run; None if there is none.
    """
    if ATTEMPT_TAG not in tags or previous is None:
        return 1
    number = int(previous["attempt"])
    if previous["status"] in ("failed", "quarantined"):
        return number + 1
    return number if previous["status"] == "interrupted" else 1


def requester_of(tags: Mapping[str, str]) -> str:
    """Who requested a run: the name of a sensor or schedule, `backfill`, or `person`.

    Args:
        tags: Tags of the run.
    """
    name = tags.get(SENSOR_NAME_TAG) or tags.get(SCHEDULE_NAME_TAG)
    return name or ("backfill" if BACKFILL_ID_TAG in tags else "person")
