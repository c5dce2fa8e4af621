"""Sensor that requests the runs of the run planner."""

import time
from dataclasses import dataclass
from functools import partial
from threading import Thread

from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import cameras_of
from cv_assets.detections import models_by_asset
from cv_assets.stage_asset import ANALYSIS
from resources.errors import PipelineError
from resources.inference.weights import check_weights
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder
from resources.storage.results_database import publish
from sensors.quarantine import quarantine_crashed
from sensors.recording_states import RecordingStates, change_token, read_recording_states
from sensors.retention import remove_replaced_recordings
from sensors.run_planner import PlannedRun, exclude_assets, plan_runs
from sensors.sensor_wakeup import (
    BUSY_CHECK_INTERVAL_S,
    IDLE_CHECK_INTERVAL_S,
    MAX_TICK_S,
    added_partition_count,
    wait_for_change,
)

_RECHECK_AFTER_S = 15.0  # after a check that requested runs or found work on hold, which a person may fix
_PAUSE_PER_CHECK_S = 5  # times the last check's duration: thousands of recordings must not keep a core busy


@dataclass(frozen=True)
class _LastCheck:
    """The last check of all recordings, which need no other check while its token is unchanged.

    Attributes:
        token: The change token when the check began.
        sentence: What the check found.
        recheck_at_s: When to check again without a change, in seconds since 1970: a retry is due, or a person may have
            ended a hold.
        paused_until_s: Time by the monotonic clock before which there is no other check.
        interval_s: Seconds between two reads of the token.
    """

    token: object
    sentence: str
    recheck_at_s: float
    paused_until_s: float
    interval_s: float

    def next_read_in_s(self) -> float:
        """Seconds until the token is read again: not before the pause is over."""
        pause_s = self.paused_until_s - time.monotonic()
        return pause_s if pause_s > 0 else self.interval_s


_last_checks: dict[str, _LastCheck] = {}
"""By data folder, in this process, so that every start checks again."""

_camera_recorders: dict[str, Thread] = {}
"""By data folder, the thread that records the cameras' settings; in this process, which has read the settings."""


def build_reconciliation_sensor(graph: AssetGraph) -> SensorDefinition:
    """Build the sensor that requests the runs that complete the recordings."""

    @sensor(
        name="reconciliation",
        jobs=[graph.ingest_job, graph.analysis_job],
        minimum_interval_seconds=1,
        default_status=DefaultSensorStatus.RUNNING,
        description="Requests runs for missing assets, retries failed recordings once in a run of their own, and "
        "completes interrupted work.",
    )
    def reconciliation_sensor(
        context: SensorEvaluationContext, store: ResourceParam[Store]
    ) -> SensorResult | SkipReason:
        """Request the runs that complete the recordings, once anything has changed since the last tick."""
        deadline_s, folder = time.monotonic() + MAX_TICK_S, str(store.data_folder)
        if folder not in _camera_recorders:
            _camera_recorders[folder] = Thread(
                target=_record_camera_settings,
                args=(DagsterInstance.from_ref(context.instance.get_ref()), store, graph),
                daemon=True,
            )
            _camera_recorders[folder].start()
        # The tick continues after a change that requires no run, because the next tick would begin seconds later.
        while True:
            last = _last_checks.get(folder)
            if last is not None and not wait_for_change(
                partial(_needs_check, context.instance, store, last),
                deadline_s - time.monotonic(),
                last.next_read_in_s,
            ):
                return SkipReason(last.sentence)
            try:
                check, planned = _check_recordings(context.instance, store, graph)
            except PipelineError as error:
                return SkipReason(str(error))
            _last_checks[folder] = check
            if planned:
                return SensorResult(run_requests=[run_request(run) for run in planned])
            if last is None:
                return SkipReason(check.sentence)

    return reconciliation_sensor


def _check_recordings(
    instance: DagsterInstance, store: Store, graph: AssetGraph
) -> tuple[_LastCheck, list[PlannedRun]]:
    """Check all recordings, and plan the runs that complete them.

    Raises:
        PipelineError: The data folder cannot be read or written.
    """
    token, started_s = _read_token(instance, store), time.monotonic()
    check_data_folder(store.data_folder)
    states = read_recording_states(instance, store, graph)
    quarantine_crashed(store, states, graph)
    remove_replaced_recordings(instance, store, states)
    publish(store)
    # A model without weights holds only its own assets and what depends on them: not ingest, not other models.
    on_hold: set[str] = set()
    hold_sentences = ""
    for name, model in models_by_asset(graph.settings).items():
        try:
            check_weights(model, graph.settings.watched_folders)
        except PipelineError as error:
            on_hold.update(graph.with_downstream(frozenset({name}), ANALYSIS))
            hold_sentences += f" {name} is on hold: {error}"
    planned = plan_runs(exclude_assets(states, on_hold), graph)
    now, check_s = time.time(), time.monotonic() - started_s
    is_busy = bool(planned) or any(state.is_in_flight for state in states.states)
    retry_times_s = [state.retry_at_s for state in states.states if state.retry_at_s > now]
    check = _LastCheck(
        token,
        f"{_status_sentence(states)}{hold_sentences}",
        recheck_at_s=now + _RECHECK_AFTER_S if hold_sentences or planned else min(retry_times_s, default=float("inf")),
        paused_until_s=time.monotonic() + check_s * _PAUSE_PER_CHECK_S,
        interval_s=BUSY_CHECK_INTERVAL_S if is_busy else IDLE_CHECK_INTERVAL_S,
    )
    return check, planned


def _record_camera_settings(own_instance: DagsterInstance, store: Store, graph: AssetGraph) -> None:
    """Record the cameras' settings: changed ones make finished recordings stale.

    Runs in a thread, because thousands of recordings take a minute; each stage records the settings that it reads
    itself, so no run has to wait for this.
    """
    try:
        with own_instance as instance:
            graph.observer.record(instance, graph.observer.aspects, cameras_of(store))
    except BaseException:
        del _camera_recorders[str(store.data_folder)]  # the next tick tries again
        raise


def _needs_check(instance: DagsterInstance, store: Store, last: _LastCheck) -> bool:
    if time.monotonic() < last.paused_until_s:
        return False
    return time.time() >= last.recheck_at_s or _read_token(instance, store) != last.token


def _read_token(instance: DagsterInstance, store: Store) -> object:
    return change_token(instance, store), added_partition_count()


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


def run_request(run: PlannedRun) -> RunRequest:
    """Build the request for a planned run: exactly its assets and its recordings."""
    return RunRequest(
        job_name=run.job_name,
        asset_selection=[AssetKey(name) for name in run.asset_names],
        tags=run.tags,
        partition_key=run.recording_ids[0] if len(run.recording_ids) == 1 else None,
    )
