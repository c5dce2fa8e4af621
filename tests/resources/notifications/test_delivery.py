"""Delivery of messages to real web and SMTP servers on this machine."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resources.config.operations_config import EmailSettings, WebhookSettings
from resources.config.section import EnvironmentVariable
from resources.errors import PipelineError
from resources.notifications import delivery as delivery_module
from resources.notifications.delivery import check_channel, resolve_secret, send_message, send_messages
from resources.notifications.messages import Message, NotificationEvent, build_email, build_webhook_payload
from tests.builders.message_receivers import (
    HOST,
    CertificateAuthority,
    Webhook,
    create_certificate_authority,
    smtp_server,
    webhook_server,
)

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
SUCCESS = NotificationEvent("e1", "success", "gate_1", "gate", "gate_1 succeeded.", AT)
FAILURE = NotificationEvent("e2", "failure", "<b>*bad*_2", "gate", "<b>*bad*_2 rejected: not a video & more.", AT)
TWO_EVENTS = Message("m1", [SUCCESS, FAILURE])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HOST)


@pytest.fixture
def web() -> Iterator[Webhook]:
    with webhook_server() as webhook:
        yield webhook


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return create_certificate_authority(tmp_path_factory.mktemp("certificates"))


def webhook_channel(url: str, **settings: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"name": "ops", "url": url, **settings})


def email_channel(port: int, **settings: Any) -> EmailSettings:
    server = {"name": "desk", "host": HOST, "port": port, "security": "none"}
    return EmailSettings.model_validate(
        {**server, "sender": "cv@example.org", "recipients": ["a@example.org", "b@example.org"], **settings}
    )


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def test_a_webhook_receives_every_field_as_json(web: Webhook) -> None:
    assert send_message(webhook_channel(web.url), TWO_EVENTS).state == "sent"
    (message,) = web.messages
    assert message["title"] == "cv-assets: 1 failed, 1 succeeded"
    assert message["text"].splitlines() == [FAILURE.message, SUCCESS.message]
    assert message["counts"] == {"success": 1, "failure": 1}
    assert [event["kind"] for event in message["events"]] == ["failure", "success"]
    assert message["events"][1] == {**vars(SUCCESS), "reported_at_utc": "2026-03-01T08:00:00+00:00"}


def test_slack_receives_plain_text_with_its_control_characters_escaped(web: Webhook) -> None:
    assert send_message(webhook_channel(web.url, format="slack"), TWO_EVENTS).state == "sent"
    title, failure, success = web.messages[0]["text"].splitlines()
    assert (title, success) == ("cv-assets: 1 failed, 1 succeeded", "• gate_1 succeeded.")
    assert failure == "• &lt;b&gt;*bad*_2 rejected: not a video &amp; more."
    assert web.messages[0]["mrkdwn"] is False


def test_teams_receives_an_adaptive_card_that_shows_names_literally(web: Webhook) -> None:
    web.response_statuses = [202]
    assert send_message(webhook_channel(web.url, format="teams"), TWO_EVENTS).state == "sent"
    assert web.messages[0]["type"] == "message"
    (attachment,) = web.messages[0]["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    blocks = attachment["content"]["body"]
    assert {block["type"] for block in blocks} == {"RichTextBlock"}
    texts = [block["inlines"][0]["text"] for block in blocks]
    assert texts == [TWO_EVENTS.title, FAILURE.message, SUCCESS.message]


@pytest.mark.parametrize("payload_format", ["json", "slack", "teams"])
def test_a_thousand_events_fit_into_one_short_message(payload_format: str) -> None:
    successes = [replace(SUCCESS, event_id=str(n), message=f"{'ü' * 500}\n{n}") for n in range(999)]
    message = Message("m9", [*successes, FAILURE])
    assert message.title == "cv-assets: 1 failed, 999 succeeded"
    assert message.lines[0] == FAILURE.message
    assert message.lines[-1] == "… and 980 more: SELECT * FROM notifications WHERE message_id = 'm9'"
    payload = build_webhook_payload(webhook_channel("http://a/b", format=payload_format), message)
    assert len(json.dumps(payload, ensure_ascii=False).encode()) < 28_000
    assert len(build_email(email_channel(1), message).as_bytes()) < 28_000


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (500, "undelivered"),
        (503, "undelivered"),
        (429, "undelivered"),
        (404, "undelivered"),
        (302, "undelivered"),
        (502, "unknown"),
    ],
)
def test_an_error_status_is_reported_without_the_secret(web: Webhook, status: int, state: str) -> None:
    web.response_statuses = [status]
    delivery = send_message(webhook_channel(web.url), TWO_EVENTS)
    assert delivery.state == state
    assert f"The server answers {status}" in str(delivery.error)
    assert "verysecret" not in str(delivery)
    assert len(web.messages) == 1  # redirects are not followed


def test_a_message_to_a_server_that_does_not_exist_is_undelivered() -> None:
    delivery = send_message(webhook_channel(f"http://{HOST}:{find_free_port()}/verysecret"), TWO_EVENTS)
    assert (delivery.state, "refused" in str(delivery.error)) == ("undelivered", True)
    delivery = send_message(webhook_channel("http://nowhere.invalid/verysecret"), TWO_EVENTS)
    assert delivery.state == "undelivered"
    assert "verysecret" not in str(delivery)


def test_a_delivery_is_unknown_if_the_connection_closes_after_the_message() -> None:
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()

        def receive_and_close() -> None:
            connection, _ = server.accept()
            connection.recv(65_536)
            connection.close()

        threading.Thread(target=receive_and_close, daemon=True).start()
        delivery = send_message(webhook_channel(f"http://{HOST}:{server.getsockname()[1]}/"), TWO_EVENTS)
    assert delivery.state == "unknown"


def test_https_servers_are_verified_with_the_certificates_of_the_channel(authority: CertificateAuthority) -> None:
    with webhook_server(authority.certificate) as web:
        delivery = send_message(webhook_channel(web.url), TWO_EVENTS)
        assert (delivery.state, web.messages) == ("undelivered", [])
        assert "certificate verify failed" in str(delivery.error)
        assert send_message(webhook_channel(web.url, ca_file=str(authority.file)), TWO_EVENTS).state == "sent"


@pytest.mark.parametrize("security", ["none", "starttls", "ssl"])
@pytest.mark.parametrize("needs_login", [False, True])
def test_emails_are_sent_with_and_without_encryption_and_login(
    security: str, needs_login: bool, authority: CertificateAuthority
) -> None:
    certificate = None if security == "none" else authority.certificate
    login = {"user": "cv", "password": "right"} if needs_login else {}
    with smtp_server(security, certificate, needs_login) as mailbox:
        channel = email_channel(mailbox.port, security=security, ca_file=str(authority.file), **login)
        delivery = send_message(channel, TWO_EVENTS)
        assert delivery.state == "sent", delivery
    (email,) = mailbox.emails
    assert email["Subject"] == "cv-assets: 1 failed, 1 succeeded"
    assert email["To"] == "a@example.org, b@example.org"
    assert email["Message-ID"] == "<m1@cv-assets>"
    assert email.get_content().splitlines()[:2] == [FAILURE.message, SUCCESS.message]
    assert mailbox.logins == ([("cv", "right")] if needs_login else [])


def test_a_refused_email_is_undelivered_with_the_reason_but_without_the_password(
    authority: CertificateAuthority,
) -> None:
    with smtp_server("starttls", authority.certificate, needs_login=True) as mailbox:
        starttls = {"security": "starttls", "ca_file": str(authority.file)}
        delivery = send_message(email_channel(mailbox.port, **starttls, user="cv", password="wrong-one"), TWO_EVENTS)
        assert delivery.state == "undelivered"
        assert "535" in str(delivery.error) and "wrong-one" not in str(delivery)
        delivery = send_message(email_channel(mailbox.port, **starttls), TWO_EVENTS)
        assert (delivery.state, "530" in str(delivery.error)) == ("undelivered", True)
        delivery = send_message(email_channel(mailbox.port, security="starttls"), TWO_EVENTS)
        assert (delivery.state, "certificate verify failed" in str(delivery.error)) == ("undelivered", True)
    with smtp_server() as mailbox:
        delivery = send_message(email_channel(mailbox.port, security="starttls"), TWO_EVENTS)
        assert (delivery.state, "STARTTLS" in str(delivery.error)) == ("undelivered", True)
        mailbox.response = "451 try later"
        delivery = send_message(email_channel(mailbox.port), TWO_EVENTS)
        assert (delivery.state, delivery.error) == ("undelivered", "The server answers 451 try later.")
    assert send_message(email_channel(find_free_port()), TWO_EVENTS).state == "undelivered"


def test_a_slow_channel_does_not_delay_the_others(web: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "DELIVERY_S", 1.5)
    with webhook_server() as slow:
        slow.response_statuses = [None]
        channels = [webhook_channel(slow.url, name="slow"), webhook_channel(web.url)]
        results = [
            (channel.name, delivery.state)
            for channel, delivery in send_messages([(channel, TWO_EVENTS) for channel in channels])
        ]
    assert results == [("ops", "sent"), ("slow", "unknown")]


def test_secrets_are_read_from_the_environment(tmp_path: Path) -> None:
    secret = EnvironmentVariable(env="HOOK")
    assert resolve_secret(secret, {"HOOK": "http://a/b"}) == "http://a/b"
    channel = WebhookSettings(name="ops", url=secret)
    check_channel(channel, {"HOOK": "http://a/b"})
    with pytest.raises(PipelineError, match="The channel ops cannot be used: the environment variable HOOK is not set"):
        check_channel(channel, {})
    with pytest.raises(PipelineError, match="the address must be like https://host/path") as caught:
        check_channel(channel, {"HOOK": "hidden value"})
    assert "hidden" not in str(caught.value)
    with pytest.raises(PipelineError, match=r"the certificates .*none.pem cannot be read: No such file"):
        check_channel(webhook_channel("http://a/b", ca_file=str(tmp_path / "none.pem")))
    delivery = send_message(channel, TWO_EVENTS)
    assert delivery.error == "The environment variable HOOK is not set where the pipeline was started."
