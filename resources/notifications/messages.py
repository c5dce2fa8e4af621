"""Notification messages: their text, and their form in each channel's format."""

import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import Any

from resources.config.operations_config import EmailSettings, WebhookSettings

_MAX_LISTED_EVENTS = 20
_MAX_SENTENCE_LENGTH = 250  # with all listed events a message stays below the 28 kB that Teams accepts
MAX_RESPONSE_LENGTH = 120

# Most severe first: the order of the listed events and of the counts in the title.
_TITLE_TEMPLATES = {
    "hold": "work is on hold",
    "failure": "{} failed",
    "no_data": "{} without data",
    "recovery": "{} recovered",
    "data_resumed": "{} with data again",
    "success": "{} succeeded",
}


@dataclass(frozen=True)
class NotificationEvent:
    """An event to report to the channels; the fields are those of the table `notifications`."""

    event_id: str
    kind: str
    subject: str
    camera: str | None
    message: str
    reported_at_utc: datetime


@dataclass(frozen=True)
class Message:
    """The events that are sent together.

    Attributes:
        message_id: Id of the message, as in the table `notifications`.
        events: At least one.
    """

    message_id: str
    events: Sequence[NotificationEvent]

    @property
    def title(self) -> str:
        """The event's sentence, or the number of events of each kind, in one line."""
        if len(self.events) == 1:
            return f"cv-assets: {_truncate(self.events[0].message, _MAX_SENTENCE_LENGTH)}"
        counts = Counter(event.kind for event in self.events)
        parts = [template.format(counts[kind]) for kind, template in _TITLE_TEMPLATES.items() if counts[kind]]
        return f"cv-assets: {', '.join(parts)}"

    @property
    def listed_events(self) -> list[NotificationEvent]:
        """The most severe events, limited in number and in length."""
        severity = list(_TITLE_TEMPLATES)
        ranked_events = sorted(self.events, key=lambda event: severity.index(event.kind))
        return [
            replace(event, message=_truncate(event.message, _MAX_SENTENCE_LENGTH))
            for event in ranked_events[:_MAX_LISTED_EVENTS]
        ]

    @property
    def lines(self) -> list[str]:
        """The sentences of the listed events, and the number of the others."""
        lines = [event.message for event in self.listed_events]
        if (unlisted_count := len(self.events) - _MAX_LISTED_EVENTS) > 0:
            query = f"SELECT * FROM notifications WHERE message_id = '{self.message_id}'"
            lines.append(f"… and {unlisted_count} more: {query}")
        return lines


def build_webhook_payload(channel: WebhookSettings, message: Message) -> dict[str, Any]:
    """Build the JSON body that is posted to a webhook, in the channel's format."""
    if channel.format == "slack":
        text = "\n".join(
            [message.title, *(f"• {line}" for line in message.lines)] if len(message.events) > 1 else [message.title]
        )
        # Escape Slack's three control characters. `mrkdwn` is off, because names are full of underscores and asterisks.
        for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(char, entity)
        return {"text": text, "mrkdwn": False}
    if channel.format == "teams":
        return {"type": "message", "attachments": [_build_adaptive_card(message)]}
    return {
        "message_id": message.message_id,
        "title": message.title,
        "text": "\n".join(message.lines),
        "counts": dict(Counter(event.kind for event in message.events)),
        "events": [
            {**vars(event), "reported_at_utc": event.reported_at_utc.isoformat()} for event in message.listed_events
        ],
    }


def _build_adaptive_card(message: Message) -> dict[str, Any]:
    # Text runs are shown literally; a text block would interpret characters of names as markup.
    title = {"type": "TextRun", "text": message.title, "weight": "Bolder"}
    body = [{"type": "RichTextBlock", "inlines": [title]}]
    if len(message.events) > 1:
        body += [{"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]} for line in message.lines]
    return {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": body,
        },
    }


def build_email(channel: EmailSettings, message: Message) -> EmailMessage:
    """Build the e-mail for a channel."""
    email = EmailMessage(policy=SMTP)
    email["Subject"] = message.title
    email["From"] = channel.sender
    email["To"] = ", ".join(channel.recipients)
    email["Date"] = formatdate(localtime=False)
    email["Message-ID"] = f"<{message.message_id}@cv-assets>"
    email["Auto-Submitted"] = "auto-generated"
    email.set_content("\n".join([*message.lines, "", f"Sent by cv-assets on {socket.gethostname()}."]))
    return email


def as_sentence(text: object) -> str:
    """Format the text of an error as one sentence of limited length."""
    sentence = _truncate(str(text), 2 * MAX_RESPONSE_LENGTH).rstrip(" .:")
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _truncate(text: str, max_length: int) -> str:
    """Put a text on one line, and cut it where it is longer than the limit."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


def build_test_message() -> Message:
    """Build a message that shows a person that a channel works."""
    text = f"This is a test from {socket.gethostname()}: the channel works."
    event = NotificationEvent("test", "success", "", None, text, datetime.now(UTC))
    return Message(f"test-{time.time_ns():x}", [event])
