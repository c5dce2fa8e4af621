"""Comparison of files with recordings: the sensor finds what to compare, a run of the stage `recordings` does it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance

from resources import recording_files
from resources.errors import RecordingError
from resources.file_hashes import read_content_hash
from resources.recording_files import RecordingFiles
from resources.schema.recording_tables import FILE_HASHES, RECORDING_CONTENTS, RECORDINGS
from resources.watched_files import FileState
from sensors.run_planner import PlannedRun
from tests.builders.table_rows import content_row, sparse_rows
from tests.builders.watched_folder import WatchedFolder
from tests.resources.test_file_identification import large_content


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def folder(instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WatchedFolder:
    """A watched folder with a large file, which is no video; its recording was probed."""
    folder = WatchedFolder(instance, tmp_path, monkeypatch)
    folder.write("a.mp4", large_content())
    folder.tick()
    folder.tick()
    folder.run_recordings(*folder.partitions)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read whole."""
    names: list[str] = []

    def read(path: Path) -> tuple[FileState, str]:
        names.append(path.name)
        return read_content_hash(path)

    monkeypatch.setattr(recording_files, "read_content_hash", read)
    return names


def touch(path: Path) -> None:
    """Change the mtime of a file."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def states(folder: WatchedFolder) -> dict[str, tuple[str, str | None]]:
    """State and recording of each file."""
    return {path: (file.state, file.recording_id) for path, file in folder.files.items()}


def test_a_touched_file_is_read_once_in_a_run_and_nothing_else_happens(folder: WatchedFolder, reads: list[str]) -> None:
    (recording_id,) = folder.partitions
    header = folder.store.read(RECORDINGS)
    status = folder.status(recording_id)
    touch(folder.path / "a.mp4")
    folder.tick()
    assert folder.tick() == []
    assert states(folder) == {"a.mp4": ("unverified", recording_id)}
    assert folder.sentence.endswith("1 files are compared with recordings that seem to have the same content.")
    assert reads == []  # not in a tick
    assert folder.plan() == [PlannedRun("ingest", ("recordings",), (recording_id,))]
    folder.run_recordings(recording_id)
    assert folder.plan() == []
    assert folder.tick() == []
    assert states(folder) == {"a.mp4": ("known", recording_id)}
    assert folder.tick() == []
    assert reads == ["a.mp4"]
    assert folder.partitions == [recording_id]
    assert folder.store.read(RECORDINGS) == header
    assert folder.status(recording_id) == status


def test_other_content_with_the_same_size_and_samples_is_a_recording_of_its_own(folder: WatchedFolder) -> None:
    (recording_id,) = folder.partitions
    header = folder.store.read(RECORDINGS)
    folder.write("a.mp4", large_content(changed=True))
    touch(folder.path / "a.mp4")
    folder.tick()
    folder.tick()
    folder.run_recordings(recording_id)
    (request,) = folder.tick()
    _, new_id = folder.partitions
    assert request.partition_key == new_id
    assert states(folder) == {"a.mp4": ("known", new_id)}
    folder.run_recordings(new_id)
    rows = {row["recording_id"]: row for row in folder.store.read(RECORDINGS).to_pylist()}
    assert rows.pop(recording_id) == header.to_pylist()[0]
    assert rows[new_id]["content_hash"] != header["content_hash"][0].as_py()
    assert rows[new_id]["fingerprint"] == header["fingerprint"][0].as_py()
    with pytest.raises(RecordingError, match=r"a\.mp4: the file does not have the content of the recording .* any"):
        recording_files.find_recording_file(recording_id, folder.store, folder.graph.settings)

    # The original file is the first recording again.
    folder.write("a.mp4", large_content())
    folder.tick()
    folder.tick()
    assert states(folder)["a.mp4"][0] == "unverified"
    folder.run_recordings(str(states(folder)["a.mp4"][1]))
    assert folder.tick() == []
    assert states(folder) == {"a.mp4": ("known", recording_id)}


def test_copies_are_compared_in_the_first_run_of_the_recording(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    folder = WatchedFolder(instance, tmp_path, monkeypatch)
    for name, is_changed in (("a.mp4", False), ("b.mp4", False), ("c.mp4", True)):
        folder.write(name, large_content(is_changed))
    folder.tick()
    (request,) = folder.tick()
    (recording_id,) = folder.partitions
    assert len(request.asset_selection or ()) == len(folder.graph.assets_of("ingest"))  # no run for the copies alone
    folder.run_recordings(recording_id)
    assert sorted(reads) == ["a.mp4", "b.mp4", "c.mp4"]
    assert len(folder.tick()) == 1
    other_id = folder.partitions[-1]
    assert states(folder) == {
        "a.mp4": ("known", recording_id),
        "b.mp4": ("duplicate", recording_id),
        "c.mp4": ("known", other_id),
    }


def test_a_file_that_cannot_be_read_or_is_gone_ends_the_comparison(
    folder: WatchedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recording_id,) = folder.partitions
    status = folder.status(recording_id)

    def refuse(path: Path) -> tuple[FileState, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(recording_files, "read_content_hash", refuse)
    touch(folder.path / "a.mp4")
    folder.write("b.mp4", large_content())
    folder.tick()
    folder.tick()
    assert {file.state for file in folder.files.values()} == {"unverified"}
    (folder.path / "b.mp4").unlink()
    folder.run_recordings(recording_id)
    assert folder.plan() == []
    folder.tick()
    (file,) = folder.files.values()
    assert (file.state, file.reason) == ("unreadable", "The file cannot be read whole: Input/output error.")
    assert folder.status(recording_id) == status


@pytest.mark.parametrize("is_intact", [True, False])
def test_a_touched_file_of_an_older_version_is_its_recording_if_that_was_intact(
    folder: WatchedFolder, is_intact: bool
) -> None:
    (recording_id,) = folder.partitions
    folder.store.update(RECORDINGS, recording_id, {"content_hash": None})
    content = content_row(recording_id) | {"corrupt_count": 0 if is_intact else 3, "frame_count_from_content": 40}
    folder.store.replace(RECORDING_CONTENTS, [recording_id], sparse_rows(RECORDING_CONTENTS, content))
    touch(folder.path / "a.mp4")
    folder.tick()
    folder.tick()
    folder.run_recordings(recording_id)
    folder.tick()
    assert (states(folder)["a.mp4"] == ("known", recording_id)) is is_intact
    assert len(folder.partitions) == (1 if is_intact else 2)
    assert (folder.store.read(RECORDINGS, [recording_id])["content_hash"].null_count == 0) is is_intact


def test_a_recording_of_an_older_version_gets_its_hash_when_a_copy_needs_it(folder: WatchedFolder) -> None:
    (recording_id,) = folder.partitions
    folder.store.update(RECORDINGS, recording_id, {"content_hash": None})
    folder.write("b.mp4", large_content())
    folder.tick()
    folder.tick()
    folder.run_recordings(recording_id)
    folder.tick()
    assert states(folder)["b.mp4"] == ("duplicate", recording_id)
    assert folder.store.read(RECORDINGS)["content_hash"].null_count == 0


def test_a_file_that_is_touched_before_the_first_run_is_ingested(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WatchedFolder(instance, tmp_path, monkeypatch)
    folder.write("a.mp4", large_content())
    folder.tick()
    folder.tick()
    touch(folder.path / "a.mp4")
    folder.run_recordings(*folder.partitions)
    assert folder.store.read(RECORDINGS).num_rows == 1
    assert folder.store.read(FILE_HASHES).num_rows == 0


def test_a_file_that_is_replaced_before_the_first_run_is_not_probed(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WatchedFolder(instance, tmp_path, monkeypatch)
    folder.write("a.mp4", b"first")
    folder.tick()
    folder.tick()
    (recording_id,) = folder.partitions
    folder.write("a.mp4", b"second")
    folder.run_recordings(recording_id)
    assert folder.store.read(RECORDINGS).num_rows == 0
    status, error = folder.status(recording_id)
    assert status == "failed"
    assert error == (
        f"a.mp4: the file does not have the content of the recording {recording_id} any more: put the original file "
        "back into the watched folder."
    )


def test_a_file_is_checked_before_and_after_it_is_read(folder: WatchedFolder, reads: list[str]) -> None:
    (recording_id,) = folder.partitions
    path, settings = folder.path / "a.mp4", folder.graph.settings

    def find() -> recording_files.RecordingFile:
        return recording_files.find_recording_file(recording_id, folder.store, settings)

    with find().reading() as found:
        assert found == path
    assert reads == []  # size and mtime are those of the file that was hashed
    touch(path)
    assert find().path == path
    assert reads == ["a.mp4"]
    with pytest.raises(RecordingError, match=r"^a\.mp4: the file changed while it was read"), find().reading():
        path.write_bytes(b"other")
    path.write_bytes(large_content())
    with pytest.raises(RecordingError, match="changed while it was read"), find().reading():
        path.write_bytes(b"other")
        raise RecordingError("The decoder failed.")
    path.write_bytes(large_content(changed=True))
    with pytest.raises(RecordingError, match="does not have the content"):
        find()
    path.unlink()
    with pytest.raises(RecordingError, match=rf"^a\.mp4: the file of the recording {recording_id} is missing"):
        find()
    assert RecordingFiles("never-seen", folder.store, settings).problem().startswith("The recording never-seen has no")
