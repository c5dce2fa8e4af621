"""Sensor that requests the runs of the run planner."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    ResourceParam,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import cameras_of
from cv_assets.partitions import recordings_partitions
from cv_assets.stage_asset import ANALYSIS
from resources.dagster_instance.dagster_names import QUEUED_STATUSES
from resources.dagster_instance.run_launcher import CPU_TAG, GPU_TAG, WorkerRunLauncher
from resources.errors import PipelineError
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder
from resources.storage.results_database import publish
from resources.storage.stage_runs import StageRun, append_stage_runs, later_than, newest_stage_runs
from resources.workers.run_queue import CPU_QUEUE, GPU_QUEUE
from resources.workers.worker_states import describe_missing_workers
from sensors.asset_needs import find_unmet_needs
from sensors.recording_states import RecordingStates, change_token, read_recording_states, read_unfinished_runs
from sensors.retention import remove_replaced_recordings
from sensors.retries import process_start_s, record_dead_runs
from sensors.run_planner import TICK_INTERVAL_S, PlannedRun, exclude_assets, plan_runs, request_runs

_NAME = "reconciliation"
_RECHECK_AFTER_S = 600.0
_EARLY_RECHECK_AFTER_S = 15.0  # after a check that requested runs or found work on hold, which a person may fix
_PAUSE_PER_CHECK_S = 4  # times the last check's duration: thousands of recordings must not keep a core busy
_GRACE_S = 30.0  # the watched-folder sensor requests the first runs of the recordings that it adds
_CLOCK_MARGIN_S = 10.0  # a run's end may be stored some seconds after its time
_SETTINGS_PER_TICK, _SETTINGS_PER_READ = 200, 100


@dataclass(frozen=True)
class _Cursor:
    """What the sensor remembers from one tick to the next; all times in seconds since 1970.

    Attributes:
        token: The change token when the last check of all recordings began.
        sentence: What that check found.
        checked_at_s: When it ended.
        recheck_at_s: When to check again without a change: a retry is due, or a person may have ended a hold.
        paused_until_s: Time before which there is no other check.
        examined_until_s: Runs that ended before this time and died are recorded.
        process_started_s: When the process started whose settings are recorded.
        recorded_up_to: The settings of the cameras are recorded for the recordings up to this one, in the order of
            their names; None once they are recorded for all.
    """

    token: str = ""
    sentence: str = ""
    checked_at_s: float = 0.0
    recheck_at_s: float = 0.0
    paused_until_s: float = 0.0
    examined_until_s: float = 0.0
    process_started_s: float = 0.0
    recorded_up_to: str | None = ""

    @classmethod
    def load(cls, text: str | None) -> "_Cursor":
        """Decode a sensor cursor; a new process checks at once, and records the settings that it has read."""
        cursor, started_s = cls(**json.loads(text)) if text else cls(), process_start_s()
        if cursor.process_started_s == started_s:
            return cursor
        return cls(examined_until_s=cursor.examined_until_s, process_started_s=started_s)

    def dump(self) -> str:
        """Encode the cursor."""
        return json.dumps(asdict(self))

    def is_check_due(self, token: str, now: float) -> bool:
        """Whether to check all recordings: something has changed, or it is time."""
        if now < self.checked_at_s:
            return True  # the clock was set back
        return now >= self.paused_until_s and (token != self.token or now >= self.recheck_at_s)


def build_reconciliation_sensor(graph: AssetGraph) -> SensorDefinition:
    """Build the sensor that requests the runs that complete the recordings."""

    @sensor(
        name=_NAME,
        jobs=[graph.ingest_job, graph.analysis_job],
        minimum_interval_seconds=TICK_INTERVAL_S,
        default_status=DefaultSensorStatus.RUNNING,
        description="Requests runs for missing assets, retries failed recordings once in a run of their own, and "
        "completes interrupted work.",
    )
    def reconciliation_sensor(
        context: SensorEvaluationContext, store: ResourceParam[Store]
    ) -> SensorResult | SkipReason:
        """Request the runs that complete the recordings, if anything has changed since the last tick."""
        cursor, planned = _Cursor.load(context.cursor), list[PlannedRun]()
        try:
            token = change_token(context.instance, store)
            if cursor.is_check_due(token, time.time()):
                cursor, planned = _check_recordings(context.instance, store, graph, replace(cursor, token=token))
            cursor = _record_camera_settings(context.instance, store, graph, cursor)
            requests = request_runs(context.instance, store, graph, planned)
        except PipelineError as error:
            return SkipReason(str(error))
        context.update_cursor(cursor.dump())
        if requests:
            return SensorResult(run_requests=requests)
        return SkipReason(cursor.sentence + _missing_workers_sentence(context.instance, store))

    return reconciliation_sensor


def _check_recordings(
    instance: DagsterInstance, store: Store, graph: AssetGraph, cursor: _Cursor
) -> tuple[_Cursor, list[PlannedRun]]:
    """Check all recordings, and plan the runs that complete them.

    Returns:
        The cursor after the check, and the runs.

    Raises:
        PipelineError: The data folder cannot be read or written.
    """
    started_s = time.time()
    check_data_folder(store.data_folder)
    # The unfinished runs first: a run that dies after this still counts as in flight, until the next check.
    unfinished_runs = read_unfinished_runs(instance)
    examined_until = datetime.fromtimestamp(cursor.examined_until_s, UTC) if cursor.examined_until_s else None
    record_dead_runs(instance, store, graph, examined_until)
    reject_replaced_recordings(store, instance.get_dynamic_partitions(recordings_partitions.name or ""))
    states = read_recording_states(instance, store, graph, unfinished_runs)
    remove_replaced_recordings(instance, store, states)
    publish(store, graph.settings)
    # A model without weights holds only its own assets and what depends on them: not ingest, not other models.
    unmet = find_unmet_needs(graph)
    on_hold = set(graph.with_downstream(frozenset(unmet), ANALYSIS)) if unmet else set[str]()
    hold_sentences = "".join(f" {name} is on hold: {problem}" for name, problem in unmet.items())
    states = _delay_new_recordings(store, states)
    planned, now = plan_runs(exclude_assets(states, on_hold), graph), time.time()
    recheck_after_s = _EARLY_RECHECK_AFTER_S if planned or hold_sentences else _RECHECK_AFTER_S
    retry_times_s = [state.retry_at_s for state in states.states if state.retry_at_s > now and state.missing]
    return replace(
        cursor,
        sentence=f"{_status_sentence(states)}{hold_sentences}",
        checked_at_s=now,
        recheck_at_s=min([now + recheck_after_s, *retry_times_s]),
        paused_until_s=now + (now - started_s) * _PAUSE_PER_CHECK_S,
        examined_until_s=started_s - _CLOCK_MARGIN_S,
    ), planned


def _missing_workers_sentence(instance: DagsterInstance, store: Store) -> str:
    """Say why queued runs are not launched, if that is because no worker takes them; else empty."""
    if not isinstance(instance.run_launcher, WorkerRunLauncher):
        return ""
    sentences = ""
    for queue, tag in ((GPU_QUEUE, GPU_TAG), (CPU_QUEUE, CPU_TAG)):
        sentence = describe_missing_workers(store.data_folder, queue)
        if sentence and (count := instance.get_runs_count(RunsFilter(statuses=QUEUED_STATUSES, tags=tag))):
            sentences += f" Runs that wait: {count}. {sentence}"
    return sentences


def reject_replaced_recordings(store: Store, recording_ids: Sequence[str]) -> list[str]:
    """Reject recordings that were ingested while their file was still growing.

    Args:
        store: The tables.
        recording_ids: All recordings.

    Returns:
        The recordings that were rejected now.

    Raises:
        PipelineError: The data folder cannot be written.
    """
    complete_ids = SourceIndex(store).replaced_recordings()
    replaced = sorted(complete_ids.keys() & set(recording_ids))
    rows = newest_stage_runs(
        store, replaced, columns=("recording_id", "stage", "status", "finished_at_utc")
    ).to_pylist()
    newest = {row["recording_id"]: row for row in rows if row["stage"] == RECORDINGS.name}
    rejected = [recording_id for recording_id in replaced if newest.get(recording_id, {}).get("status") != "rejected"]
    append_stage_runs(
        store,
        [
            StageRun(
                recording_id,
                RECORDINGS.name,
                1,
                "rejected",
                "",
                later_than(newest[recording_id]["finished_at_utc"] if recording_id in newest else None),
                _NAME,
                error=f"The recording was ingested while its file was still growing; {complete_ids[recording_id]} is "
                "the complete file.",
            )
            for recording_id in rejected
        ],
    )
    return rejected


def _delay_new_recordings(store: Store, states: RecordingStates) -> RecordingStates:
    """Delay the first runs of recordings that were added just now: the watched-folder sensor requests them."""
    is_new = {state.recording_id for state in states.states if state.status is None and not state.is_in_flight}
    if not is_new:
        return states
    now = time.time()
    seen_at = SourceIndex(store).recordings_seen_since(datetime.fromtimestamp(now - _GRACE_S, UTC))
    ends_s = {
        recording_id: at.timestamp() + _GRACE_S
        for recording_id, at in seen_at.items()
        if recording_id in is_new and at.timestamp() <= now
    }
    return replace(
        states,
        states=[
            replace(state, retry_at_s=max(state.retry_at_s, ends_s[state.recording_id]))
            if state.recording_id in ends_s
            else state
            for state in states.states
        ],
    )


def _record_camera_settings(instance: DagsterInstance, store: Store, graph: AssetGraph, cursor: _Cursor) -> _Cursor:
    """Record the settings of the cameras for the next recordings: changed ones make finished recordings stale.

    Each stage records the settings that it reads itself, so no run has to wait for this.
    """
    if cursor.recorded_up_to is None:
        return cursor
    cameras = cameras_of(store)
    remaining = sorted(recording_id for recording_id in cameras if recording_id > cursor.recorded_up_to)
    portion = remaining[:_SETTINGS_PER_TICK]
    for first in range(0, len(portion), _SETTINGS_PER_READ):
        ids = portion[first : first + _SETTINGS_PER_READ]
        graph.observer.record(instance, graph.observer.aspects, {name: cameras[name] for name in ids})
    return replace(cursor, recorded_up_to=portion[-1] if len(remaining) > len(portion) else None)


def _status_sentence(recording_states: RecordingStates) -> str:
    states = recording_states.states
    rejected = sum(state.is_rejected for state in states)
    complete = sum(not state.missing and not state.is_rejected for state in states)
    parts = [f"{complete} of {len(states)} recordings are complete"]
    parts += [f"{rejected} rejected"] if rejected else []
    parts += [f"{sum(state.is_in_flight for state in states)} in flight"]
    hold_reasons = [state.hold_reason for state in states if state.hold_reason and not state.is_in_flight]
    hold_text = f" {len(hold_reasons)} are on hold and will be retried: {hold_reasons[0]}" if hold_reasons else ""
    return f"No runs to request: {', '.join(parts)}.{hold_text}"
