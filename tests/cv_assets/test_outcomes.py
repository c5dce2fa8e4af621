"""What is told, once, of recordings, work and cameras: on a real Dagster instance, to real servers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import AssetKey, AssetMaterialization, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.storage.tags import PARTITION_NAME_TAG
from dagster._core.utils import make_new_run_id

from cv_assets.outcomes import tell
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import ANALYSIS, ATTEMPT_TAG, INGEST
from cv_assets.walk import assets_of
from resources.schema import NOTIFICATIONS, RECORDINGS
from resources.settings import DetectionSettings, NotificationSettings, Settings
from resources.storage import Store
from resources.watched_folder import SourceFile, SourceIndex
from tests.conftest import BUNDLED_WEIGHTS
from tests.receivers import HOST, Hook, hook, mail_server

NOON = 1_800_000_000.0


class House:
    """Recordings whose state the test decides, on an instance and tables of their own."""

    def __init__(self, folder: Path, instance: DagsterInstance, **wanted: Any) -> None:
        self.instance, self.store, self.now = instance, Store(folder / "data"), NOON
        self.folder = folder
        (folder / "recordings").mkdir(exist_ok=True)
        self.want(**wanted)

    def want(self, **wanted: Any) -> None:
        self.settings = Settings(
            watched_folder=self.folder / "recordings",
            data_folder=self.folder / "data",
            detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
            notifications=NotificationSettings.model_validate(wanted),
        )

    def tell(self, after_s: float = 30.0) -> str:
        self.now += after_s
        return tell(self.instance, self.store, self.settings, self.now).sentence

    def arrive(self, *recording_ids: str, status: str = "ok", error: str | None = None) -> None:
        """Recordings of the camera gate are there and wait."""
        self.instance.add_dynamic_partitions(recordings_partitions.name or "", list(recording_ids))
        for recording_id in recording_ids:
            self.row(recording_id, status, error)

    def row(self, recording_id: str, status: str, error: str | None) -> None:
        nothing: dict[str, Any] = dict.fromkeys(RECORDINGS.arrow_schema.names)
        values = {"recording_id": recording_id, "status": status, "error": error, "camera": "gate", "fingerprint": "f"}
        row = nothing | values | {"source_path": f"gate/{recording_id}.mp4", "size_bytes": 1}
        row["mtime_utc"] = datetime.fromtimestamp(NOON, UTC)
        self.store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], RECORDINGS.arrow_schema))

    def complete(self, *recording_ids: str) -> None:
        """Everything of them is materialized."""
        for recording_id in recording_ids:
            for name in (*assets_of(INGEST), *assets_of(ANALYSIS)):
                self.instance.report_runless_asset_event(AssetMaterialization(name, partition=recording_id))

    def fail(self, recording_id: str, attempt: int, error: str = "It broke.") -> None:
        """A run of it has failed, as the stage and the run's end leave it."""
        tags = {PARTITION_NAME_TAG: recording_id, ATTEMPT_TAG: str(attempt)}
        run = DagsterRun(job_name=INGEST, run_id=make_new_run_id(), tags=tags, status=DagsterRunStatus.STARTED)
        self.instance.add_run(run)
        for name in assets_of(INGEST):
            planned = AssetMaterializationPlannedData(AssetKey(name), partition=recording_id)
            event = DagsterEvent.build_asset_materialization_planned_event(INGEST, name, planned)
            self.instance.report_dagster_event(event, run.run_id)
        data = StepFailureData(error=None, user_failure_data=None)  # type: ignore[no-untyped-call]
        failure = DagsterEvent(DagsterEventType.STEP_FAILURE.value, INGEST, event_specific_data=data)
        self.instance.report_dagster_event(failure, run.run_id)
        self.instance.report_run_failed(run)
        self.row(recording_id, "failed", error)

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        rows = sorted(self.store.read(NOTIFICATIONS).to_pylist(), key=lambda row: (row["noticed_at_utc"], row["kind"]))
        return [tuple(row[column] for column in columns) for row in rows]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HOST)


@pytest.fixture
def web() -> Iterator[Hook]:
    with hook() as found:
        yield found


@pytest.fixture
def house(tmp_path: Path, web: Hook) -> Iterator[House]:
    home = tmp_path / "dagster"
    home.mkdir()
    with DagsterInstance.local_temp(str(home)) as instance:
        yield House(tmp_path, instance, webhooks=[{"name": "ops", "url": web.url}])


def test_what_had_ended_before_is_not_told(house: House, web: Hook) -> None:
    house.arrive("old")
    house.complete("old")
    assert house.tell() == "Nothing new to tell."
    assert house.tell() == "Nothing new to tell."
    assert web.posted == []
    assert house.rows("kind", "subject", "state") == [("start", "", "baseline"), ("success", "old", "baseline")]


