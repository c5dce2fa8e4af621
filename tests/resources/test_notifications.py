"""Handing messages over to real servers on this machine."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resources.errors import PipelineError
from resources.notifications import Message, News, check_channel, mail, payload, revealed, send, send_all
from resources.settings import EnvironmentVariable, MailSettings, WebhookSettings
from tests.receivers import HOST, Authority, Hook, authority, hook, mail_server

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
GOOD = News("e1", "success", "gate_1", "gate", "gate_1 came through.", AT)
BAD = News("e2", "failure", "<b>*bad*_2", "gate", "<b>*bad*_2 rejected: not a video & more.", AT)
TWO = Message("m1", [GOOD, BAD])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HOST)


@pytest.fixture
def web() -> Iterator[Hook]:
    with hook() as found:
        yield found


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates"))


def webhook(url: str, **more: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"name": "ops", "url": url, **more})


def mails(port: int, **more: Any) -> MailSettings:
    given = {"name": "desk", "host": HOST, "port": port, "security": "none"}
    return MailSettings.model_validate(
        {**given, "sender": "cv@example.org", "recipients": ["a@example.org", "b@example.org"], **more}
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def test_a_webhook_gets_every_field_as_json(web: Hook) -> None:
    assert send(webhook(web.url), TWO).state == "sent"
    (posted,) = web.posted
    assert posted["title"] == "cv-assets: 1 failed, 1 came through"
    assert posted["text"].splitlines() == [BAD.told, GOOD.told]
    assert posted["counts"] == {"success": 1, "failure": 1}
    assert [event["kind"] for event in posted["events"]] == ["failure", "success"]
    assert posted["events"][1] == {**vars(GOOD), "noticed_at_utc": "2026-03-01T08:00:00+00:00"}


def test_slack_gets_plain_text_with_its_control_characters_escaped(web: Hook) -> None:
    assert send(webhook(web.url, format="slack"), TWO).state == "sent"
    title, bad, good = web.posted[0]["text"].splitlines()
    assert (title, good) == ("cv-assets: 1 failed, 1 came through", "• gate_1 came through.")
    assert bad == "• &lt;b&gt;*bad*_2 rejected: not a video &amp; more."
    assert web.posted[0]["mrkdwn"] is False


def test_teams_gets_an_adaptive_card_whose_names_are_no_markup(web: Hook) -> None:
    web.answers = [202]
    assert send(webhook(web.url, format="teams"), TWO).state == "sent"
    assert web.posted[0]["type"] == "message"
    (attachment,) = web.posted[0]["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    blocks = attachment["content"]["body"]
    assert {block["type"] for block in blocks} == {"RichTextBlock"}
    assert [block["inlines"][0]["text"] for block in blocks] == [TWO.title, BAD.told, GOOD.told]


@pytest.mark.parametrize("form", ["json", "slack", "teams"])
def test_a_thousand_news_are_one_short_message(form: str) -> None:
    news = [replace(GOOD, event_id=str(n), told=f"{'ü' * 500}\n{n}") for n in range(999)]
    message = Message("m9", [*news, BAD])
    assert message.title == "cv-assets: 1 failed, 999 came through"
    assert message.lines[0] == BAD.told
    assert message.lines[-1] == "… and 980 more: SELECT * FROM notifications WHERE message_id = 'm9'"
    body = json.dumps(payload(webhook("http://a/b", format=form), message), ensure_ascii=False).encode()
    assert len(body) < 28_000
    assert len(mail(mails(1), message).as_bytes()) < 28_000


@pytest.mark.parametrize(
    ("status", "state"),
    [(500, "missed"), (503, "missed"), (429, "missed"), (404, "missed"), (302, "missed"), (502, "unknown")],
)
def test_a_server_that_refuses_is_told_without_the_secret(web: Hook, status: int, state: str) -> None:
    web.answers = [status]
    found = send(webhook(web.url), TWO)
    assert found.state == state
    assert f"The server answers {status}" in str(found.error)
    assert "verysecret" not in str(found)
    assert len(web.posted) == 1  # a redirect is not followed


def test_nobody_there_is_certainly_missed() -> None:
    found = send(webhook(f"http://{HOST}:{free_port()}/verysecret"), TWO)
    assert (found.state, "refused" in str(found.error)) == ("missed", True)
    found = send(webhook("http://nowhere.invalid/verysecret"), TWO)
    assert found.state == "missed"
    assert "verysecret" not in str(found)


def test_a_connection_that_breaks_after_the_message_is_unknown() -> None:
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()

        def take_and_hang_up() -> None:
            peer, _ = server.accept()
            peer.recv(65_536)
            peer.close()

        threading.Thread(target=take_and_hang_up, daemon=True).start()
        found = send(webhook(f"http://{HOST}:{server.getsockname()[1]}/"), TWO)
    assert found.state == "unknown"


def test_https_is_checked_against_the_named_certificates(trusted: Authority) -> None:
    with hook(trusted.certificate) as web:
        found = send(webhook(web.url), TWO)
        assert (found.state, web.posted) == ("missed", [])
        assert "certificate verify failed" in str(found.error)
        assert send(webhook(web.url, ca_file=str(trusted.file)), TWO).state == "sent"


@pytest.mark.parametrize("security", ["none", "starttls", "ssl"])
@pytest.mark.parametrize("needs_login", [False, True])
def test_mails_go_out_plain_and_encrypted_with_and_without_login(
    security: str, needs_login: bool, trusted: Authority
) -> None:
    certificate = None if security == "none" else trusted.certificate
    login = {"user": "cv", "password": "right"} if needs_login else {}
    with mail_server(security, certificate, needs_login) as box:
        channel = mails(box.port, security=security, ca_file=str(trusted.file), **login)
        found = send(channel, TWO)
        assert found.state == "sent", found
    (received,) = box.mails
    assert received["Subject"] == "cv-assets: 1 failed, 1 came through"
    assert received["To"] == "a@example.org, b@example.org"
    assert received["Message-ID"] == "<m1@cv-assets>"
    assert received.get_content().splitlines()[:2] == [BAD.told, GOOD.told]
    assert box.users == ([("cv", "right")] if needs_login else [])


def test_mails_that_are_refused_are_missed_and_say_why_without_the_password(trusted: Authority) -> None:
    with mail_server("starttls", trusted.certificate, needs_login=True) as box:
        secure = {"security": "starttls", "ca_file": str(trusted.file)}
        found = send(mails(box.port, **secure, user="cv", password="wrong-one"), TWO)
        assert (found.state, "535" in str(found.error), "wrong-one" in str(found)) == ("missed", True, False)
        found = send(mails(box.port, **secure), TWO)
        assert (found.state, "530" in str(found.error)) == ("missed", True)
        found = send(mails(box.port, security="starttls"), TWO)
        assert (found.state, "certificate verify failed" in str(found.error)) == ("missed", True)
    with mail_server() as box:
        found = send(mails(box.port, security="starttls"), TWO)
        assert (found.state, "STARTTLS" in str(found.error)) == ("missed", True)
        box.answer = "451 try later"
        found = send(mails(box.port), TWO)
        assert (found.state, found.error) == ("missed", "The server answers 451 try later.")
    assert send(mails(free_port()), TWO).state == "missed"


def test_a_slow_channel_holds_up_no_other(web: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.notifications.DELIVERY_S", 1.5)
    with hook() as slow:
        slow.answers = [None]
        ended = [
            (channel.name, delivery.state)
            for channel, delivery in send_all([(webhook(slow.url, name="slow"), TWO), (webhook(web.url), TWO)])
        ]
    assert ended == [("ops", "sent"), ("slow", "unknown")]


def test_secrets_come_from_the_environment(tmp_path: Path) -> None:
    secret = EnvironmentVariable(env="HOOK")
    assert revealed(secret, {"HOOK": "http://a/b"}) == "http://a/b"
    channel = WebhookSettings(name="ops", url=secret)
    check_channel(channel, {"HOOK": "http://a/b"})
    with pytest.raises(PipelineError, match="The channel ops cannot be used: the environment variable HOOK is not set"):
        check_channel(channel, {})
    with pytest.raises(PipelineError, match="the address must be like https://host/path") as caught:
        check_channel(channel, {"HOOK": "hidden value"})
    assert "hidden" not in str(caught.value)
    with pytest.raises(PipelineError, match=r"the certificates .*none.pem cannot be read: No such file"):
        check_channel(webhook("http://a/b", ca_file=str(tmp_path / "none.pem")))
    assert send(channel, TWO).error == "The environment variable HOOK is not set where the pipeline was started."
