"""What people are told: how recordings ended, that work is on hold or done again, that a camera is silent.

News are found by comparing what is with what the table `notifications` says was told, not from events of runs: an
attempt that will be repeated is no news, and nothing is lost or told twice by a crash. A message is written down as
being sent before it is sent. Where the pipeline is killed in between, nobody knows whether it arrived, and it is not
sent again.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from dagster import DagsterEventType, DagsterInstance, RunsFilter

from cv_assets.outstanding import Outstanding, RecordingState, observe, set_aside
from cv_assets.stage import ANALYSIS, STOPPED_TAG
from cv_assets.walk import assets_of
from resources.errors import PipelineError
from resources.inference.weights import check_weights
from resources.notifications import Channel, Delivery, Message, News, send_all
from resources.schema import NOTIFICATIONS, RECORDINGS
from resources.settings import NotificationSettings, Settings
from resources.storage import Store, check_data_folder, one_at_a_time
from resources.watched_folder import SourceIndex, camera_of, list_recordings

_FIRST_RETRY_S, _LONGEST_RETRY_S = 60.0, 1800.0
_MAX_ATTEMPTS = 20  # about nine hours
_ENDINGS = ("success", "failure", "recovered")
_TOPICS = {  # which channels are told of which kind
    "success": {"success"},
    "failure": {"failure"},
    "hold": {"failure"},
    "recovered": {"recovered", "success"},
    "silent": {"silent"},
    "heard": {"silent"},
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """How something ended that was dropped into the watched folder.

    Attributes:
        subject: The recording, or the path of a file that is none.
        camera: Its camera.
        is_good: Whether it came through, be it in part.
        told: One sentence.
    """

    subject: str
    camera: str | None
    is_good: bool
    told: str


def ending_of(state: RecordingState | None, row: Mapping[str, Any]) -> tuple[str, str | None]:
    """Status of a recording for which nothing more will be done, and the sentence where something is wrong.

    Args:
        state: Where it stands; None when it is not known.
        row: Its row of `recordings`; empty when it has none.
    """
    status, error = row.get("status", "failed"), row.get("error")
    if status in ("ok", "partial") and (state is None or state.missing):
        # The run died before it could say why: the recording is incomplete all the same.
        status = "failed"
        failed = ", ".join(sorted(state.failed if state else ())) or "its run"
        error = f"{failed} did not finish; the run's log in the UI says why."
    return str(status), error


def failure_of(instance: DagsterInstance, run_id: str) -> str | None:
    """The sentence with which a run failed; None where it left none."""
    for record in instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records:
        data = record.event_log_entry.get_dagster_event().step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return str(data.user_failure_data.description)
    return None


@dataclass(frozen=True)
class Told:
    """What one look came to: in a sentence, and whether something waits to be sent again."""

    sentence: str
    is_waiting: bool


def tell(instance: DagsterInstance, store: Store, settings: Settings, now: float | None = None) -> Told:
    """Find what is new, write it down, and tell those who asked for it.

    Takes at most half a minute. What does not go out is tried again by later calls.

    Args:
        instance: Dagster's instance.
        store: The tables.
        settings: The settings in force.
        now: Seconds since 1970; None means the clock.

    Raises:
        PipelineError: The table cannot be written, so nothing was sent.
    """
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    wanted = settings.notifications
    with one_at_a_time(store.data_folder, "notifications"):
        ledger = Ledger(store, at)
        ledger.close_interrupted()
        outstanding = observe(instance, store)
        set_aside(store, outstanding, settings.batches.max_attempts)
        endings = _endings(outstanding, store, settings)
        if ledger.is_empty:
            ledger.begin(endings)
        ledger.add(_news_of_endings(ledger, endings), wanted)
        hold = _hold(instance, store, settings, outstanding)
        ledger.add(_news_of_work(ledger, outstanding, hold, settings), wanted)
        ledger.add(_news_of_cameras(ledger, store, settings, at), wanted)
        messages = [(channel, message) for channel in wanted.channels if (message := ledger.due(channel))]
        ledger.save()
        told = []
        for channel, delivery in send_all(messages):
            ledger.note(channel, delivery)
            ledger.save()
            told.append(f"{channel.name}: {delivery.state}{f' ({delivery.error})' if delivery.error else ''}")
        return Told("; ".join(told) or "Nothing new to tell.", ledger.is_waiting)


class Ledger:
    """The table notifications: what was noticed, and who was told of it.

    Args:
        store: The tables.
        at: The time of this look.
    """

    def __init__(self, store: Store, at: datetime) -> None:
        self._store, self._at = store, at
        self._rows: list[Row] = sorted(store.read(NOTIFICATIONS).to_pylist(), key=lambda row: row["noticed_at_utc"])
        self._is_changed = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever noticed."""
        return not self._rows

    @property
    def is_waiting(self) -> bool:
        """Whether anything is yet to be sent."""
        return any(row["state"] == "waiting" for row in self._rows)

    @property
    def began_at(self) -> datetime:
        """When notifications began."""
        return min((row["noticed_at_utc"] for row in self._rows), default=self._at)

    def last(self, *kinds: str) -> dict[str, Row]:
        """By subject, the newest event of some kinds."""
        return {row["subject"]: row for row in self._rows if row["kind"] in kinds}

    def since(self, began_at: datetime, *kinds: str) -> int:
        """How many events of some kinds were noticed since then."""
        rows = (row for row in self._rows if row["noticed_at_utc"] >= began_at and row["state"] != "baseline")
        return len({row["event_id"] for row in rows if row["kind"] in kinds})

    def begin(self, endings: Sequence[Ending]) -> None:
        """Take what has ended so far for known: nobody is told of it."""
        self._append(self.news("start", "", None, f"Notifications began; {len(endings)} had ended before."), "baseline")
        for one in endings:
            self._append(self.news(_kind(one), one.subject, one.camera, one.told), "baseline")

    def add(self, news: Sequence[News], wanted: NotificationSettings) -> None:
        """Write down news, a row for each channel that asks for such."""
        for one in news:
            topics = _TOPICS.get(one.kind, set())
            channels = [channel.name for channel in wanted.channels if topics & {*channel.events}]
            for name in channels:
                self._append(one, "waiting", name)
            if not channels:
                self._append(one, "unwanted")

    def close_interrupted(self) -> None:
        """What was being sent when the pipeline was killed may have arrived: it is not sent again."""
        for row in self._rows:
            if row["state"] == "sending":
                row |= {"state": "unknown", "error": "The pipeline was stopped while it was being sent."}
                self._is_changed = True

    def due(self, channel: Channel) -> Message | None:
        """All that waits for a channel as one message, noted as being sent; None while there is nothing or no hurry."""
        waiting = [row for row in self._rows if row["channel"] == channel.name and row["state"] == "waiting"]
        if not waiting or any(row["next_try_at_utc"] and row["next_try_at_utc"] > self._at for row in waiting):
            return None
        message_id = uuid.uuid4().hex[:16]
        for row in waiting:
            row |= {"state": "sending", "message_id": message_id, "tried_at_utc": self._at}
            row["attempt_count"] += 1
        self._is_changed = True
        names = ("event_id", "kind", "subject", "camera", "told", "noticed_at_utc")
        return Message(message_id, [News(**{name: row[name] for name in names}) for row in waiting])

    def note(self, channel: Channel, delivery: Delivery) -> None:
        """Write down what came of a channel's message."""
        for row in self._rows:
            if row["channel"] != channel.name or row["state"] != "sending":
                continue
            row |= {"state": delivery.state, "error": delivery.error, "next_try_at_utc": None}
            if delivery.state == "missed":
                wait_s = min(_FIRST_RETRY_S * 3 ** (row["attempt_count"] - 1), _LONGEST_RETRY_S)
                is_last = row["attempt_count"] >= _MAX_ATTEMPTS
                row["state"] = "failed" if is_last else "waiting"
                row["next_try_at_utc"] = None if is_last else self._at + timedelta(seconds=wait_s)
            self._is_changed = True

    def save(self) -> None:
        """Replace the table, if anything has changed.

        Raises:
            PipelineError: The data folder is full, read-only or out of reach.
        """
        if self._is_changed:
            self._store.replace(NOTIFICATIONS, [], pa.Table.from_pylist(self._rows, NOTIFICATIONS.arrow_schema))
            self._is_changed = False

    def news(self, kind: str, subject: str, camera: str | None, told: str) -> News:
        """News of this look."""
        return News(uuid.uuid4().hex[:16], kind, subject, camera, told, self._at)

    def _append(self, news: News, state: str, channel: str = "") -> None:
        nothing = dict.fromkeys(("message_id", "tried_at_utc", "next_try_at_utc", "error"))
        self._rows.append({**vars(news), **nothing, "channel": channel, "state": state, "attempt_count": 0})
        self._is_changed = True


