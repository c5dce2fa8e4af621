"""Telling people: what a message looks like in each channel's form, and handing it over, with what came of it.

Nothing here remembers anything; `cv_assets/outcomes.py` decides what is told and keeps account of it.
"""

import errno
import http.client
import json
import os
import queue
import smtplib
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import Any, Literal

from pydantic import SecretStr

from resources.errors import PipelineError
from resources.settings import MailSettings, Secret, WebhookSettings, web_address

# The tick of a sensor must be over within 60 s, or Dagster gives it up.
DELIVERY_S = 25.0
_ANSWER_S = 10.0
_LISTED = 20
_SENTENCE_LENGTH = 250  # Teams takes 28 kB in all
_SAID_LENGTH = 120
_PORTS = {"none": 25, "starttls": 587, "ssl": 465}
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)
_MAY_HAVE_ARRIVED = (502, 504)  # a gateway that lost its server
# In the order of their weight: what is listed first and how many of them are told in the title.
_IN_TITLE = {
    "hold": "work is on hold",
    "failure": "{} failed",
    "silent": "{} silent",
    "recovered": "{} recovered",
    "heard": "{} heard again",
    "success": "{} came through",
}

Channel = WebhookSettings | MailSettings


@dataclass(frozen=True)
class News:
    """Something to tell: `kind`, `subject` and `camera` as in the table `notifications`, `told` in one sentence."""

    event_id: str
    kind: str
    subject: str
    camera: str | None
    told: str
    noticed_at_utc: datetime


@dataclass(frozen=True)
class Message:
    """News that go out together."""

    message_id: str
    news: Sequence[News]

    @property
    def title(self) -> str:
        """What happened, in one line."""
        if len(self.news) == 1:
            return f"cv-assets: {_shortened(self.news[0].told, _SENTENCE_LENGTH)}"
        counts = Counter(one.kind for one in self.news)
        told = [text.format(counts[kind]) for kind, text in _IN_TITLE.items() if counts[kind]]
        return f"cv-assets: {', '.join(told)}"

    @property
    def listed(self) -> list[News]:
        """The gravest news first, no more than people read, each no longer than channels take."""
        order = list(_IN_TITLE)
        ranked = sorted(self.news, key=lambda one: order.index(one.kind))
        return [replace(one, told=_shortened(one.told, _SENTENCE_LENGTH)) for one in ranked[:_LISTED]]

    @property
    def lines(self) -> list[str]:
        """The listed news, and the number of the others."""
        lines = [one.told for one in self.listed]
        if (more := len(self.news) - _LISTED) > 0:
            lines.append(f"… and {more} more: SELECT * FROM notifications WHERE message_id = '{self.message_id}'")
        return lines


@dataclass(frozen=True)
class Delivery:
    """What came of handing a message over.

    Attributes:
        state: sent; missed: it certainly did not arrive; unknown: it may have.
        error: What went wrong, in words without any secret; of a message that was sent, who refused it.
    """

    state: Literal["sent", "missed", "unknown"]
    error: str | None = None


def revealed(secret: Secret, environment: Mapping[str, str] = os.environ) -> str:
    """A secret in clear text.

    Raises:
        PipelineError: It is to come from an environment variable that is not set.
    """
    if isinstance(secret, SecretStr):
        return secret.get_secret_value()
    if not environment.get(secret.env):
        raise PipelineError(f"the environment variable {secret.env} is not set where the pipeline was started")
    return environment[secret.env]


