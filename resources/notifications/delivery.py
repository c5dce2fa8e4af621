"""Delivery of messages by webhook and e-mail, with the result of each delivery.

Nothing is stored here; `sensors/notification_events.py` decides what is sent and `sensors/notification_ledger.py`
records it. Apprise is not used: its results name neither the cause of a connection error nor the server's answer to an
e-mail, its debug log, which does, contains the secret address of a webhook, and it has no `ca_file` per channel.
"""

import errno
import http.client
import json
import os
import queue
import re
import smtplib
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from resources.config.operations_config import EmailSettings, WebhookSettings, check_web_address
from resources.config.section import Secret
from resources.errors import PipelineError
from resources.notifications.messages import (
    MAX_RESPONSE_LENGTH,
    Message,
    as_sentence,
    build_email,
    build_webhook_payload,
)

DELIVERY_S = 25.0  # a sensor's tick has 60 s in all before Dagster times it out
_RESPONSE_TIMEOUT_S = 10.0
_DEFAULT_PORTS = {"none": 25, "starttls": 587, "ssl": 465}
_UNREACHABLE_ERRNOS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)
_MIN_SECRET_LENGTH = 8  # shorter parts of an address are words
_GATEWAY_STATUSES = (502, 504)  # the gateway has no answer from its server, which may have accepted the message
Channel = WebhookSettings | EmailSettings


@dataclass(frozen=True)
class Delivery:
    """The result of sending a message to a channel.

    Attributes:
        state: sent; undelivered: the message certainly did not arrive; unknown: it may have arrived.
        error: The error, without any secret; for a message that was sent, the recipients that were refused.
    """

    state: Literal["sent", "undelivered", "unknown"]
    error: str | None = None


def resolve_secret(secret: Secret, environment: Mapping[str, str] = os.environ) -> str:
    """Return a secret in clear text.

    Raises:
        PipelineError: The secret comes from an environment variable that is not set.
    """
    if isinstance(secret, SecretStr):
        return secret.get_secret_value()
    if not environment.get(secret.env):
        raise PipelineError(f"the environment variable {secret.env} is not set where the pipeline was started")
    return environment[secret.env]


def check_channel(channel: Channel, environment: Mapping[str, str] = os.environ) -> None:
    """Check the settings of a channel without connecting to its server.

    Raises:
        PipelineError: A secret is not in the environment or is no web address, or the certificates cannot be read.
    """
    try:
        if isinstance(channel, WebhookSettings):
            check_web_address(resolve_secret(channel.url, environment))
        elif channel.password is not None:
            resolve_secret(channel.password, environment)
        _tls_context(channel)
    except (PipelineError, ValueError) as error:
        raise PipelineError(f"The channel {channel.name} cannot be used: {error}.") from error


def send_message(channel: Channel, message: Message) -> Delivery:
    """Send a message to a channel and return the result; never raises."""
    secrets: list[str] = []
    try:
        if isinstance(channel, WebhookSettings):
            url = resolve_secret(channel.url)
            secrets.extend(_secret_parts(url))
            delivery = _post_to_webhook(channel, check_web_address(url), message)
        else:
            if channel.password is not None:
                secrets.append(resolve_secret(channel.password))
            delivery = _send_email(channel, secrets[0] if secrets else "", message)
    except (PipelineError, ValueError) as error:
        delivery = Delivery("undelivered", as_sentence(error))
    except Exception as error:
        # An error of any class in one channel must not stop the other channels.
        delivery = Delivery("unknown", f"Unexpected {type(error).__name__}: {error}.")
    return Delivery(delivery.state, _mask_secrets(secrets, delivery.error))