def _endings(outstanding: Outstanding, store: Store, settings: Settings) -> list[Ending]:
    """Everything for which nothing more will be done: recordings, and files that cannot be any."""
    columns = ["recording_id", "status", "error", "camera", "source_path"]
    rows = {row["recording_id"]: row for row in store.read(RECORDINGS, columns=columns).to_pylist()}
    found = []
    for state in outstanding.states:
        if not state.is_done(settings.batches.max_attempts):
            continue
        row = rows.get(state.recording_id, {})
        status, error = ending_of(state, row)
        is_good = status in ("ok", "partial")
        what = f"{state.recording_id} came through" if is_good else f"{state.recording_id} {status}"
        told = f"{what}{' in part' if status == 'partial' else ''}{f': {error}' if error else '.'}"
        found.append(Ending(state.recording_id, row.get("camera"), is_good, told))
    for path, file in SourceIndex(store).load().items():
        if file.state == "unreadable":
            found.append(Ending(path, file.camera, False, f"{path} is no recording: {file.reason}"))
    return found


def _kind(ending: Ending) -> str:
    return "success" if ending.is_good else "failure"


def _news_of_endings(ledger: Ledger, endings: Sequence[Ending]) -> list[News]:
    known = {subject: row["kind"] for subject, row in ledger.last(*_ENDINGS).items()}
    news = []
    for one in endings:
        before = known.get(one.subject)
        if one.is_good and before == "failure":
            news.append(ledger.news("recovered", one.subject, one.camera, f"{one.told} It had failed before."))
        elif before is None or one.is_good != (before != "failure"):
            news.append(ledger.news(_kind(one), one.subject, one.camera, one.told))
    return news