def check_channel(channel: Channel, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a channel that cannot work, without calling anybody.

    Raises:
        PipelineError: A secret is not in the environment or is no web address, or the certificates cannot be read.
    """
    try:
        if isinstance(channel, WebhookSettings):
            web_address(revealed(channel.url, environment))
        elif channel.password is not None:
            revealed(channel.password, environment)
        _tls(channel)
    except (PipelineError, ValueError) as error:
        raise PipelineError(f"The channel {channel.name} cannot be used: {error}.") from error


def payload(channel: WebhookSettings, message: Message) -> dict[str, Any]:
    """What is posted to a webhook, in its format."""
    if channel.format == "slack":
        text = "\n".join(
            [message.title, *(f"• {line}" for line in message.lines)] if len(message.news) > 1 else [message.title]
        )
        # Slack's three control characters; names are full of underscores and asterisks, which are no markup here.
        for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(char, entity)
        return {"text": text, "mrkdwn": False}
    if channel.format == "teams":
        return {"type": "message", "attachments": [_adaptive_card(message)]}
    return {
        "message_id": message.message_id,
        "title": message.title,
        "text": "\n".join(message.lines),
        "counts": dict(Counter(one.kind for one in message.news)),
        "events": [{**vars(one), "noticed_at_utc": one.noticed_at_utc.isoformat()} for one in message.listed],
    }


def _adaptive_card(message: Message) -> dict[str, Any]:
    # Text runs are taken as they are; a text block would read markup into names.
    title = {"type": "TextRun", "text": message.title, "weight": "Bolder"}
    body = [{"type": "RichTextBlock", "inlines": [title]}]
    if len(message.news) > 1:
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


def mail(channel: MailSettings, message: Message) -> EmailMessage:
    """The mail that a mail channel sends."""
    made = EmailMessage(policy=SMTP)
    made["Subject"] = message.title
    made["From"] = channel.sender
    made["To"] = ", ".join(channel.recipients)
    made["Date"] = formatdate(localtime=False)
    made["Message-ID"] = f"<{message.message_id}@cv-assets>"
    made["Auto-Submitted"] = "auto-generated"
    made.set_content("\n".join([*message.lines, "", f"Sent by cv-assets on {socket.gethostname()}."]))
    return made


def send(channel: Channel, message: Message) -> Delivery:
    """Hand a message over, and tell what came of it; never raises."""
    secrets: list[str] = []
    try:
        if isinstance(channel, WebhookSettings):
            secrets.append(revealed(channel.url))
            found = _post(channel, web_address(secrets[0]), message)
        else:
            if channel.password is not None:
                secrets.append(revealed(channel.password))
            found = _mail(channel, secrets[0] if secrets else "", message)
    except (PipelineError, ValueError) as error:
        found = Delivery("missed", _sentence(error))
    except Exception as error:
        # The boundary that keeps a channel's failure to itself, whatever its kind.
        found = Delivery("unknown", f"Unexpected {type(error).__name__}: {error}.")
    return Delivery(found.state, _without(secrets, found.error))


def send_all(messages: Sequence[tuple[Channel, Message]]) -> Iterator[tuple[Channel, Delivery]]:
    """Hand messages over to different channels side by side, so that none waits for another.

    Yields:
        What came of each, in the order in which they ended; all of them within DELIVERY_S.
    """
    ended: queue.SimpleQueue[tuple[Channel, Delivery]] = queue.SimpleQueue()
    deadline = time.monotonic() + DELIVERY_S

    def work(channel: Channel, message: Message) -> None:
        ended.put((channel, send(channel, message)))

    pending = {channel.name: channel for channel, _ in messages}
    for one in messages:
        threading.Thread(target=work, args=one, daemon=True).start()
    while pending:
        try:
            channel, delivery = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        del pending[channel.name]
        yield channel, delivery
    for channel in pending.values():
        yield channel, Delivery("unknown", f"It was not taken within {DELIVERY_S:.0f} s.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without the message."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(channel: WebhookSettings, url: str, message: Message) -> Delivery:
    body = json.dumps(payload(channel, message), ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "cv-assets"}
    request = urllib.request.Request(url, body, headers, method="POST")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if request.type == "https":
        handlers.append(urllib.request.HTTPSHandler(context=_tls(channel)))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_ANSWER_S):
            return Delivery("sent")
    except urllib.error.HTTPError as error:
        with error, suppress(OSError, http.client.HTTPException):
            said = error.read(_SAID_LENGTH).decode(errors="replace")
            told = f"The server answers {error.code} {error.reason}: {said}"
            return Delivery("unknown" if error.code in _MAY_HAVE_ARRIVED else "missed", _sentence(told))
        return Delivery("missed", _sentence(f"The server answers {error.code}"))
    except urllib.error.URLError as error:
        # Raised until the request is out; of these, what happens before anything is sent.
        reason = error.reason
        is_missed = isinstance(reason, (socket.gaierror, ConnectionRefusedError, ssl.SSLError, TimeoutError)) or (
            isinstance(reason, OSError) and reason.errno in _UNREACHABLE
        )
        return Delivery("missed" if is_missed else "unknown", _sentence(f"It cannot be reached: {reason}"))
    except (OSError, http.client.HTTPException) as error:
        return Delivery("unknown", _sentence(f"It gave no answer: {error or type(error).__name__}"))


def _mail(channel: MailSettings, password: str, message: Message) -> Delivery:
    is_at_risk = False
    server: smtplib.SMTP | None = None
    try:
        server = _connected(channel)
        if channel.user is not None:
            server.login(channel.user, password)
        is_at_risk = True
        refused = server.send_message(mail(channel, message))
        with suppress(smtplib.SMTPException, OSError):
            server.quit()
        return Delivery("sent", f"Refused: {', '.join(refused)}." if refused else None)
    except smtplib.SMTPRecipientsRefused as error:
        return Delivery(
            "missed", _sentence("; ".join(f"{who}: {_said(*said)}" for who, said in error.recipients.items()))
        )
    except smtplib.SMTPResponseException as error:
        return Delivery("missed", _sentence(_said(error.smtp_code, error.smtp_error)))
    except smtplib.SMTPServerDisconnected as error:
        return Delivery("unknown" if is_at_risk else "missed", _sentence(error))
    except (smtplib.SMTPException, ValueError) as error:
        return Delivery("missed", _sentence(error))
    except OSError as error:
        return Delivery("unknown" if is_at_risk else "missed", _sentence(f"It cannot be reached: {error}"))
    finally:
        if server is not None:
            server.close()


def _connected(channel: MailSettings) -> smtplib.SMTP:
    port = channel.port or _PORTS[channel.security]
    if channel.security == "ssl":
        return smtplib.SMTP_SSL(channel.host, port, timeout=_ANSWER_S, context=_tls(channel))
    server = smtplib.SMTP(channel.host, port, timeout=_ANSWER_S)
    if channel.security == "starttls":
        try:
            server.starttls(context=_tls(channel))
        except BaseException:
            server.close()
            raise
    return server


def _tls(channel: Channel) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=channel.ca_file)
    except OSError as error:
        raise PipelineError(f"the certificates {channel.ca_file} cannot be read: {error.strerror or error}") from error


def _said(code: int, text: bytes | str) -> str:
    return f"The server answers {code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"


def _sentence(told: object) -> str:
    text = _shortened(str(told), 2 * _SAID_LENGTH).rstrip(" .:")
    return f"{text[:1].upper()}{text[1:]}."


def _shortened(text: str, length: int) -> str:
    """On one line, and cut where it is longer."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _without(secrets: Sequence[str], text: str | None) -> str | None:
    for secret in filter(None, secrets):
        text = text and text.replace(secret, "(secret)")
    return text


def trial_message() -> Message:
    """A message by which a person sees that a channel works."""
    told = f"This is a test from {socket.gethostname()}: the channel works."
    return Message(f"test-{time.time_ns():x}", [News("test", "success", "", None, told, datetime.now(UTC))])