def test_each_ending_is_told_once_and_many_together(house: House, web: Hook) -> None:
    house.tell()
    house.arrive("a", "b")
    house.arrive("bad", status="rejected", error="It is no video.")
    house.arrive("part", status="partial", error="The end is missing.")
    assert house.tell() == "ops: sent"  # rejected already
    house.complete("a", "b", "part")
    assert house.tell() == "ops: sent"
    assert house.tell() == "Nothing new to tell."
    assert [posted["title"] for posted in web.posted] == [
        "cv-assets: bad rejected: It is no video.",
        "cv-assets: 3 came through",
    ]
    assert "part came through in part: The end is missing." in web.posted[1]["text"]
    assert {row for row in house.rows("state", "channel", "attempt_count", "error")} == {
        ("baseline", "", 0, None),
        ("sent", "ops", 1, None),
    }
    assert len({row for (row,) in house.rows("message_id") if row}) == 2


def test_an_attempt_that_will_be_repeated_is_no_news(house: House, web: Hook) -> None:
    house.tell()
    house.arrive("a")
    house.fail("a", 1)
    assert house.tell() == "Nothing new to tell."
    house.fail("a", 2)
    assert house.tell() == "ops: sent"
    assert house.tell() == "Nothing new to tell."
    assert [posted["text"] for posted in web.posted] == ["a failed: It broke."]


def test_what_had_failed_and_came_through_after_all_has_recovered(house: House, web: Hook) -> None:
    house.tell()
    house.arrive("a")
    house.fail("a", 2)
    house.tell()
    house.row("a", "ok", None)
    house.complete("a")
    house.tell()
    house.complete("a")  # made again: no news
    assert house.tell() == "Nothing new to tell."
    told = [(posted["events"][0]["kind"], posted["text"]) for posted in web.posted]
    assert told == [("failure", "a failed: It broke."), ("recovered", "a came through. It had failed before.")]


def test_a_file_that_is_no_recording_is_a_failure(house: House, web: Hook) -> None:
    house.tell()
    file = SourceFile("gate/x.mp4", 0, 1, None, None, "unreadable", "It is empty (0 bytes).", "gate")
    SourceIndex(house.store).save([file])
    house.tell()
    assert house.tell() == "Nothing new to tell."
    assert [posted["text"] for posted in web.posted] == ["gate/x.mp4 is no recording: It is empty (0 bytes)."]


def test_a_backlog_that_is_done_is_told(house: House, web: Hook) -> None:
    house.want(webhooks=[{"name": "ops", "url": web.url, "events": ["recovered"]}], backlog_from=3)
    house.tell()
    house.arrive("a", "b", "c")
    assert house.tell() == "Nothing new to tell."
    house.complete("a", "b")
    assert house.tell() == "Nothing new to tell."
    house.complete("c")
    assert house.tell() == "ops: sent"
    assert house.tell() == "Nothing new to tell."
    (posted,) = web.posted
    assert posted["text"].startswith("All waiting work is done: 3 came through and 0 failed since 20")
    house.arrive("d")
    house.tell()
    house.complete("d")
    assert house.tell() == "Nothing new to tell."  # one recording is no backlog
    assert {state for kind, state in house.rows("kind", "state") if kind == "success"} == {"unwanted"}


def test_work_on_hold_is_told_once_and_that_it_goes_on(house: House, web: Hook) -> None:
    house.tell()
    (house.folder / "recordings").rmdir()
    house.tell()
    assert house.tell() == "Nothing new to tell."
    (house.folder / "recordings").mkdir()
    house.tell()
    assert house.tell() == "Nothing new to tell."
    assert [posted["events"][0]["kind"] for posted in web.posted] == ["hold", "recovered"]
    assert "Work is on hold. The watched folder" in web.posted[0]["text"]


def test_a_silent_camera_is_told_once_and_once_more_when_it_sends_again(house: House, web: Hook) -> None:
    house.want(webhooks=[{"name": "ops", "url": web.url}], silent_after_h={"gate": 2, "never": 2, "*": 5})

    def file(path: str) -> SourceFile:
        seen_at = datetime.fromtimestamp(house.now, UTC)
        return SourceFile(path, 1, 1, None, "f", "known", None, path.partition("/")[0], seen_at)

    files = [file("gate/a.mp4"), file("yard/a.mp4")]
    SourceIndex(house.store).save(files)
    assert house.tell(0) == "Nothing new to tell."
    assert house.tell(2 * 3600 - 1) == "Nothing new to tell."
    assert house.tell(1) == "ops: sent"  # both that are to send every two hours
    assert house.tell(3600) == "Nothing new to tell."
    (posted,) = web.posted
    assert posted["title"] == "cv-assets: 2 silent"
    assert sorted(event["subject"] for event in posted["events"]) == ["gate", "never"]
    files.append(file("gate/b.mp4"))
    SourceIndex(house.store).save(files)
    house.tell()
    assert house.tell() == "Nothing new to tell."
    assert web.posted[1]["text"] == "Recordings arrive from gate again."
    writing = house.folder / "recordings" / "yard" / "now.mp4"
    writing.parent.mkdir()
    writing.write_bytes(b"x")
    house.tell(5 * 3600)
    assert [event["subject"] for event in web.posted[2]["events"]] == ["gate"]  # the yard is writing a file