def _news_of_work(ledger: Ledger, outstanding: Outstanding, hold: str | None, settings: Settings) -> list[News]:
    """That much waits or nothing can go on, and that everything is done again."""
    last = {kind: ledger.last(kind).get("") for kind in ("hold", "backlog", "recovered")}
    over_at = last["recovered"]["noticed_at_utc"] if last["recovered"] else ledger.began_at
    active = {
        kind: row for kind, row in last.items() if row and kind != "recovered" and row["noticed_at_utc"] >= over_at
    }
    waiting = sum(not state.is_done(settings.batches.max_attempts) for state in outstanding.states)
    if hold and ("hold" not in active or active["hold"]["told"] != hold):
        return [ledger.news("hold", "", None, hold)]
    if waiting >= settings.notifications.backlog_from and "backlog" not in active:
        return [ledger.news("backlog", "", None, f"{waiting} recordings wait.")]
    if active and not waiting and not hold:
        began_at = min(row["noticed_at_utc"] for row in active.values())
        good, bad = ledger.since(began_at, "success", "recovered"), ledger.since(began_at, "failure")
        told = f"All waiting work is done: {good} came through and {bad} failed since {began_at:%Y-%m-%d %H:%M} UTC."
        return [ledger.news("recovered", "", None, told)]
    return []


def _hold(instance: DagsterInstance, store: Store, settings: Settings, outstanding: Outstanding) -> str | None:
    """Why nothing can go on until a person acts; None where work goes on."""
    undone = [state for state in outstanding.states if not state.is_done(settings.batches.max_attempts)]
    try:
        check_data_folder(store.data_folder)
        if any(state.missing & {*assets_of(ANALYSIS)} for state in undone):
            for model in settings.every_model:
                check_weights(model)
        for folder in settings.watched_folders:
            if not folder.is_dir():
                raise PipelineError(f"The watched folder {folder} is not there: create or mount it.")
    except PipelineError as error:
        return f"Work is on hold. {error}"
    if any(state.failed and not state.is_in_flight and state.retry_at > time.time() for state in undone):
        for record in instance.get_run_records(RunsFilter(tags={STOPPED_TAG: "true"}), limit=1):
            if sentence := failure_of(instance, record.dagster_run.run_id):
                return f"Work is on hold. {sentence}"
    return None


def _news_of_cameras(ledger: Ledger, store: Store, settings: Settings, at: datetime) -> list[News]:
    """Cameras that have been silent for too long, and silent ones that send again."""
    wanted = settings.notifications
    if not wanted.silent_after_h:
        return []
    seen: dict[str, datetime] = {}
    known = SourceIndex(store).load()
    for file in known.values():
        if file.state == "skipped":
            continue
        camera = file.camera or ""
        seen[camera] = max(seen.get(camera, file.seen_at_utc), file.seen_at_utc)
    told_before = ledger.last("silent", "heard")
    news = []
    for camera in sorted({*seen, *wanted.silent_after_h} - {"*"}):
        limit_h, before = wanted.silence_of(camera), told_before.get(camera)
        since = max(seen.get(camera, ledger.began_at), ledger.began_at)
        name = camera or "beside the cameras' folders"
        if limit_h is None:
            continue
        if before is not None and before["kind"] == "silent":
            if since > before["noticed_at_utc"]:
                news.append(ledger.news("heard", camera, camera or None, f"Recordings arrive from {name} again."))
        elif at - since >= timedelta(hours=limit_h) and not _is_arriving(camera, known, settings):
            told = f"Nothing has arrived from {name} since {since:%Y-%m-%d %H:%M} UTC ({limit_h:g} h or more)."
            news.append(ledger.news("silent", camera, camera or None, told))
    return news


def _is_arriving(camera: str, known: Mapping[str, object], settings: Settings) -> bool:
    """Whether a file of the camera lies there that is still being written, or was dropped while nobody watched."""
    try:
        listed = list_recordings(settings).files
    except PipelineError:
        return False
    return any((camera_of(path, settings.watched_folders) or "") == camera for path in listed if path not in known)
