"""Retries: how often each recording was attempted, and when a failed one is retried."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dagster import AssetKey, DagsterEvent, DagsterEventType, DagsterInstance, RunsFilter

from cv_assets.asset_graph import AssetGraph
from cv_assets.batch import ATTEMPT_TAG, STOPPED_TAG, failed_recordings, failure_sentence
from cv_assets.crash_marker import read_crash_marker
from resources.storage.delta_store import Store

STOPPED_RETRY_AFTER_S = 120.0
UNSTARTED_RETRY_AFTER_S = 30.0


@dataclass(frozen=True)
class AssetStatus:
    """Partition status of one asset.

    Attributes:
        materialized: Recordings of which the asset is materialized.
        failed: Recordings whose last attempt at the asset failed.
    """

    materialized: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


class Attempts(NamedTuple):
    """Attempts at a recording so far; `max` selects the asset of a recording that decides its retry.

    Attributes:
        attempt_count: Number of attempts.
        retry_at_s: Time before which the recording is not retried, in seconds since 1970.
        hold_reason: What a person must fix before a retry can succeed; empty if nothing holds the recording.
    """

    attempt_count: int = 0
    retry_at_s: float = 0.0
    hold_reason: str = ""


NO_ATTEMPTS = Attempts()


def count_attempts(
    instance: DagsterInstance, store: Store, graph: AssetGraph, statuses: Mapping[str, AssetStatus]
) -> dict[str, Attempts]:
    """Count the attempts at each recording with a failed asset.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
        statuses: Partition status by asset.
    """
    attempts: dict[str, Attempts] = {}
    failed_runs: dict[str, _FailedRun] = {}
    for name, status in statuses.items():
        if not status.failed:
            continue
        last_attempts = (
            instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
                AssetKey(name)
            )
        )
        for recording_id in status.failed:
            run_id = last_attempts.get(recording_id, ("", 0))[0]
            if run_id not in failed_runs:
                failed_runs[run_id] = _FailedRun.read(instance, store, run_id)
            run = failed_runs[run_id]
            if run.is_resolved(recording_id, statuses, graph.last_of_stage):
                continue
            attempts[recording_id] = max(attempts.get(recording_id, NO_ATTEMPTS), run.attempts_at(recording_id))
    return attempts


@dataclass(frozen=True)
class _FailedRun:
    """A run that did not complete its recordings.

    Attributes:
        attempt: Number of the attempt, starting at 1.
        retry_at_s: Time before which its recordings are not retried, in seconds since 1970.
        is_attempt: Whether it counts as an attempt; False if the pipeline was stopped or a person must act.
        failed: The recordings that failed, or the one in progress when the run crashed; the run counts as no attempt
            at the others of its batch. None if they are unknown; the run then counts for all.
        stages: The stages that failed or crashed; empty if they are unknown.
        hold_reason: What a person must fix before a retry can succeed.
    """

    attempt: int = 1
    retry_at_s: float = 0.0
    is_attempt: bool = True
    failed: frozenset[str] | None = None
    stages: frozenset[str] = frozenset()
    hold_reason: str = ""

    @classmethod
    def read(cls, instance: DagsterInstance, store: Store, run_id: str) -> "_FailedRun":
        """Read from a run's tags, crash marker and events why it failed."""
        records = instance.get_run_records(RunsFilter(run_ids=[run_id])) if run_id else []
        if not records:
            return cls()
        run, ended_at_s = records[0].dagster_run, records[0].end_time or 0.0
        attempt = int(run.tags.get(ATTEMPT_TAG, "1"))
        if stopped := run.tags.get(STOPPED_TAG):
            # A person must act (weights, disk), or the machine lost power. While the same pipeline runs, the retry is
            # delayed, because an immediate one would fail too; after a restart it is not.
            if stopped != "true":
                return cls(attempt, is_attempt=False)
            hold_reason = run_failure_sentence(instance, run_id) or ""
            return cls(attempt, ended_at_s + STOPPED_RETRY_AFTER_S, is_attempt=False, hold_reason=hold_reason)
        if crash := read_crash_marker(store, run_id):
            stage, recording_id = crash
            return cls(attempt, failed=frozenset({recording_id}), stages=frozenset({stage}))
        failures = _step_failures(instance, run_id)
        if not failures:
            # Killed before its first recording. The delay keeps a run that crashes by itself from restarting at once.
            return cls(attempt, ended_at_s + UNSTARTED_RETRY_AFTER_S, is_attempt=False)
        failed_by_step = [failed_recordings(event) for event in failures]
        failed = None if None in failed_by_step else frozenset().union(*filter(None, failed_by_step))
        stages = {event.step_key for event in failures}
        return cls(attempt, failed=failed, stages=frozenset(filter(None, stages)))

    def is_resolved(
        self, recording_id: str, statuses: Mapping[str, AssetStatus], last_of_stage: Mapping[str, str]
    ) -> bool:
        """Whether the failed stages have been materialized since, for instance by a person who materialized only them.

        Dagster keeps counting the assets downstream of them as failed, although they were never attempted.
        """
        assets = {last_of_stage.get(stage) for stage in self.stages}
        return bool(assets) and not any(
            recording_id in status.failed for name, status in statuses.items() if name in assets
        )

    def attempts_at(self, recording_id: str) -> Attempts:
        """Count the attempts at a recording up to this run."""
        is_attempt = self.is_attempt and (self.failed is None or recording_id in self.failed)
        return Attempts(self.attempt if is_attempt else self.attempt - 1, self.retry_at_s, self.hold_reason)


def run_failure_sentence(instance: DagsterInstance, run_id: str) -> str | None:
    """Description of the first failure of a run that has one; None if none has."""
    return next(filter(None, map(failure_sentence, _step_failures(instance, run_id))), None)


def _step_failures(instance: DagsterInstance, run_id: str) -> list[DagsterEvent]:
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records
    return [record.event_log_entry.get_dagster_event() for record in records]
