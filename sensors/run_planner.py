"""The run planner: decides which runs to request so that every recording becomes complete."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dagster import AssetKey, DagsterInstance, RunRequest

from cv_assets.asset_graph import AssetGraph
from cv_assets.attempt_log import ATTEMPT_TAG
from cv_assets.camera_settings import cameras_of
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.stage_asset import ANALYSIS, INGEST
from resources.dagster_instance.dagster_names import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from resources.schema.recording_tables import RECORDINGS
from resources.storage.delta_store import Store
from sensors.recording_states import RecordingState, RecordingStates

TICK_INTERVAL_S = 3
"""Least time between two ticks of the sensors that request runs.

Dagster looks every 5 s which sensors are due, so they tick every 5 s. With 5 s here, a tick would be left out whenever
the one before began a moment late.
"""
_MAX_QUEUED_RUNS = {INGEST: 2, ANALYSIS: 1}


@dataclass(frozen=True)
class PlannedRun:
    """A run to request.

    Attributes:
        job_name: The job.
        asset_names: The assets to materialize.
        recording_ids: Recordings that are consecutive in partition order.
        attempt: Number of the attempt, starting at 1.
    """

    job_name: str
    asset_names: tuple[str, ...]
    recording_ids: tuple[str, ...]
    attempt: int = 1

    @property
    def tags(self) -> dict[str, str]:
        """The run's tags: its partition or partition range, and from the second attempt on its number."""
        partition_tags = (
            {PARTITION_NAME_TAG: self.recording_ids[0]}
            if len(self.recording_ids) == 1
            else {
                ASSET_PARTITION_RANGE_START_TAG: self.recording_ids[0],
                ASSET_PARTITION_RANGE_END_TAG: self.recording_ids[-1],
            }
        )
        return partition_tags | ({ATTEMPT_TAG: str(self.attempt)} if self.attempt > 1 else {})


def exclude_assets(states: RecordingStates, asset_names: set[str]) -> RecordingStates:
    """Remove assets that cannot be materialized now from the missing and failed assets of every recording."""
    if not asset_names:
        return states
    return replace(
        states,
        states=[
            replace(state, missing=state.missing - asset_names, failed=state.failed - asset_names)
            for state in states.states
        ],
    )


def select_recordings(states: RecordingStates, recording_ids: Collection[str]) -> RecordingStates:
    """Keep the work of some recordings only; the others stay, so that batches remain consecutive in partition order."""
    nothing = frozenset[str]()
    return replace(
        states,
        states=[
            state
            if state.recording_id in recording_ids
            else replace(state, missing=nothing, failed=nothing, has_unhashed_files=False)
            for state in states.states
        ],
    )


def plan_runs(states: RecordingStates, graph: AssetGraph, now: float | None = None) -> list[PlannedRun]:
    """Plan the runs that complete the recordings, ingest before analysis.

    A run contains consecutive recordings that lack the same assets, up to the limits of a batch. A failed recording is
    retried in a run of its own. While enough runs of a job are queued no more are planned, so that a backlog is
    processed in full batches.

    Args:
        states: The states of all recordings.
        graph: The asset graph; its settings limit batches and attempts.
        now: Seconds since 1970; None means the current time.
    """
    now = time.time() if now is None else now
    batches = graph.settings.batches
    planned: list[PlannedRun] = []
    batch: list[RecordingState] = []
    batch_selection: tuple[str, tuple[str, ...]] | None = None

    def close_batch() -> None:
        nonlocal batch
        if batch_selection and batch:
            attempt = batch[0].attempt_count + 1 if batch[0].failed else 1
            planned.append(PlannedRun(*batch_selection, tuple(state.recording_id for state in batch), attempt))
        batch = []

    for state in states.states:
        is_excluded = state.is_done(batches.max_attempts) or state.retry_at_s > now
        selection = None if is_excluded else _missing_selection(state, graph)
        footage_minutes = sum(s.duration_s for s in [*batch, state]) / 60
        is_retry = bool(state.failed) and state.attempt_count > 0
        if (
            selection != batch_selection
            or is_retry
            or len(batch) >= batches.max_recordings
            or (batch and footage_minutes > batches.max_footage_minutes)
        ):
            close_batch()
        batch_selection = selection
        if selection is not None:
            batch.append(state)
            if is_retry:
                close_batch()
                batch_selection = None
    close_batch()
    return _limit_queue(planned, states)


def request_runs(
    instance: DagsterInstance, store: Store, graph: AssetGraph, planned: Sequence[PlannedRun]
) -> list[RunRequest]:
    """Build the requests for planned runs.

    The settings of the recordings' cameras are recorded first, so that the runs have read them in Dagster's eyes.
    """
    recording_ids = [recording_id for run in planned for recording_id in run.recording_ids]
    if recording_ids:
        graph.observer.record(instance, graph.observer.aspects, cameras_of(store, recording_ids))
    return [run_request(run) for run in planned]


def run_request(run: PlannedRun) -> RunRequest:
    """Build the request for a planned run: exactly its assets and its recordings."""
    return RunRequest(
        job_name=run.job_name,
        asset_selection=[AssetKey(name) for name in run.asset_names],
        tags=run.tags,
        partition_key=run.recording_ids[0] if len(run.recording_ids) == 1 else None,
    )


def _limit_queue(planned: list[PlannedRun], states: RecordingStates) -> list[PlannedRun]:
    """The planned runs for which the queue has room, ingest first, then first attempts."""
    room = {job: limit - states.queued_run_counts.get(job, 0) for job, limit in _MAX_QUEUED_RUNS.items()}
    requested = []
    for run in sorted(planned, key=lambda run: (run.job_name != INGEST, run.attempt)):
        if room[run.job_name] > 0:
            room[run.job_name] -= 1
            requested.append(run)
    return requested


def _missing_selection(state: RecordingState, graph: AssetGraph) -> tuple[str, tuple[str, ...]] | None:
    """The job and its assets that a recording lacks, ingest first; None if no asset is missing or it is in flight."""
    if state.is_in_flight:
        return None
    if state.has_unhashed_files and not {RECORDINGS.name, NORMALIZED_VIDEO} <= state.missing:
        return INGEST, graph.stages[RECORDINGS.name]  # what depends on the row stays valid: it keeps its content
    for job_name in (INGEST, ANALYSIS):
        missing = state.missing & set(graph.assets_of(job_name))
        if missing:
            return job_name, graph.with_downstream(missing, job_name)
    return None
