"""Which recording a file is: by its name and fingerprint, and by its whole content where these are not enough."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resources.config.settings import Settings
from resources.file_hashes import FileHash, FileHashes, content_fingerprint, read_content_hash
from resources.file_identification import (
    KnownContents,
    find_grown_recordings,
    identify_compared_files,
    identify_files,
    recording_id_of,
)
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.watched_files import FileState, list_watched_files

LARGE_BYTES = 4_000_000
UNSAMPLED_BYTE = 150_000  # of a file of this size; between the first two sampled blocks
FIRST_OF_EQUAL_DIGITS, SECOND_OF_EQUAL_DIGITS = 74_805, 113_885
"""The fingerprints of the texts `recording N` with these numbers have the same first 8 digits."""


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


def large_content(changed: bool = False) -> bytes:
    """Content whose fingerprint does not depend on whether one byte is changed."""
    content = bytearray(range(256)) * (LARGE_BYTES // 256)
    content[UNSAMPLED_BYTE] ^= changed
    return bytes(content)


def probed(*files: SourceFile, content_hash: str | None, hashes: tuple[FileHash, ...] = ()) -> KnownContents:
    """What is known after the runs of some recordings with the same content."""
    ids = {str(file.recording_id): str(file.fingerprint) for file in files}
    content_hashes = dict.fromkeys(ids, content_hash) if content_hash else {}
    return KnownContents(ids, content_hashes, FileHashes(hashes))  # type: ignore[arg-type]


def hash_of(folder: Path, file: SourceFile) -> FileHash:
    """The hash of a file as a run stores it."""
    state, content_hash = read_content_hash(folder / file.source_path)
    recording_id = str(file.recording_id)
    return FileHash(recording_id, file.source_path, state.size_bytes, state.mtime_ns, content_hash)


def test_recordings_whose_ids_would_be_equal_have_longer_ids(folder: Path) -> None:
    (folder / "yard").mkdir()
    for camera, number in (("gate", FIRST_OF_EQUAL_DIGITS), ("yard", SECOND_OF_EQUAL_DIGITS)):
        (folder / camera / "a.mp4").write_bytes(f"recording {number}".encode())
    fingerprints = [content_fingerprint(folder / camera / "a.mp4") for camera in ("gate", "yard")]
    assert fingerprints[0] != fingerprints[1]
    expected = {"gate/a.mp4": f"a-{fingerprints[0][:8]}", "yard/a.mp4": f"a-{fingerprints[1]}"}
    known = identify_changed(folder, {})
    assert {path: file.recording_id for path, file in known.items()} == expected

    # The same if the first is known already, and also if only its row of `recordings` is left.
    settings, listed = settings_of(folder), list_watched_files(settings_of(folder)).files
    second = {"yard/a.mp4": listed["yard/a.mp4"]}
    first = {"gate/a.mp4": known["gate/a.mp4"]}
    contents = probed(known["gate/a.mp4"], content_hash=None)
    for known_files, known_contents in ((first, KnownContents()), ({}, contents)):
        identified = identify_files(settings, second, known_files, known_contents)
        assert identified["yard/a.mp4"].recording_id == expected["yard/a.mp4"]


def test_ids_are_lengthened_by_the_content_hash_where_even_fingerprints_are_equal(folder: Path) -> None:
    path = folder / "a.mp4"
    path.write_bytes(large_content())
    known = identify_changed(folder, {})
    fingerprint = known["a.mp4"].fingerprint
    ids = [known["a.mp4"].recording_id]
    contents = probed(known["a.mp4"], content_hash="00" * 16)
    for _ in range(2):
        unverified = identify_files(settings_of(folder), list_watched_files(settings_of(folder)).files, {}, contents)
        file_hash = replace(hash_of(folder, unverified["a.mp4"]), content_hash=f"{len(ids)}" * 32)
        contents = replace(contents, file_hashes=FileHashes([file_hash]))
        files = identify_compared_files(
            settings_of(folder), list_watched_files(settings_of(folder)).files, unverified, contents
        )
        ids.append(files["a.mp4"].recording_id)
        new_id = str(ids[-1])
        contents = KnownContents(
            {**contents.fingerprints, new_id: str(fingerprint)},
            {**contents.content_hashes, new_id: str(file_hash.content_hash)},
        )
    assert ids == [f"a-{str(fingerprint)[:8]}", f"a-{fingerprint}", f"a-{fingerprint}22222222"]


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_large_file_with_a_new_mtime_is_unverified_until_it_was_compared(folder: Path, is_changed: bool) -> None:
    path = folder / "a.mp4"
    path.write_bytes(large_content())
    known = identify_changed(folder, {})
    original = known["a.mp4"]
    contents = probed(original, content_hash=read_content_hash(path)[1])
    path.write_bytes(large_content(is_changed))
    os.utime(path, ns=(0, original.mtime_ns + 1))
    listed = list_watched_files(settings_of(folder)).files
    (unverified,) = identify_files(settings_of(folder), listed, known, contents).values()
    assert (unverified.state, unverified.recording_id) == ("unverified", original.recording_id)
    assert unverified.reason is not None and str(original.recording_id) in unverified.reason
    waiting = identify_compared_files(settings_of(folder), listed, {"a.mp4": unverified}, contents)
    assert waiting == {"a.mp4": unverified}

    contents = replace(contents, file_hashes=FileHashes([hash_of(folder, unverified)]))
    (compared,) = identify_compared_files(settings_of(folder), listed, {"a.mp4": unverified}, contents).values()
    assert (compared.state, compared.reason) == ("known", None)
    assert (compared.recording_id == original.recording_id) is not is_changed


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_large_copy_is_compared_and_a_moved_or_linked_file_is_not(folder: Path, is_changed: bool) -> None:
    path = folder / "a.mp4"
    path.write_bytes(large_content())
    known = identify_changed(folder, {})
    original = known["a.mp4"]
    contents = probed(original, content_hash=read_content_hash(path)[1])
    (folder / "link.mp4").symlink_to(path)
    (folder / "copy.mp4").write_bytes(large_content(is_changed))
    shutil.copystat(path, folder / "copy.mp4")  # size and mtime of the original
    listed = list_watched_files(settings_of(folder)).files
    new = {name: state for name, state in listed.items() if name != "a.mp4"}
    identified = identify_files(settings_of(folder), new, known, contents)
    assert {name: file.state for name, file in identified.items()} == {
        "copy.mp4": "unverified",
        "link.mp4": "duplicate",
    }
    contents = replace(contents, file_hashes=FileHashes([hash_of(folder, identified["copy.mp4"])]))
    compared = identify_compared_files(settings_of(folder), listed, known | identified, contents)["copy.mp4"]
    assert compared.state == ("known" if is_changed else "duplicate")

    (folder / "link.mp4").unlink()
    path.rename(folder / "gate" / "moved.mp4")
    listed = list_watched_files(settings_of(folder)).files
    moved = {"gate/moved.mp4": listed["gate/moved.mp4"]}
    (file,) = identify_files(settings_of(folder), moved, known, contents).values()
    assert (file.state, file.recording_id) == ("duplicate", original.recording_id)


def test_a_file_that_cannot_be_read_whole_is_unreadable_and_compared_again_later(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(large_content())
    known = identify_changed(folder, {})
    os.utime(folder / "a.mp4", ns=(0, 1))
    listed = list_watched_files(settings_of(folder)).files
    (unverified,) = identify_files(settings_of(folder), listed, known).values()
    sentence = "The file cannot be read whole: Input/output error."
    error = replace(hash_of(folder, unverified), content_hash=None, error=sentence)
    contents = KnownContents(file_hashes=FileHashes([error]))
    (unreadable,) = identify_compared_files(settings_of(folder), listed, {"a.mp4": unverified}, contents).values()
    assert (unreadable.state, unreadable.reason, unreadable.recording_id) == ("unreadable", sentence, None)
    assert unreadable.may_become_readable
    assert identify_files(settings_of(folder), listed, known, contents)["a.mp4"] == unreadable
    old_error = replace(error, read_at_utc=datetime.now(UTC) - timedelta(minutes=11))
    contents = KnownContents(file_hashes=FileHashes([old_error]))
    assert identify_files(settings_of(folder), listed, known, contents)["a.mp4"] == unverified


def test_the_original_file_is_the_same_recording_again_under_any_name(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"first")
    known = identify_changed(folder, {})
    contents = probed(known["a.mp4"], content_hash="00" * 16)
    (folder / "a.mp4").unlink()
    (folder / "other.mp4").write_bytes(b"first")
    listed = list_watched_files(settings_of(folder)).files
    assert identify_files(settings_of(folder), listed, {}, contents)["other.mp4"].recording_id == (
        known["a.mp4"].recording_id
    )


def test_a_file_that_is_to_be_compared_replaces_no_recording_yet(folder: Path, store: Store) -> None:
    known = SourceFile("a.ts", 3, 1, "a-2", "2", "known", None, replaces="a-1")
    index = SourceIndex(store)
    index.save([replace(known, state="unverified")])
    assert index.replaced_recordings() == {}
    assert index.unhashed_recordings() == {"a-2"}
    index.save([known])
    assert index.replaced_recordings() == {"a-1": "a-2"}
    assert index.unhashed_recordings() == set()
