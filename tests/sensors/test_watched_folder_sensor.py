"""The watched-folder sensor: which files become recordings, whose ingest it requests, and when it lists the folder."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import DagsterInstance

from cv_assets.camera_settings import CAMERA_VIDEO
from resources import file_identification
from resources.config.settings import Settings
from resources.dagster_instance.event_log import observations
from resources.file_hashes import content_fingerprint
from resources.file_identification import recording_id_of
from resources.source_index import SourceIndex
from resources.storage.stage_runs import StageRun, append_stage_runs
from resources.watched_files import Listing, list_watched_files
from sensors import watched_folder_sensor
from sensors.forgetting import forget_recordings
from tests.builders.odd_folders import make_deep_folder, set_mtime_year
from tests.builders.watched_folder import WatchedFolder


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def folder(instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WatchedFolder:
    """An empty watched folder."""
    return WatchedFolder(instance, tmp_path, monkeypatch)


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[Listing]:
    """The listings of the watched folder, newest last."""
    listed: list[Listing] = []

    def list_files(settings: Settings) -> Listing:
        listed.append(list_watched_files(settings))
        return listed[-1]

    monkeypatch.setattr(watched_folder_sensor, "list_watched_files", list_files)
    return listed


def test_a_stable_file_becomes_a_recording_whose_ingest_is_requested_in_the_same_tick(folder: WatchedFolder) -> None:
    folder.write("gate/a.mp4")
    folder.write("gate/b.mp4")
    assert folder.tick() == []
    assert folder.sentence == "No new recordings among 2 files. 2 files are not stable yet: gate/a.mp4, gate/b.mp4."
    (request,) = folder.tick()
    assert (len(folder.partitions), request.job_name) == (2, "ingest")
    assert request.tags == {
        "dagster/asset_partition_range_start": folder.partitions[0],
        "dagster/asset_partition_range_end": folder.partitions[1],
    }
    requested = [key.to_user_string() for key in request.asset_selection or ()]
    assert requested == list(folder.graph.assets_of("ingest"))
    assert folder.tick() == []
    assert folder.sentence == "No new recordings among 2 files."


def test_runs_are_requested_up_to_the_limits_of_batch_and_queue(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WatchedFolder(instance, tmp_path, monkeypatch, batches={"max_recordings": 2})
    for number in range(5):
        folder.write(f"{number}.mp4")
    folder.tick()
    requests = folder.tick()
    ranges = [
        (request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"])
        for request in requests
    ]
    assert ranges == [tuple(folder.partitions[0:2]), tuple(folder.partitions[2:4])]
    assert folder.tick() == []  # the reconciliation sensor requests the rest


def test_a_recording_that_has_results_is_only_added(folder: WatchedFolder) -> None:
    recording_id = recording_id_of("a.mp4", content_fingerprint(folder.write("a.mp4")))
    rows = [
        StageRun(recording_id, stage, 1, "ok", "run", datetime.now(UTC), "person", data_version="1")
        for stage in folder.graph.stages
    ]
    append_stage_runs(folder.store, rows)
    folder.tick()
    assert folder.tick() == []
    assert folder.partitions == [recording_id]
    assert folder.sentence == "1 new recordings: the reconciliation sensor requests their runs."


def test_camera_settings_are_recorded_before_the_run_that_reads_them(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WatchedFolder(instance, tmp_path, monkeypatch, cameras={"gate": {"video": {"crf": 30}}})
    folder.write("gate/a.mp4")
    folder.tick()
    (request,) = folder.tick()
    assert set(observations(instance, CAMERA_VIDEO.key, {str(request.partition_key)})) == {request.partition_key}


def test_a_file_that_grew_names_the_recording_of_its_beginning(folder: WatchedFolder) -> None:
    file = folder.write("a.ts", b"first")
    folder.tick()
    folder.tick()
    file.write_bytes(b"first and second")
    folder.tick()
    assert len(folder.tick()) == 1
    beginning_id, complete_id = folder.partitions
    assert SourceIndex(folder.store).replaced_recordings() == {beginning_id: complete_id}


def test_an_unchanged_folder_is_listed_and_nothing_else_is_read(
    folder: WatchedFolder, listings: list[Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.mp4")
    for _ in range(3):
        folder.tick()
    monkeypatch.setattr(SourceIndex, "load", None)  # would raise
    folder.tick()
    assert len(listings) == 4
    folder.write("b.mp4")
    with pytest.raises(TypeError):
        folder.tick()


def test_a_folder_that_takes_long_to_list_is_listed_less_often(
    folder: WatchedFolder, listings: list[Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "thread_time", iter(range(1000)).__next__)  # each listing takes a second of CPU time
    folder.tick()
    for _ in range(5):
        folder.tick(after_s=5)
    assert len(listings) == 1
    folder.tick(after_s=6)
    assert len(listings) == 2
    folder.write("a.mp4")
    folder.tick(after_s=31)
    folder.tick(after_s=5)  # a file may be stable by now
    assert len(listings) == 4
    assert len(folder.partitions) == 1


def test_every_process_lists_the_folder_and_reads_the_table(folder: WatchedFolder, listings: list[Listing]) -> None:
    folder.tick()
    state = json.loads(folder.cursor or "") | {"process_started_s": 1.0, "listing_cpu_s": 1000.0}
    folder.cursor = json.dumps(state)
    folder.tick()
    assert len(listings) == 2


def test_setting_the_clock_back_lists_the_folder(folder: WatchedFolder, listings: list[Listing]) -> None:
    folder.tick()
    folder.tick(after_s=-3600)
    assert len(listings) == 2


def test_unreadable_files_are_read_again_once_a_minute(folder: WatchedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    file, empty = folder.write("a.mp4"), folder.write("b.mp4", b"")
    reads: list[str] = []

    def refuse(path: Path, size_bytes: int | None = None) -> str:
        reads.append(path.name)
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(file_identification, "content_fingerprint", refuse)
    folder.tick()
    folder.tick()
    assert reads == ["a.mp4"]
    for _ in range(10):
        folder.tick()
    assert reads == ["a.mp4"]
    folder.tick()
    folder.tick()
    assert reads == ["a.mp4", "a.mp4"]
    monkeypatch.setattr(file_identification, "content_fingerprint", content_fingerprint)
    assert len(folder.tick(after_s=60)) == 1
    files = SourceIndex(folder.store).load()
    assert {path: stored.state for path, stored in files.items()} == {file.name: "known", empty.name: "unreadable"}


def test_a_folder_that_is_replaced_by_a_mount_is_listed(folder: WatchedFolder) -> None:
    folder.tick()
    folder.path.rename(folder.path.with_name("unmounted"))
    folder.tick()
    assert folder.sentence.startswith(f"The watched folder {folder.path} does not exist")
    folder.path.mkdir()
    folder.write("a.mp4")
    folder.tick()
    assert len(folder.tick()) == 1


def test_a_file_dated_after_2262_and_a_folder_that_no_path_leads_to_get_rows_and_stop_nothing(
    folder: WatchedFolder,
) -> None:
    file = folder.write("far.mp4")
    (folder.path / "gate").mkdir()
    make_deep_folder(folder.path / "gate")
    if not set_mtime_year(file, 2300):
        pytest.skip("this file system stores no mtime in 2300")
    folder.write("good.mp4")
    folder.tick()
    assert len(folder.tick()) == 1
    assert folder.tick() == []
    rows = SourceIndex(folder.store).load()
    assert (rows["good.mp4"].state, rows["far.mp4"].state) == ("known", "unreadable")
    assert rows["far.mp4"].reason == (
        "The mtime of the file is not in the years 1678 to 2261: set it, for example with the command touch."
    )
    assert (
        sum(row.state == "skipped" and "cannot be read: File name too long" in str(row.reason) for row in rows.values())
        == 1
    )
    os.utime(file)
    folder.tick()
    assert len(folder.tick()) == 1
    assert SourceIndex(folder.store).load()["far.mp4"].state == "known"


def test_a_forgotten_recording_does_not_come_back_by_a_changed_time_or_a_copy(folder: WatchedFolder) -> None:
    source = folder.write("gate/a.mp4")
    folder.tick()
    folder.tick()
    (recording_id,) = folder.partitions
    forget_recordings(folder.instance, folder.store, folder.graph, [recording_id])
    assert folder.partitions == []
    os.utime(source, (1, 1))
    folder.write("gate/copy.mp4", source.read_bytes())
    folder.tick()
    assert folder.tick() == []
    assert folder.partitions == []
    files = SourceIndex(folder.store).load()
    assert {file.state for file in files.values()} == {"forgotten"}
    assert len(files) == 2
