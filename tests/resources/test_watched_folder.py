import os
import shutil
from pathlib import Path

import pytest

from demo.scenes import demo_scene, write_video
from resources.errors import PipelineError, RecordingError
from resources.settings import Settings
from resources.watched_folder import (
    FileState,
    SourceFile,
    camera_of,
    content_fingerprint,
    emptied,
    file_of,
    grown,
    identify,
    list_recordings,
    looks_unfinished,
    recording_id_of,
)


def settings_of(folder: Path, *further: Path) -> Settings:
    return Settings(watched_folder=folder, further_watched_folders=further)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "recordings"
    (made / "gate" / "2026").mkdir(parents=True)
    return made


def test_only_files_that_could_be_recordings_are_listed(folder: Path) -> None:
    for name in ("a.mp4", "gate/B.MKV", "gate/2026/c.ts", ".hidden.mp4", "d.mp4.part", "notes.txt", "e", "f.tmp"):
        (folder / name).write_bytes(b"x")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "g.mp4").write_bytes(b"x")
    (folder / "folder.mp4").mkdir()
    listing = list_recordings(settings_of(folder))
    assert sorted(listing.files) == ["a.mp4", "gate/2026/c.ts", "gate/B.MKV"]
    assert {path: reason.split(":")[0] for path, reason in listing.skipped.items()} == {
        "d.mp4.part": "It is still being copied or downloaded, by its ending",
        "e": "Its name has no ending",
        "f.tmp": "It is still being copied or downloaded, by its ending",
        "notes.txt": "Its ending .txt is not one of a recording",
    }


def test_links_may_not_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (folder / "real.mp4").write_bytes(b"x")
    (folder / "inside.mp4").symlink_to(folder / "real.mp4")
    (folder / "outside.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "broken.mp4").symlink_to(folder / "none.mp4")
    assert list(list_recordings(settings_of(folder)).files) == ["real.mp4", "inside.mp4"]  # the file goes before links


def test_what_is_no_file_is_left_out_with_its_reason_and_stops_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name, target in (
        ("linked", tmp_path / "elsewhere"),
        ("loop", folder),
        ("self.mp4", folder / "self.mp4"),
        ("nothing.mp4", folder / "none.mp4"),
        ("long.mp4", folder / ("n" * 300)),
    ):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "real.mp4").write_bytes(b"x")
    listing = list_recordings(settings_of(folder))
    assert list(listing.files) == ["real.mp4"]
    a_folder = "It is a link to a folder, which is not entered: name that folder at further_watched_folders."
    assert listing.skipped == {
        "linked": a_folder,
        "loop": a_folder,
        "self.mp4": "It is a link that leads nowhere.",
        "nothing.mp4": "It is a link to nothing.",
        "long.mp4": "It is a link that leads nowhere.",
        "pipe.mp4": "It is no file but a pipe, a socket or a device.",
    }


def test_a_folder_that_has_lost_all_its_files_is_told_of(folder: Path, tmp_path: Path) -> None:
    nas = tmp_path / "nas"
    nas.mkdir()
    settings = settings_of(folder, nas)
    (nas / "a.mp4").write_bytes(b"first")
    (folder / "b.mp4").write_bytes(b"second")
    known = identify(settings, list_recordings(settings).files, {})
    assert emptied(settings, list_recordings(settings), known) == {}
    (nas / "a.mp4").unlink()
    assert emptied(settings, list_recordings(settings), known) == {nas: 1}


def test_a_folder_that_may_not_be_read_does_not_hide_the_others(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"x")
    closed = folder / "closed"
    closed.mkdir(mode=0)
    try:
        listing = list_recordings(settings_of(folder))
    finally:
        closed.chmod(0o700)
    assert list(listing.files) == ["a.mp4"]
    if os.getuid() != 0:
        assert listing.skipped == {"closed": f"The folder {closed} cannot be read: Permission denied."}


def test_several_folders_are_watched_and_one_that_vanishes_does_not_hide_the_others(
    folder: Path, tmp_path: Path
) -> None:
    further = tmp_path / "nas"
    (further / "yard").mkdir(parents=True)
    (folder / "gate" / "a.mp4").write_bytes(b"first")
    (further / "yard" / "a.mp4").write_bytes(b"second")
    settings = settings_of(folder, further)
    listed = list_recordings(settings)
    assert list(listed.files) == ["gate/a.mp4", f"{further}/yard/a.mp4"]
    known = identify(settings, listed.files, {})
    assert [file.camera for file in known.values()] == ["gate", "yard"]
    assert file_of(settings, f"{further}/yard/a.mp4").read_bytes() == b"second"
    further.rename(tmp_path / "unmounted")
    listed = list_recordings(settings)
    assert list(listed.files) == ["gate/a.mp4"]
    assert listed.problems == [f"The watched folder {further} does not exist: create it, mount it or name another."]


