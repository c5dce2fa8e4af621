"""Compares what is there with what should be, and requests what is missing."""

import time
from dataclasses import dataclass
from functools import partial
from threading import Thread

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    ResourceParam,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.instance.ref import InstanceRef

from cv_assets.cameras import ASPECTS, cameras_of, note
from cv_assets.detections import models_by_asset
from cv_assets.outstanding import (
    Outstanding,
    PlannedRun,
    observe,
    occasion,
    plan_runs,
    remove_replaced,
    set_aside,
    without,
)
from cv_assets.stage import ANALYSIS
from cv_assets.walk import analysis_job, ingest_job, with_downstream
from resources.errors import PipelineError
from resources.inference.weights import check_weights
from resources.results import publish
from resources.settings import Settings
from resources.storage import Store, check_data_folder
from sensors.requests import run_request
from sensors.waiting import LONGEST_WAIT_S, WHILE_IDLE_S, WHILE_WORKING_S, added, wait_for

_LOOK_AGAIN_AFTER_S = 15.0  # where something is amiss that a person may mend, or runs were requested
_REST_BETWEEN_LOOKS = 5  # times as long as the last look took: thousands of recordings must not keep a core busy


@dataclass(frozen=True)
class _Seen:
    """What the last look found, so that the next need not look again while nothing has changed.

    Attributes:
        news: What changes whenever there is something to see.
        told: What was said.
        until: When to look again all the same, in seconds since 1970: an attempt is due, or a person may have mended
            what was amiss.
        rested_at: Before this time by the monotonic clock, nobody looks again.
        ask_every_s: How often to ask whether there is news.
    """

    news: object
    told: str
    until: float
    rested_at: float
    ask_every_s: float

    def ask_again_in_s(self) -> float:
        """After how many seconds to ask again: while nobody looks, nobody asks."""
        resting_s = self.rested_at - time.monotonic()
        return resting_s if resting_s > 0 else self.ask_every_s


_seen: dict[str, _Seen] = {}
"""By data folder; of this process, so that every new start looks anew."""
_noting: dict[str, Thread] = {}
"""Who notes what the settings say of cameras, by data folder; of this process, which has read them."""


@sensor(
    name="reconciliation",
    jobs=[ingest_job, analysis_job],
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Requests what recordings lack, retries what failed alone and once, and heals interrupted work.",
)
def reconciliation_sensor(
    context: SensorEvaluationContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> SensorResult | SkipReason:
    """Request the runs that would complete the recordings, where anything has happened since the last look."""
    until, folder = time.monotonic() + LONGEST_WAIT_S, str(store.data_folder)
    if folder not in _noting:
        _noting[folder] = Thread(target=_note_cameras, args=(context.instance.get_ref(), store), daemon=True)
        _noting[folder].start()
    # News that leaves nothing to request ends no look, for the next would begin seconds later.
    while True:
        seen = _seen.get(folder)
        if seen is not None and not wait_for(
            partial(_has_news, context.instance, store, seen), until - time.monotonic(), seen.ask_again_in_s
        ):
            return SkipReason(seen.told)
        try:
            found, planned = _look(context.instance, store, settings)
        except PipelineError as error:
            return SkipReason(str(error))
        _seen[folder] = found
        if planned:
            return SensorResult(run_requests=[run_request(run) for run in planned])
        if seen is None:
            return SkipReason(found.told)


def _look(instance: DagsterInstance, store: Store, settings: Settings) -> tuple[_Seen, list[PlannedRun]]:
    """What there is, and the runs that would complete it.

    Raises:
        PipelineError: Nothing can be looked at or written.
    """
    news, started = _news(instance, store), time.monotonic()
    check_data_folder(store.data_folder)
    outstanding = observe(instance, store)
    set_aside(store, outstanding, settings.batches.max_attempts)
    remove_replaced(instance, store, outstanding)
    publish(store)
    # What cannot work is not started, and holds up nothing else: ingest needs no weights, nor does one model another's.
    held: set[str] = set()
    on_hold = ""
    for name, model in models_by_asset(settings).items():
        try:
            check_weights(model)
        except PipelineError as error:
            held.update(with_downstream(frozenset({name}), ANALYSIS))
            on_hold += f" {name} is on hold: {error}"
    planned = plan_runs(without(outstanding, held), settings.batches)
    now, look_s = time.time(), time.monotonic() - started
    is_working = bool(planned) or any(state.is_in_flight for state in outstanding.states)
    due = [state.retry_at for state in outstanding.states if state.retry_at > now]
    found = _Seen(
        news,
        f"{_told(outstanding)}{on_hold}",
        until=now + _LOOK_AGAIN_AFTER_S if on_hold or planned else min(due, default=float("inf")),
        rested_at=time.monotonic() + look_s * _REST_BETWEEN_LOOKS,
        ask_every_s=WHILE_WORKING_S if is_working else WHILE_IDLE_S,
    )
    return found, planned


def _note_cameras(instance: InstanceRef, store: Store) -> None:
    """Note what the settings, just read, say of cameras: it may be new to recordings that are done.

    Beside all else, because thousands take a minute, and nobody waits for them: a stage notes what it heeds itself.
    """
    try:
        with DagsterInstance.from_ref(instance) as own:
            note(own, ASPECTS, cameras_of(store))
    except BaseException:
        del _noting[str(store.data_folder)]  # the next look tries again
        raise


def _has_news(instance: DagsterInstance, store: Store, seen: _Seen) -> bool:
    if time.monotonic() < seen.rested_at:
        return False
    return time.time() >= seen.until or _news(instance, store) != seen.news


def _news(instance: DagsterInstance, store: Store) -> object:
    return occasion(instance, store), added()


def _told(outstanding: Outstanding) -> str:
    states = outstanding.states
    rejected = sum(state.is_rejected for state in states)
    complete = sum(not state.missing and not state.is_rejected for state in states)
    told = [f"{complete} of {len(states)} recordings are complete"]
    told += [f"{rejected} rejected"] if rejected else []
    told += [f"{sum(state.is_in_flight for state in states)} in flight"]
    waiting = [state.waits_for for state in states if state.waits_for and not state.is_in_flight]
    held_up = f" {len(waiting)} wait and are tried again: {waiting[0]}" if waiting else ""
    return f"Nothing to request: {', '.join(told)}.{held_up}"