def send_messages(messages: Sequence[tuple[Channel, Message]]) -> Iterator[tuple[Channel, Delivery]]:
    """Send messages to different channels in parallel, so that no channel waits for another.

    Yields:
        Each channel and its result, in the order in which they finish; all of them within DELIVERY_S.
    """
    results: queue.SimpleQueue[tuple[Channel, Delivery]] = queue.SimpleQueue()
    deadline_s = time.monotonic() + DELIVERY_S

    def send(channel: Channel, message: Message) -> None:
        results.put((channel, send_message(channel, message)))

    pending = {channel.name: channel for channel, _ in messages}
    for channel_and_message in messages:
        threading.Thread(target=send, args=channel_and_message, daemon=True).start()
    while pending:
        try:
            channel, delivery = results.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            break
        del pending[channel.name]
        yield channel, delivery
    for channel in pending.values():
        yield channel, Delivery("unknown", f"The server did not accept the message within {DELIVERY_S:.0f} s.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: a redirected POST would arrive as a GET without the message."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post_to_webhook(channel: WebhookSettings, url: str, message: Message) -> Delivery:
    return post_json(url, build_webhook_payload(channel, message), lambda: _tls_context(channel))


def post_json(
    url: str, payload: Mapping[str, Any], tls_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
) -> Delivery:
    """Send a payload by one POST, without following redirects, and return the result.

    Args:
        url: A web address.
        payload: The values to send as JSON.
        tls_context: Builds the context that verifies the server of an https address.
    """
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "cv-assets"}
    request = urllib.request.Request(url, body, headers, method="POST")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if request.type == "https":
        handlers.append(urllib.request.HTTPSHandler(context=tls_context()))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_RESPONSE_TIMEOUT_S):
            return Delivery("sent")
    except urllib.error.HTTPError as error:
        with error, suppress(OSError, http.client.HTTPException):
            response = error.read(MAX_RESPONSE_LENGTH).decode(errors="replace")
            sentence = as_sentence(f"The server answers {error.code} {error.reason}: {response}")
            return Delivery("unknown" if error.code in _GATEWAY_STATUSES else "undelivered", sentence)
        return Delivery("undelivered", as_sentence(f"The server answers {error.code}"))
    except urllib.error.URLError as error:
        # Raised until the request is sent completely; these reasons occur before any of it is sent.
        reason = error.reason
        is_undelivered = isinstance(reason, (socket.gaierror, ConnectionRefusedError, ssl.SSLError, TimeoutError)) or (
            isinstance(reason, OSError) and reason.errno in _UNREACHABLE_ERRNOS
        )
        sentence = as_sentence(f"The server cannot be reached: {reason}")
        return Delivery("undelivered" if is_undelivered else "unknown", sentence)
    except (OSError, http.client.HTTPException) as error:
        return Delivery("unknown", as_sentence(f"The server did not answer: {error or type(error).__name__}"))


def _send_email(channel: EmailSettings, password: str, message: Message) -> Delivery:
    may_have_arrived = False
    server: smtplib.SMTP | None = None
    try:
        server = _connect_to_mail_server(channel)
        if channel.user is not None:
            server.login(channel.user, password)
        may_have_arrived = True
        refused_recipients = server.send_message(build_email(channel, message))
        with suppress(smtplib.SMTPException, OSError):
            server.quit()
        return Delivery("sent", f"Refused: {', '.join(refused_recipients)}." if refused_recipients else None)
    except smtplib.SMTPRecipientsRefused as error:
        refusals = [f"{recipient}: {_answer_text(*answer)}" for recipient, answer in error.recipients.items()]
        return Delivery("undelivered", as_sentence("; ".join(refusals)))
    except smtplib.SMTPResponseException as error:
        return Delivery("undelivered", as_sentence(_answer_text(error.smtp_code, error.smtp_error)))
    except smtplib.SMTPServerDisconnected as error:
        return Delivery("unknown" if may_have_arrived else "undelivered", as_sentence(error))
    except (smtplib.SMTPException, ValueError) as error:
        return Delivery("undelivered", as_sentence(error))
    except OSError as error:
        sentence = as_sentence(f"The server cannot be reached: {error}")
        return Delivery("unknown" if may_have_arrived else "undelivered", sentence)
    finally:
        if server is not None:
            server.close()


def _connect_to_mail_server(channel: EmailSettings) -> smtplib.SMTP:
    port = channel.port or _DEFAULT_PORTS[channel.security]
    if channel.security == "ssl":
        return smtplib.SMTP_SSL(channel.host, port, timeout=_RESPONSE_TIMEOUT_S, context=_tls_context(channel))
    server = smtplib.SMTP(channel.host, port, timeout=_RESPONSE_TIMEOUT_S)
    if channel.security == "starttls":
        try:
            server.starttls(context=_tls_context(channel))
        except BaseException:
            server.close()
            raise
    return server


def _tls_context(channel: Channel) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=channel.ca_file)
    except OSError as error:
        raise PipelineError(f"the certificates {channel.ca_file} cannot be read: {error.strerror or error}") from error


def _answer_text(code: int, text: bytes | str) -> str:
    return f"The server answers {code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"


def _secret_parts(url: str) -> list[str]:
    """The address of a webhook and the parts of it that a server may quote in its answer, longest first."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    texts = {url, parts.password or "", *re.split(r"[/?&=]", f"{parts.path}?{parts.query}")}
    return sorted((text for text in texts if len(text) >= _MIN_SECRET_LENGTH), key=len, reverse=True)


def _mask_secrets(secrets: Sequence[str], text: str | None) -> str | None:
    for secret in filter(None, secrets):
        text = text and text.replace(secret, "(secret)")
    return text
