import os
import shutil
from pathlib import Path

import pytest

from resources.errors import PipelineError, RecordingError
from resources.settings import IntakeSettings
from resources.watched_folder import (
    FileState,
    SourceFile,
    camera_of,
    content_fingerprint,
    file_of,
    identify,
    list_recordings,
    recording_id_of,
)

INTAKE = IntakeSettings()


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
    assert list(list_recordings(folder, INTAKE)) == ["a.mp4", "gate/2026/c.ts", "gate/B.MKV"]


def test_links_may_not_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (folder / "real.mp4").write_bytes(b"x")
    (folder / "inside.mp4").symlink_to(folder / "real.mp4")
    (folder / "outside.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "broken.mp4").symlink_to(folder / "none.mp4")
    assert list(list_recordings(folder, INTAKE)) == ["inside.mp4", "real.mp4"]


def test_a_missing_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="does not exist"):
        list_recordings(tmp_path / "none", INTAKE)


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
    listed = list_recordings(folder, INTAKE)
    return identify(folder, {p: s for p, s in listed.items() if p not in known or known[p].file_state != s}, known)


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


def test_a_file_that_changes_while_it_is_read_waits(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"first")
    assert identify(folder, {"a.mp4": FileState(5, 1)}, {}) == {}


def test_a_link_put_in_place_of_a_file_leads_nowhere(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (outside / "a.mp4").write_bytes(b"secret")
    (folder / "cam").symlink_to(outside)
    (folder / "b.mp4").symlink_to(outside / "a.mp4")
    for path in ("cam/a.mp4", "b.mp4", "../out/a.mp4"):
        with pytest.raises(RecordingError, match="leads out of the watched folder"):
            file_of(folder, path)
    (folder / "c.mp4").write_bytes(b"own")
    assert file_of(folder, "c.mp4") == folder / "c.mp4"
