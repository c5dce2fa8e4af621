"""The table notifications: which events happened, and which channel received each of them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from resources.config.operations_config import NotificationSettings
from resources.notifications.delivery import Channel, Delivery
from resources.notifications.messages import Message, NotificationEvent
from resources.schema.operations_tables import NOTIFICATIONS
from resources.storage.delta_store import Store

_FIRST_RETRY_S, _LONGEST_RETRY_S = 60.0, 1800.0
_MAX_ATTEMPTS = 20  # about nine hours

_TOPICS_BY_KIND = {
    "success": {"success"},
    "failure": {"failure"},
    "hold": {"failure"},
    "recovery": {"recovery", "success"},
    "no_data": {"no_data"},
    "data_resumed": {"no_data"},
}
"""Topics of the settings by kind of event: a channel receives an event if it subscribes to one of its topics."""
Row = dict[str, Any]


@dataclass(frozen=True)
class FinalResult:
    """The final result of a recording, or of a file that cannot be a recording.

    Attributes:
        subject: The recording, or the path of the file.
        camera: Its camera.
        is_success: Whether the recording was processed, fully or partially.
        message: The result in one sentence.
    """

    subject: str
    camera: str | None
    is_success: bool
    message: str

    @property
    def kind(self) -> str:
        """Kind of the event that reports it."""
        return "success" if self.is_success else "failure"


class NotificationLedger:
    """The rows of the table notifications, one per event and channel, during one check.

    Args:
        store: The tables.
        at: Time of the check.
    """

    def __init__(self, store: Store, at: datetime) -> None:
        self._store, self._at = store, at
        self._rows: list[Row] = sorted(store.read(NOTIFICATIONS).to_pylist(), key=lambda row: row["reported_at_utc"])
        self._is_changed = False

    @property
    def is_empty(self) -> bool:
        """Whether the table has no rows: this is the first check."""
        return not self._rows

    @property
    def has_pending(self) -> bool:
        """Whether any event is yet to be sent."""
        return any(row["state"] == "pending" for row in self._rows)

    @property
    def began_at(self) -> datetime:
        """Time of the first check."""
        return min((row["reported_at_utc"] for row in self._rows), default=self._at)

    def newest_by_subject(self, *kinds: str) -> dict[str, Row]:
        """By subject, the newest event of some kinds."""
        return {row["subject"]: row for row in self._rows if row["kind"] in kinds}

    def count_since(self, start: datetime, *kinds: str) -> int:
        """Count the events of some kinds since a time, without the baseline."""
        rows = (row for row in self._rows if row["reported_at_utc"] >= start and row["state"] != "baseline")
        return len({row["event_id"] for row in rows if row["kind"] in kinds})

    def new_event(self, kind: str, subject: str, camera: str | None, message: str) -> NotificationEvent:
        """Build an event of this check; it is not in the table yet."""
        return NotificationEvent(uuid.uuid4().hex[:16], kind, subject, camera, message, self._at)

    def add_baseline(self, results: Sequence[FinalResult]) -> None:
        """Add the results that are older than the first check; they are never sent."""
        message = f"Notifications began; {len(results)} results are older and are not sent."
        self._append_row(self.new_event("start", "", None, message), "baseline")
        for result in results:
            event = self.new_event(result.kind, result.subject, result.camera, result.message)
            self._append_row(event, "baseline")

    def add_events(self, events: Sequence[NotificationEvent], settings: NotificationSettings) -> None:
        """Add a row for each event and channel that receives such events."""
        for event in events:
            topics = _TOPICS_BY_KIND.get(event.kind, set())
            channel_names = [channel.name for channel in settings.channels if topics & {*channel.events}]
            for name in channel_names:
                self._append_row(event, "pending", name)
            if not channel_names:
                self._append_row(event, "no_channel")

    def close_interrupted_deliveries(self) -> None:
        """Mark deliveries that a kill interrupted as unknown: the message may have arrived and is not sent again."""
        for row in self._rows:
            if row["state"] == "sending":
                row |= {"state": "unknown", "error": "The pipeline was stopped while the message was being sent."}
                self._is_changed = True

    def begin_delivery(self, channel: Channel) -> Message | None:
        """Collect a channel's pending events into one message and mark them as being sent.

        Returns:
            The message; None if no event is pending or the next attempt is not due.
        """
        pending = [row for row in self._rows if row["channel"] == channel.name and row["state"] == "pending"]
        if not pending or any(row["next_attempt_at_utc"] and row["next_attempt_at_utc"] > self._at for row in pending):
            return None
        message_id = uuid.uuid4().hex[:16]
        for row in pending:
            row |= {"state": "sending", "message_id": message_id, "last_attempt_at_utc": self._at}
            row["attempt_count"] += 1
        self._is_changed = True
        names = ("event_id", "kind", "subject", "camera", "message", "reported_at_utc")
        return Message(message_id, [NotificationEvent(**{name: row[name] for name in names}) for row in pending])

    def record_delivery(self, channel: Channel, delivery: Delivery) -> None:
        """Record the result of a channel's delivery, and when the next attempt is due if it failed."""
        for row in self._rows:
            if row["channel"] != channel.name or row["state"] != "sending":
                continue
            row |= {"state": delivery.state, "error": delivery.error, "next_attempt_at_utc": None}
            if delivery.state == "undelivered":
                delay_s = min(_FIRST_RETRY_S * 3 ** (row["attempt_count"] - 1), _LONGEST_RETRY_S)
                is_last = row["attempt_count"] >= _MAX_ATTEMPTS
                row["state"] = "failed" if is_last else "pending"
                row["next_attempt_at_utc"] = None if is_last else self._at + timedelta(seconds=delay_s)
            self._is_changed = True

    def save(self) -> None:
        """Replace the table if a row has changed.

        Raises:
            PipelineError: The data folder is full, read-only or not available.
        """
        if self._is_changed:
            self._store.replace(NOTIFICATIONS, [], pa.Table.from_pylist(self._rows, NOTIFICATIONS.arrow_schema))
            self._is_changed = False

    def _append_row(self, event: NotificationEvent, state: str, channel: str = "") -> None:
        empty = dict.fromkeys(("message_id", "last_attempt_at_utc", "next_attempt_at_utc", "error"))
        self._rows.append({**vars(event), **empty, "channel": channel, "state": state, "attempt_count": 0})
        self._is_changed = True
