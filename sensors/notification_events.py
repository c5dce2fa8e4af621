"""Events of which the channels are notified: final results, holds, backlogs and cameras without data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import cameras_of
from cv_assets.stage_asset import ANALYSIS
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.notifications.delivery import send_messages
from resources.notifications.messages import NotificationEvent
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder
from resources.storage.locks import exclusive_lock
from resources.watched_files import camera_of, list_watched_files
from sensors.asset_needs import find_unmet_needs
from sensors.notification_ledger import FinalResult, NotificationLedger
from sensors.recording_states import RecordingState, RecordingStates, read_recording_states

_RESULT_KINDS = ("success", "failure", "recovery")


def final_status_and_error(state: RecordingState | None) -> tuple[str, str | None]:
    """Read the status and error of a recording for which no further run will be requested.

    Args:
        state: Its state; None if it is unknown.
    """
    if state is not None and state.status in ("rejected", "quarantined", "failed"):
        return state.status, state.error
    if state is None or state.status is None or state.missing:
        unfinished = ", ".join(sorted(state.missing if state else ())) or "The run"
        return "failed", f"{unfinished} did not finish: see the run's log in the UI."
    return state.status, state.error


@dataclass(frozen=True)
class NotificationResult:
    """Result of one check.

    Attributes:
        sentence: What was sent, in one sentence.
        has_pending: Whether any event is yet to be sent.
    """

    sentence: str
    has_pending: bool


def notify(instance: DagsterInstance, store: Store, graph: AssetGraph, now: float | None = None) -> NotificationResult:
    """Detect new events, add them to the table notifications, and send them to the channels that receive them.

    Takes at most half a minute. Deliveries that fail are retried by later calls.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
        now: Seconds since 1970; None means the current time.

    Raises:
        PipelineError: The table cannot be written, so nothing was sent.
    """
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    settings = graph.settings
    channels = settings.notifications.channels
    with exclusive_lock(store.data_folder, "notifications"):
        ledger = NotificationLedger(store, at)
        ledger.close_interrupted_deliveries()
        states = read_recording_states(instance, store, graph)
        results = _final_results(states, store, settings)
        if ledger.is_empty:
            ledger.add_baseline(results)
        ledger.add_events(_result_events(ledger, results), settings.notifications)
        hold = _hold_sentence(store, graph, states)
        ledger.add_events(_backlog_events(ledger, states, hold, settings), settings.notifications)
        ledger.add_events(_camera_events(ledger, store, settings, at), settings.notifications)
        messages = [(channel, message) for channel in channels if (message := ledger.begin_delivery(channel))]
        ledger.save()
        sentences = []
        for channel, delivery in send_messages(messages):
            ledger.record_delivery(channel, delivery)
            ledger.save()
            sentences.append(f"{channel.name}: {delivery.state}{f' ({delivery.error})' if delivery.error else ''}")
        return NotificationResult("; ".join(sentences) or "No new events.", ledger.has_pending)


def _final_results(states: RecordingStates, store: Store, settings: Settings) -> list[FinalResult]:
    """The final results of recordings, and of files that cannot be recordings."""
    cameras, results = cameras_of(store), []
    for state in states.states:
        if not state.is_done(settings.batches.max_attempts):
            continue
        status, error = final_status_and_error(state)
        result = {"ok": "succeeded", "partial": "succeeded partially"}.get(status, status)
        message = f"{state.recording_id} {result}{f': {error}' if error else '.'}"
        is_success = status in ("ok", "partial")
        results.append(FinalResult(state.recording_id, cameras.get(state.recording_id), is_success, message))
    for path, file in SourceIndex(store).load().items():
        if file.state == "unreadable":
            results.append(FinalResult(path, file.camera, False, f"{path} cannot be ingested: {file.reason}"))
    return results


def _result_events(ledger: NotificationLedger, results: Sequence[FinalResult]) -> list[NotificationEvent]:
    """Events for results that differ from the one reported before."""
    reported_kinds = {subject: row["kind"] for subject, row in ledger.newest_by_subject(*_RESULT_KINDS).items()}
    events = []
    for result in results:
        kind = reported_kinds.get(result.subject)
        if result.is_success and kind == "failure":
            message = f"{result.message} The recording had failed before."
            events.append(ledger.new_event("recovery", result.subject, result.camera, message))
        elif kind is None or result.is_success != (kind != "failure"):
            events.append(ledger.new_event(result.kind, result.subject, result.camera, result.message))
    return events


def _backlog_events(
    ledger: NotificationLedger, states: RecordingStates, hold: str | None, settings: Settings
) -> list[NotificationEvent]:
    """Events for a hold or a backlog that began, and for their end.

    Args:
        ledger: The table notifications.
        states: The states of all recordings.
        hold: Why work is on hold; None if it is not.
        settings: The settings in force.
    """
    newest = {kind: ledger.newest_by_subject(kind).get("") for kind in ("hold", "backlog", "recovery")}
    recovered_at = newest["recovery"]["reported_at_utc"] if newest["recovery"] else ledger.began_at
    active = {
        kind: row
        for kind, row in newest.items()
        if row and kind != "recovery" and row["reported_at_utc"] >= recovered_at
    }
    waiting = sum(not state.is_done(settings.batches.max_attempts) for state in states.states)
    if hold and ("hold" not in active or active["hold"]["message"] != hold):
        return [ledger.new_event("hold", "", None, hold)]
    if waiting >= settings.notifications.backlog_min_recordings and "backlog" not in active:
        return [ledger.new_event("backlog", "", None, f"{waiting} recordings are waiting.")]
    if active and not waiting and not hold:
        start = min(row["reported_at_utc"] for row in active.values())
        succeeded, failed = ledger.count_since(start, "success", "recovery"), ledger.count_since(start, "failure")
        message = (
            f"All waiting recordings are done: {succeeded} succeeded and {failed} failed since "
            f"{start:%Y-%m-%d %H:%M} UTC."
        )
        return [ledger.new_event("recovery", "", None, message)]
    return []


def _hold_sentence(store: Store, graph: AssetGraph, states: RecordingStates) -> str | None:
    """Why work is on hold until a person acts; None if it is not."""
    settings = graph.settings
    waiting = [state for state in states.states if not state.is_done(settings.batches.max_attempts)]
    try:
        check_data_folder(store.data_folder)
        has_analysis = any(state.missing & {*graph.assets_of(ANALYSIS)} for state in waiting)
        if has_analysis and (unmet := find_unmet_needs(graph)):
            raise PipelineError(next(iter(unmet.values())))
        for folder in settings.watched_folders:
            if not folder.is_dir():
                raise PipelineError(f"The watched folder {folder} does not exist: create or mount it.")
    except PipelineError as error:
        return f"Work is on hold. {error}"
    hold_reasons = (state.hold_reason for state in waiting if state.hold_reason and not state.is_in_flight)
    return next((f"Work is on hold. {reason}" for reason in hold_reasons), None)


def _camera_events(
    ledger: NotificationLedger, store: Store, settings: Settings, at: datetime
) -> list[NotificationEvent]:
    """No-data alerts of cameras, and events for cameras whose data resumed."""
    limits_h = settings.notifications.no_data_after_h
    if not limits_h:
        return []
    last_file_at: dict[str, datetime] = {}
    known_files = SourceIndex(store).load()
    for file in known_files.values():
        if file.state == "skipped":
            continue
        camera = file.camera or ""
        last_file_at[camera] = max(last_file_at.get(camera, file.seen_at_utc), file.seen_at_utc)
    reported = ledger.newest_by_subject("no_data", "data_resumed")
    events = []
    for camera in sorted({*last_file_at, *limits_h} - {"*"}):
        limit_h, previous = settings.notifications.no_data_limit_h(camera), reported.get(camera)
        since = max(last_file_at.get(camera, ledger.began_at), ledger.began_at)
        name = camera or "the watched folder itself"
        if limit_h is None:
            continue
        if previous is not None and previous["kind"] == "no_data":
            if since > previous["reported_at_utc"]:
                message = f"Recordings arrive from {name} again."
                events.append(ledger.new_event("data_resumed", camera, camera or None, message))
        elif at - since >= timedelta(hours=limit_h) and not _is_file_arriving(camera, known_files, settings):
            message = f"No recording has arrived from {name} since {since:%Y-%m-%d %H:%M} UTC ({limit_h:g} h or more)."
            events.append(ledger.new_event("no_data", camera, camera or None, message))
    return events


def _is_file_arriving(camera: str, known_files: Mapping[str, object], settings: Settings) -> bool:
    """Whether the camera has a file that is still being written or was added while the pipeline was stopped."""
    try:
        listed = list_watched_files(settings).files
    except PipelineError:
        return False
    return any(
        (camera_of(path, settings.watched_folders) or "") == camera for path in listed if path not in known_files
    )
