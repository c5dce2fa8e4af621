"""Notifications: which events are sent, once, to which channels, on a real Dagster instance and real servers."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from resources.config.detection_config import DetectionSettings
from resources.config.operations_config import NotificationSettings
from resources.config.settings import Settings
from resources.schema.operations_tables import NOTIFICATIONS
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs
from sensors import notification_ledger
from sensors.notification_events import notify
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.message_receivers import HOST, Webhook, smtp_server, webhook_server

pytestmark = pytest.mark.slow

NOON_S = 1_800_000_000.0
NO_EVENTS = "No new events."


class NotifiedPipeline:
    """Recordings whose states the test decides, and notifications at times that the test decides.

    Args:
        folder: Contains the recordings and the data.
        instance: Dagster's instance.
        notifications: The section `notifications` of the settings.

    Attributes:
        now: Current time, in seconds since 1970.
    """

    def __init__(self, folder: Path, instance: DagsterInstance, **notifications: Any) -> None:
        self.instance, self.store, self.now = instance, Store(folder / "data"), NOON_S
        self.folder = folder
        (folder / "recordings").mkdir(exist_ok=True)
        self.use_notification_settings(**notifications)

    def use_notification_settings(self, **notifications: Any) -> None:
        """Replace the section `notifications` of the settings."""
        self.graph = AssetGraph.build(
            Settings(
                watched_folder=self.folder / "recordings",
                data_folder=self.folder / "data",
                detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
                notifications=NotificationSettings.model_validate(notifications),
            )
        )

    def notify(self, after_s: float = 30.0) -> str:
        """Check for events after a while; returns what was sent."""
        self.now += after_s
        return notify(self.instance, self.store, self.graph, self.now).sentence

    def add_recordings(self, *recording_ids: str, status: str | None = None, error: str | None = None) -> None:
        """Add recordings of the camera `gate`; only with a status an attempt has ended, at the stage recordings."""
        self.instance.add_dynamic_partitions(recordings_partitions.name or "", list(recording_ids))
        for recording_id in recording_ids:
            row: dict[str, Any] = dict.fromkeys(RECORDINGS.arrow_schema.names)
            row |= {"recording_id": recording_id, "camera": "gate", "fingerprint": "f", "size_bytes": 1}
            row |= {"source_path": f"gate/{recording_id}.mp4", "mtime_utc": datetime.fromtimestamp(NOON_S, UTC)}
            self.store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], RECORDINGS.arrow_schema))
            if status:
                self.end_attempt(recording_id, "recordings", status, error=error)

    def complete(self, *recording_ids: str, error: str | None = None) -> None:
        """Complete every stage of some recordings; an error makes them partial."""
        for recording_id in recording_ids:
            for stage in self.graph.stages:
                is_partial = error and stage == "normalized_video"
                status, stage_error = ("partial", error) if is_partial else ("ok", None)
                self.end_attempt(recording_id, stage, status, error=stage_error, data_version="1")

    def fail(self, recording_id: str, attempt: int, error: str = "The file is broken.") -> None:
        """Fail the first stage of a recording."""
        self.end_attempt(recording_id, "recordings", "failed", attempt, error=error)

    def end_attempt(self, recording_id: str, stage: str, status: str, attempt: int = 1, **values: Any) -> None:
        """Append an attempt that ended now."""
        now = datetime.now(UTC)
        row = StageRun(recording_id, stage, attempt, status, uuid.uuid4().hex, now, "person", **values)
        append_stage_runs(self.store, [row])

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """Columns of the table notifications, in order of time and kind."""
        rows = sorted(self.store.read(NOTIFICATIONS).to_pylist(), key=lambda row: (row["reported_at_utc"], row["kind"]))
        return [tuple(row[column] for column in columns) for row in rows]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HOST)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with webhook_server() as webhook:
        yield webhook


@pytest.fixture
def pipeline(tmp_path: Path, webhook: Webhook) -> Iterator[NotifiedPipeline]:
    home = tmp_path / "dagster"
    home.mkdir()
    with DagsterInstance.local_temp(str(home)) as instance:
        yield NotifiedPipeline(tmp_path, instance, webhooks=[{"name": "ops", "url": webhook.url}])


def test_results_older_than_the_first_check_are_not_sent(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.add_recordings("old")
    pipeline.complete("old")
    assert pipeline.notify() == NO_EVENTS
    assert pipeline.notify() == NO_EVENTS
    assert webhook.messages == []
    assert pipeline.rows("kind", "subject", "state") == [("start", "", "baseline"), ("success", "old", "baseline")]


def test_each_result_is_sent_once_and_those_of_one_check_together(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    pipeline.add_recordings("a", "b")
    pipeline.add_recordings("bad", status="rejected", error="The file is not a video.")
    pipeline.add_recordings("part")
    assert pipeline.notify() == "ops: sent"  # the rejected recording is final at once
    pipeline.complete("a", "b")
    pipeline.complete("part", error="The end is missing.")
    assert pipeline.notify() == "ops: sent"
    assert pipeline.notify() == NO_EVENTS
    assert [message["title"] for message in webhook.messages] == [
        "cv-assets: bad rejected: The file is not a video.",
        "cv-assets: 3 succeeded",
    ]
    assert "part succeeded partially: The end is missing." in webhook.messages[1]["text"]
    assert set(pipeline.rows("state", "channel", "attempt_count", "error")) == {
        ("baseline", "", 0, None),
        ("sent", "ops", 1, None),
    }
    assert len({message_id for (message_id,) in pipeline.rows("message_id") if message_id}) == 2


def test_a_failed_attempt_that_will_be_retried_is_not_sent(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.fail("a", 1)
    assert pipeline.notify() == NO_EVENTS
    pipeline.fail("a", 2)
    assert pipeline.notify() == "ops: sent"
    assert pipeline.notify() == NO_EVENTS
    assert [message["text"] for message in webhook.messages] == ["a failed: The file is broken."]


def test_a_failed_recording_that_succeeds_later_is_a_recovery(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.fail("a", 2)
    pipeline.notify()
    pipeline.complete("a")
    pipeline.notify()
    pipeline.complete("a")  # materialized again: no event
    assert pipeline.notify() == NO_EVENTS
    assert [(message["events"][0]["kind"], message["text"]) for message in webhook.messages] == [
        ("failure", "a failed: The file is broken."),
        ("recovery", "a succeeded. The recording had failed before."),
    ]


def test_an_unreadable_file_is_a_failure(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    file = SourceFile("gate/x.mp4", 0, 1, None, None, "unreadable", "The file is empty (0 bytes).", "gate")
    SourceIndex(pipeline.store).save([file])
    pipeline.notify()
    assert pipeline.notify() == NO_EVENTS
    assert [message["text"] for message in webhook.messages] == [
        "gate/x.mp4 cannot be ingested: The file is empty (0 bytes)."
    ]


def test_the_end_of_a_backlog_is_a_recovery(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.use_notification_settings(
        webhooks=[{"name": "ops", "url": webhook.url, "events": ["recovery"]}], backlog_min_recordings=3
    )
    pipeline.notify()
    pipeline.add_recordings("a", "b", "c")
    assert pipeline.notify() == NO_EVENTS
    pipeline.complete("a", "b")
    assert pipeline.notify() == NO_EVENTS
    pipeline.complete("c")
    assert pipeline.notify() == "ops: sent"
    assert pipeline.notify() == NO_EVENTS
    (message,) = webhook.messages
    assert message["text"].startswith("All waiting recordings are done: 3 succeeded and 0 failed since 20")
    pipeline.add_recordings("d")
    pipeline.notify()
    pipeline.complete("d")
    assert pipeline.notify() == NO_EVENTS  # one recording is no backlog
    assert {state for kind, state in pipeline.rows("kind", "state") if kind == "success"} == {"no_channel"}


def test_a_hold_is_sent_once_and_its_end_is_a_recovery(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    (pipeline.folder / "recordings").rmdir()
    pipeline.notify()
    assert pipeline.notify() == NO_EVENTS
    (pipeline.folder / "recordings").mkdir()
    pipeline.notify()
    assert pipeline.notify() == NO_EVENTS
    assert [message["events"][0]["kind"] for message in webhook.messages] == ["hold", "recovery"]
    assert "Work is on hold. The watched folder" in webhook.messages[0]["text"]


def test_an_interruption_that_a_person_must_end_is_a_hold(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.end_attempt("a", "recordings", "interrupted", error="The disk is full.")
    pipeline.notify()
    assert pipeline.notify() == NO_EVENTS
    pipeline.complete("a")
    pipeline.notify()
    texts = [{event["message"] for event in message["events"]} for message in webhook.messages]
    assert texts[0] == {"Work is on hold. The disk is full."}
    (end,) = texts[1] - {"a succeeded."}
    assert end.startswith("All waiting recordings are done: 1 succeeded and 0 failed")


def test_a_quarantined_recording_is_a_failure(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.end_attempt("a", "recordings", "quarantined", 2, error="Its run crashed.")
    pipeline.notify()
    assert [message["text"] for message in webhook.messages] == ["a quarantined: Its run crashed."]


def test_a_camera_without_data_is_reported_once_and_again_when_data_resumes(
    pipeline: NotifiedPipeline, webhook: Webhook
) -> None:
    pipeline.use_notification_settings(
        webhooks=[{"name": "ops", "url": webhook.url}], no_data_after_h={"gate": 2, "never": 2, "*": 5}
    )

    def file(path: str) -> SourceFile:
        first_listed_at = datetime.fromtimestamp(pipeline.now, UTC)
        return SourceFile(path, 1, 1, None, "f", "known", None, path.partition("/")[0], first_listed_at)

    files = [file("gate/a.mp4"), file("yard/a.mp4")]
    SourceIndex(pipeline.store).save(files)
    assert pipeline.notify(0) == NO_EVENTS
    assert pipeline.notify(2 * 3600 - 1) == NO_EVENTS
    assert pipeline.notify(1) == "ops: sent"  # both cameras with a limit of two hours
    assert pipeline.notify(3600) == NO_EVENTS
    (message,) = webhook.messages
    assert message["title"] == "cv-assets: 2 without data"
    assert sorted(event["subject"] for event in message["events"]) == ["gate", "never"]
    files.append(file("gate/b.mp4"))
    SourceIndex(pipeline.store).save(files)
    pipeline.notify()
    assert pipeline.notify() == NO_EVENTS
    assert webhook.messages[1]["text"] == "Recordings arrive from gate again."
    unstable_file = pipeline.folder / "recordings" / "yard" / "now.mp4"
    unstable_file.parent.mkdir()
    unstable_file.write_bytes(b"x")
    pipeline.notify(5 * 3600)
    assert [event["subject"] for event in webhook.messages[2]["events"]] == ["gate"]  # a file arrives from the yard


def test_an_undelivered_message_is_retried_together_with_newer_events(
    pipeline: NotifiedPipeline, webhook: Webhook
) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.complete("a")
    webhook.response_statuses = [500, 503]
    assert pipeline.notify().startswith("ops: undelivered (The server answers 500")
    pipeline.add_recordings("b")
    pipeline.complete("b")
    assert pipeline.notify(30) == NO_EVENTS  # the first retry is due after one minute
    assert pipeline.notify(31).startswith("ops: undelivered (The server answers 503")
    assert pipeline.notify(60) == NO_EVENTS  # the second after three minutes
    assert pipeline.notify(121) == "ops: sent"
    assert pipeline.notify(9999) == NO_EVENTS
    assert [message["title"] for message in webhook.messages[1:]] == ["cv-assets: 2 succeeded"] * 2
    rows = [row for row in pipeline.rows("subject", "state", "attempt_count", "error") if row[0]]
    assert rows == [("a", "sent", 3, None), ("b", "sent", 2, None)]


def test_a_message_fails_after_the_last_attempt(
    pipeline: NotifiedPipeline, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification_ledger, "_MAX_ATTEMPTS", 3)
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.complete("a")
    webhook.response_statuses = [500] * 99
    was_attempted = [pipeline.notify(7200) != NO_EVENTS for _ in range(5)]
    assert (was_attempted, len(webhook.messages)) == ([True, True, True, False, False], 3)
    assert pipeline.rows("subject", "state", "attempt_count")[1] == ("a", "failed", 3)


def test_a_failing_channel_does_not_affect_the_others(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    with smtp_server() as mailbox:
        email = {"name": "desk", "host": HOST, "port": mailbox.port, "security": "none", "sender": "cv@example.org"}
        pipeline.use_notification_settings(
            webhooks=[{"name": "ops", "url": webhook.url}], emails=[{**email, "recipients": ["a@example.org"]}]
        )
        pipeline.notify()
        pipeline.add_recordings("a")
        pipeline.complete("a")
        webhook.response_statuses = [500]
        sentence = pipeline.notify()
        assert "desk: sent" in sentence and "ops: undelivered" in sentence
        assert pipeline.notify(120) == "ops: sent"
    assert [email["Subject"] for email in mailbox.emails] == ["cv-assets: a succeeded."]
    assert len(webhook.messages) == 2


def test_a_channel_receives_only_the_events_of_its_settings(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    with webhook_server() as success_webhook:
        pipeline.use_notification_settings(
            webhooks=[
                {"name": "ops", "url": webhook.url, "events": ["failure"]},
                {"name": "log", "url": success_webhook.url, "events": ["success"]},
            ]
        )
        pipeline.notify()
        pipeline.add_recordings("good")
        pipeline.complete("good")
        pipeline.add_recordings("bad", status="rejected", error="The file is not a video.")
        pipeline.notify()
        assert [message["text"] for message in webhook.messages] == ["bad rejected: The file is not a video."]
        assert [message["text"] for message in success_webhook.messages] == ["good succeeded."]


def test_no_secret_is_stored(pipeline: NotifiedPipeline, webhook: Webhook) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.complete("a")
    webhook.response_statuses = [404]
    pipeline.notify()
    assert "verysecret" not in str(pipeline.store.read(NOTIFICATIONS).to_pylist())


_NOTIFY_SCRIPT = """
import sys
from pathlib import Path
from dagster import DagsterInstance
from tests.sensors.test_notification_events import NOON_S, NotifiedPipeline
with DagsterInstance.local_temp(sys.argv[1] + "/dagster") as instance:
    pipeline = NotifiedPipeline(Path(sys.argv[1]), instance, webhooks=[{"name": "ops", "url": sys.argv[2]}])
    pipeline.now = NOON_S + 60
    pipeline.notify()
"""


def test_a_message_that_was_being_sent_when_the_process_was_killed_is_not_sent_again(
    pipeline: NotifiedPipeline, webhook: Webhook
) -> None:
    pipeline.notify()
    pipeline.add_recordings("a")
    pipeline.complete("a")
    webhook.response_statuses = [None]  # the message arrives, but the server does not respond
    command = [sys.executable, "-c", _NOTIFY_SCRIPT, str(pipeline.folder), webhook.url]
    process = subprocess.Popen(command, env={**os.environ})
    try:
        assert webhook.has_received.wait(60)
        assert pipeline.rows("subject", "state")[1] == ("a", "sending")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert pipeline.notify(3600) == NO_EVENTS
    assert pipeline.notify(3600) == NO_EVENTS
    assert len(webhook.messages) == 1
    row = pipeline.rows("state", "attempt_count", "error")[1]
    assert row == ("unknown", 1, "The pipeline was stopped while the message was being sent.")
    pipeline.add_recordings("b")
    pipeline.complete("b")
    assert pipeline.notify() == "ops: sent"
    assert webhook.messages[1]["text"] == "b succeeded."