def test_a_missing_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="does not exist"):
        list_recordings(settings_of(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("front door (2).mp4", "front-door-2"),
        ("it's.mkv", "it-s"),
        ("カメラ１.ts", "カメラ１"),
        ("....mp4", "recording"),
        ("x" * 200 + ".mp4", "x" * 60),
        ("a.b.c.mp4", "a-b-c"),
    ],
)
def test_ids_are_readable(name: str, slug: str) -> None:
    assert recording_id_of(name, "0123456789abcdef") == f"{slug}-01234567"


def test_the_first_folder_is_the_camera() -> None:
    assert camera_of("gate/2026/a.mp4") == "gate"
    assert camera_of("a.mp4") is None
    assert camera_of("/mnt/nas/yard/2026/a.mp4", [Path("/mnt/nas")]) == "yard"
    assert camera_of("/mnt/nas/a.mp4", [Path("/mnt/nas")]) is None


@pytest.mark.parametrize("size_bytes", [0, 1, 5_000_000])
def test_fingerprints_follow_the_content(tmp_path: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    one.write_bytes(content)
    copy.write_bytes(content)
    other.write_bytes(content + b"x")
    assert content_fingerprint(one) == content_fingerprint(copy)
    assert content_fingerprint(one) != content_fingerprint(other)


def identified(folder: Path, known: dict[str, SourceFile]) -> dict[str, SourceFile]:
    listed = list_recordings(settings_of(folder)).files
    return identify(
        settings_of(folder), {p: s for p, s in listed.items() if p not in known or known[p].file_state != s}, known
    )


def test_a_copy_is_the_same_recording_and_a_change_is_a_new_one(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"first")
    known = identified(folder, {})
    first = known["a.mp4"]
    assert first.state == "known"

    shutil.copy(folder / "a.mp4", folder / "gate" / "b.mp4")
    found = identified(folder, known)
    assert found["gate/b.mp4"].state == "duplicate"
    assert found["gate/b.mp4"].recording_id == first.recording_id
    assert "same content as a.mp4" in (found["gate/b.mp4"].reason or "")

    (folder / "a.mp4").write_bytes(b"second!")
    changed = identified(folder, known | found)["a.mp4"]
    assert changed.state == "known"
    assert changed.recording_id != first.recording_id


def test_files_that_cannot_be_recordings_have_a_reason(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/odd\xff.mp4")).write_bytes(b"x")
    found = identified(folder, {})
    assert {path: (file.state, file.reason) for path, file in found.items()} == {
        "empty.mp4": ("unreadable", "It is empty (0 bytes)."),
        "odd\\xff.mp4": ("unreadable", "Its name is not valid UTF-8: rename the file."),
    }
    (folder / "empty.mp4").write_bytes(b"content at last")
    assert identified(folder, found)["empty.mp4"].state == "known"


def test_what_a_file_says_of_its_own_length(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    write_video(demo_scene(1, 4, {"car": 1}), whole)
    content, part = whole.read_bytes(), tmp_path / "part.mp4"
    assert not looks_unfinished(whole)
    for length in (9, 40, len(content) // 2, len(content) - 1):
        part.write_bytes(content[:length])
        assert looks_unfinished(part), length
    part.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))  # its space was reserved
    assert looks_unfinished(part)
    part.write_bytes(b"this is not a video")
    assert not looks_unfinished(part)
    part.write_bytes(b"RIFF" + (100).to_bytes(4, "little") + b"AVI " + bytes(50))
    assert looks_unfinished(part)
    part.write_bytes(b"RIFF" + (100).to_bytes(4, "little") + b"AVI " + bytes(96))
    assert not looks_unfinished(part)


def test_a_file_that_changes_while_it_is_read_waits(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"first")
    assert identify(settings_of(folder), {"a.mp4": FileState(5, 1)}, {}) == {}


def test_a_link_put_in_place_of_a_file_leads_nowhere(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (outside / "a.mp4").write_bytes(b"secret")
    (folder / "cam").symlink_to(outside)
    (folder / "b.mp4").symlink_to(outside / "a.mp4")
    for path in ("cam/a.mp4", "b.mp4", "../out/a.mp4"):
        with pytest.raises(RecordingError, match="leads out of the watched folder"):
            file_of(settings_of(folder), path)
    (folder / "c.mp4").write_bytes(b"own")
    assert file_of(settings_of(folder), "c.mp4") == folder / "c.mp4"


@pytest.mark.parametrize("size_bytes", [1000, 5_000_000])
def test_a_file_that_went_on_growing_replaces_what_was_taken_up_of_it(folder: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    (folder / "a.ts").write_bytes(content[: size_bytes // 2])
    known = identified(folder, {})
    (folder / "a.ts").write_bytes(content)
    found = identified(folder, known)
    first, whole = known["a.ts"].recording_id, found["a.ts"].recording_id
    assert grown(settings_of(folder), found, known) == {first: whole}
    (folder / "a.ts").write_bytes(os.urandom(2 * size_bytes))  # another recording under the same name
    assert grown(settings_of(folder), identified(folder, found), found) == {}
