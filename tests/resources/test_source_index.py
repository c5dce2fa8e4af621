import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resources.config.settings import Settings
from resources.source_index import (
    SourceFile,
    SourceIndex,
    content_fingerprint,
    find_emptied_folders,
    find_grown_recordings,
    identify_files,
    recording_id_of,
)
from resources.storage.delta_store import Store
from resources.watched_files import FileState, list_watched_files


def settings_of(folder: Path, *further_folders: Path) -> Settings:
    return Settings(watched_folder=folder, further_watched_folders=further_folders)


def identify_changed(folder: Path, known: dict[str, SourceFile]) -> dict[str, SourceFile]:
    """Identify the files of a folder that are new or have changed."""
    files = list_watched_files(settings_of(folder)).files
    changed = {path: state for path, state in files.items() if path not in known or known[path].file_state != state}
    return identify_files(settings_of(folder), changed, known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The watched folder."""
    path = tmp_path / "recordings"
    (path / "gate").mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("file_name", "slug"),
    [
        ("front door (2).mp4", "front-door-2"),
        ("it's.mkv", "it-s"),
        ("カメラ１.ts", "カメラ１"),
        ("....mp4", "recording"),
        ("x" * 200 + ".mp4", "x" * 60),
        ("a.b.c.mp4", "a-b-c"),
    ],
)
def test_recording_ids_are_readable(file_name: str, slug: str) -> None:
    assert recording_id_of(file_name, "0123456789abcdef") == f"{slug}-01234567"


@pytest.mark.parametrize("size_bytes", [0, 1, 5_000_000])
def test_fingerprints_depend_on_the_content_only(tmp_path: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    original, copy, longer = (tmp_path / name for name in ("original", "copy", "longer"))
    original.write_bytes(content)
    copy.write_bytes(content)
    longer.write_bytes(content + b"x")
    assert content_fingerprint(original) == content_fingerprint(copy)
    assert content_fingerprint(original) != content_fingerprint(longer)


def test_a_copy_is_the_same_recording_and_new_content_is_a_new_one(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"first")
    known = identify_changed(folder, {})
    first = known["a.mp4"]
    assert first.state == "known"

    shutil.copy(folder / "a.mp4", folder / "gate" / "b.mp4")
    identified = identify_changed(folder, known)
    assert identified["gate/b.mp4"].state == "duplicate"
    assert identified["gate/b.mp4"].recording_id == first.recording_id
    assert identified["gate/b.mp4"].reason == "The file has the same content as a.mp4."

    (folder / "a.mp4").write_bytes(b"second!")
    changed = identify_changed(folder, known | identified)["a.mp4"]
    assert changed.state == "known"
    assert changed.recording_id != first.recording_id


def test_the_camera_is_the_first_folder_in_every_watched_folder(folder: Path, tmp_path: Path) -> None:
    further = tmp_path / "nas"
    (further / "yard").mkdir(parents=True)
    (folder / "gate" / "a.mp4").write_bytes(b"first")
    (further / "yard" / "a.mp4").write_bytes(b"second")
    settings = settings_of(folder, further)
    identified = identify_files(settings, list_watched_files(settings).files, {})
    assert [file.camera for file in identified.values()] == ["gate", "yard"]


def test_unreadable_files_have_a_reason(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/odd\xff.mp4")).write_bytes(b"x")
    identified = identify_changed(folder, {})
    assert {path: (file.state, file.reason) for path, file in identified.items()} == {
        "empty.mp4": ("unreadable", "The file is empty (0 bytes)."),
        "odd\\xff.mp4": ("unreadable", "The file name is not valid UTF-8: rename the file."),
    }
    (folder / "empty.mp4").write_bytes(b"content")
    assert identify_changed(folder, identified)["empty.mp4"].state == "known"


def test_a_file_that_changed_since_it_was_listed_is_not_identified(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"first")
    assert identify_files(settings_of(folder), {"a.mp4": FileState(5, 1)}, {}) == {}


@pytest.mark.parametrize("size_bytes", [1000, 5_000_000])
def test_a_grown_file_replaces_the_recording_of_its_beginning(folder: Path, store: Store, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    (folder / "a.ts").write_bytes(content[: size_bytes // 2])
    known = identify_changed(folder, {})
    (folder / "a.ts").write_bytes(content)
    identified = identify_changed(folder, known)
    beginning_id, complete_id = known["a.ts"].recording_id, identified["a.ts"].recording_id
    grown = find_grown_recordings(settings_of(folder), identified, known)
    assert {path: file.replaces for path, file in grown.items()} == {"a.ts": beginning_id}
    index = SourceIndex(store)
    index.save(grown.values())
    assert index.replaced_recordings() == {beginning_id: complete_id}
    assert index.load() == grown
    (folder / "a.ts").write_bytes(os.urandom(2 * size_bytes))  # another recording under the same name
    (changed,) = find_grown_recordings(settings_of(folder), identify_changed(folder, grown), grown).values()
    assert changed.replaces is None


def test_recordings_are_found_by_the_time_at_which_their_files_were_seen(store: Store) -> None:
    now = datetime.now(UTC)
    files = [
        SourceFile("a.mp4", 1, 1, "a-1", "a-1", "known", None, seen_at_utc=now - timedelta(seconds=40)),
        SourceFile("b.mp4", 1, 1, "b-2", "b-2", "known", None, seen_at_utc=now - timedelta(seconds=20)),
        SourceFile("c.mp4", 0, 1, None, None, "unreadable", "The file is empty (0 bytes).", seen_at_utc=now),
    ]
    SourceIndex(store).save(files)
    assert SourceIndex(store).recordings_seen_since(now - timedelta(seconds=30)) == {"b-2": files[1].seen_at_utc}


def test_an_emptied_folder_is_found(folder: Path, tmp_path: Path) -> None:
    nas = tmp_path / "nas"
    nas.mkdir()
    settings = settings_of(folder, nas)
    (nas / "a.mp4").write_bytes(b"first")
    (folder / "b.mp4").write_bytes(b"second")
    known = identify_files(settings, list_watched_files(settings).files, {})
    assert find_emptied_folders(settings, list_watched_files(settings), known) == {}
    (nas / "a.mp4").unlink()
    assert find_emptied_folders(settings, list_watched_files(settings), known) == {nas: 1}
