"""Callbacks to a real web server on this machine: sent once, retried, never to another host."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from resources.source_index import SourceFile, SourceIndex
from serve.callback_sender import CallbackSender, check_callback_url
from serve.problems import ProblemError
from serve.recording_report import Callback, read_report
from tests.builders.api_client import ApiClient
from tests.builders.message_receivers import Webhook, webhook_server

RECORDING_ID = "x-7dc71a9a"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with webhook_server() as webhook:
        yield webhook


@pytest.fixture
def client(tmp_path: Path, webhook: Webhook) -> ApiClient:
    """The API of a data folder in which a submitted file was skipped, so that its recording is final."""
    host = webhook.url.removeprefix("http://").partition("/")[0]
    client = ApiClient(tmp_path, callback_hosts=[host])
    submit(client, webhook)
    reason = "The file is empty (0 bytes)."
    file = SourceFile("x.mp4", 0, 1, None, None, "unreadable", reason)
    SourceIndex(client.state.store).save([file])
    return client


def submit(client: TestClient, webhook: Webhook) -> None:
    """Submit a file of one byte."""
    query = {"name": "x.mp4", "callback_url": webhook.url}
    headers = {"content-type": "video/mp4"}
    response = client.post("/api/recordings", params=query, content=b"x", headers=headers)
    assert response.json()["recording_id"] == RECORDING_ID, response.text


def callback(client: ApiClient) -> Callback:
    report = read_report(client.state, RECORDING_ID)
    assert report is not None
    return report.callbacks[0]


def test_a_callback_is_sent_once_when_its_recording_is_final(client: ApiClient, webhook: Webhook) -> None:
    sender = CallbackSender(client.state, (0.0,))
    sender.send_due()
    sender.send_due()
    (message,) = webhook.messages
    assert (message["state"], message["error"]) == ("skipped", "The file is empty (0 bytes).")
    assert message["status_path"] == f"/api/recordings/{RECORDING_ID}"
    assert (callback(client).state, callback(client).attempts, callback(client).error) == ("sent", 1, None)


def test_two_servers_send_a_callback_once(client: ApiClient, webhook: Webhook) -> None:
    (submission,) = client.state.submissions.due_callbacks()
    assert client.state.submissions.start_attempt(submission, 0.0)
    assert not client.state.submissions.start_attempt(submission, 0.0)


def test_a_callback_is_tried_three_times(client: ApiClient, webhook: Webhook) -> None:
    webhook.response_statuses = [500, 503, 500, 200]
    sender = CallbackSender(client.state, (0.0,))
    for _ in range(5):
        sender.send_due()
    assert len(webhook.messages) == 3
    assert (callback(client).state, callback(client).attempts) == ("failed", 3)
    assert "The server answers 500" in (callback(client).error or "")


def test_a_callback_follows_no_redirect(client: ApiClient, webhook: Webhook) -> None:
    webhook.response_statuses = [302, 307, 301]
    sender = CallbackSender(client.state, (0.0,))
    for _ in range(4):
        sender.send_due()
    assert len(webhook.messages) == 3 and callback(client).state == "failed"


def test_a_pending_callback_waits_for_its_recording(tmp_path: Path, webhook: Webhook) -> None:
    host = webhook.url.removeprefix("http://").partition("/")[0]
    client = ApiClient(tmp_path, callback_hosts=[host])
    submit(client, webhook)
    CallbackSender(client.state).send_due()
    assert webhook.messages == [] and callback(client).state == "pending"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://evil.example/x", "the host evil.example:80 is not in serve.callback_hosts"),
        ("http://hooks.example:81/x", "the host hooks.example:81 is not in"),
        ("http://hooks.example@evil.example/", "no user or password"),
        ("http://hooks.example.evil.example/", "is not in"),
        ("ftp://hooks.example/", "the address must be like"),
        ("http://hooks.example/a b", "the address must be like"),
        (f"http://hooks.example/{'x' * 3000}", "2000 characters at most"),
    ],
)
def test_other_hosts_are_refused(url: str, sentence: str) -> None:
    with pytest.raises(ProblemError, match="callback_url: ") as error:
        check_callback_url(url, ["hooks.example:80", "HOOKS.example:8443"])
    assert sentence in str(error.value.detail)


def test_hosts_of_the_settings_are_allowed() -> None:
    for url in ("http://hooks.example/x?y=1", "http://hooks.example:80", "https://hooks.example:8443/"):
        assert check_callback_url(url, ["hooks.example:80", "HOOKS.example:8443"]) == url