def test_a_missed_delivery_is_tried_again_and_what_came_meanwhile_goes_with_it(house: House, web: Hook) -> None:
    house.tell()
    house.arrive("a")
    house.complete("a")
    web.answers = [500, 503]
    assert house.tell().startswith("ops: missed (The server answers 500")
    house.arrive("b")
    house.complete("b")
    assert house.tell(30) == "Nothing new to tell."  # not before a minute has passed
    assert house.tell(31).startswith("ops: missed (The server answers 503")
    assert house.tell(60) == "Nothing new to tell."  # then longer
    assert house.tell(121) == "ops: sent"
    assert house.tell(9999) == "Nothing new to tell."
    assert [posted["title"] for posted in web.posted[1:]] == ["cv-assets: 2 came through"] * 2
    told = [row for row in house.rows("subject", "state", "attempt_count", "error") if row[0]]
    assert told == [("a", "sent", 3, None), ("b", "sent", 2, None)]


def test_a_channel_that_never_takes_anything_is_given_up(
    house: House, web: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cv_assets.outcomes._MAX_ATTEMPTS", 3)
    house.tell()
    house.arrive("a")
    house.complete("a")
    web.answers = [500] * 99
    tried = [house.tell(7200) != "Nothing new to tell." for _ in range(5)]
    assert (tried, len(web.posted)) == ([True, True, True, False, False], 3)
    assert house.rows("subject", "state", "attempt_count")[1] == ("a", "failed", 3)


def test_one_channel_that_fails_leaves_the_other_alone(house: House, web: Hook) -> None:
    with mail_server() as box:
        mail = {"name": "desk", "host": HOST, "port": box.port, "security": "none", "sender": "cv@example.org"}
        house.want(webhooks=[{"name": "ops", "url": web.url}], mails=[{**mail, "recipients": ["a@example.org"]}])
        house.tell()
        house.arrive("a")
        house.complete("a")
        web.answers = [500]
        told = house.tell()
        assert "desk: sent" in told and "ops: missed" in told
        assert house.tell(120) == "ops: sent"
    assert [mail["Subject"] for mail in box.mails] == ["cv-assets: a came through."]
    assert len(web.posted) == 2


def test_a_channel_gets_only_what_it_asks_for(house: House, web: Hook) -> None:
    with hook() as other:
        channels = [
            {"name": "ops", "url": web.url, "events": ["failure"]},
            {"name": "log", "url": other.url, "events": ["success"]},
        ]
        house.want(webhooks=channels)
        house.tell()
        house.arrive("good")
        house.complete("good")
        house.arrive("bad", status="rejected", error="It is no video.")
        house.tell()
        assert [posted["text"] for posted in web.posted] == ["bad rejected: It is no video."]
        assert [posted["text"] for posted in other.posted] == ["good came through."]


def test_no_secret_is_stored(house: House, web: Hook) -> None:
    house.tell()
    house.arrive("a")
    house.complete("a")
    web.answers = [404]
    house.tell()
    assert "verysecret" not in str(house.store.read(NOTIFICATIONS).to_pylist())


_TELL = """
import sys
from pathlib import Path
from dagster import DagsterInstance
from tests.cv_assets.test_outcomes import House, NOON
with DagsterInstance.local_temp(sys.argv[1] + "/dagster") as instance:
    house = House(Path(sys.argv[1]), instance, webhooks=[{"name": "ops", "url": sys.argv[2]}])
    house.now = NOON + 60
    house.tell()
"""


def test_what_was_being_sent_when_all_was_killed_is_never_sent_twice(house: House, web: Hook) -> None:
    house.tell()
    house.arrive("a")
    house.complete("a")
    web.answers = [None]  # the message has arrived, and nobody says so
    killed = subprocess.Popen([sys.executable, "-c", _TELL, str(house.folder), web.url], env={**os.environ})
    try:
        assert web.has_come.wait(60)
        assert house.rows("subject", "state")[1] == ("a", "sending")
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert house.tell(3600) == "Nothing new to tell."
    assert house.tell(3600) == "Nothing new to tell."
    assert len(web.posted) == 1
    stored = house.rows("state", "attempt_count", "error")[1]
    assert stored == ("unknown", 1, "The pipeline was stopped while it was being sent.")
    house.arrive("b")
    house.complete("b")
    assert house.tell() == "ops: sent"
    assert web.posted[1]["text"] == "b came through."
