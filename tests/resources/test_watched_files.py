import os
from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.settings import Settings
from resources.errors import PipelineError, RecordingError
from resources.watched_files import camera_of, is_incomplete_container, list_watched_files, resolve_source_path
from tests.builders.odd_folders import make_deep_folder, set_mtime_year


def settings_of(folder: Path, *further_folders: Path) -> Settings:
    return Settings(watched_folder=folder, further_watched_folders=further_folders)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The watched folder."""
    path = tmp_path / "recordings"
    (path / "gate" / "2026").mkdir(parents=True)
    return path


def test_only_files_that_could_be_recordings_are_listed(folder: Path) -> None:
    for name in ("a.mp4", "gate/B.MKV", "gate/2026/c.ts", ".hidden.mp4", "d.mp4.part", "notes.txt", "e", "f.tmp"):
        (folder / name).write_bytes(b"x")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "g.mp4").write_bytes(b"x")
    (folder / "folder.mp4").mkdir()
    listing = list_watched_files(settings_of(folder))
    assert sorted(listing.files) == ["a.mp4", "gate/2026/c.ts", "gate/B.MKV"]
    assert {path: reason.split(":")[0] for path, reason in listing.skipped.items()} == {
        "d.mp4.part": "The extension .part marks an unfinished copy or download",
        "e": "The file name has no extension",
        "f.tmp": "The extension .tmp marks an unfinished copy or download",
        "notes.txt": "The extension .txt is not in ingest.extensions",
    }


def test_links_out_of_the_folder_are_not_listed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (folder / "real.mp4").write_bytes(b"x")
    (folder / "inside.mp4").symlink_to(folder / "real.mp4")
    (folder / "outside.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "broken.mp4").symlink_to(folder / "none.mp4")
    listing = list_watched_files(settings_of(folder))
    assert list(listing.files) == ["real.mp4", "inside.mp4"]  # files come before links
    assert listing.skipped == {
        "outside.mp4": "The link points out of the watched folder: put the file itself there.",
        "broken.mp4": "The target of the link does not exist.",
    }


def test_entries_that_are_not_files_are_skipped_with_a_reason(folder: Path, tmp_path: Path) -> None:
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
    listing = list_watched_files(settings_of(folder))
    assert list(listing.files) == ["real.mp4"]
    link_to_folder = "The link points to a folder and is not followed: add that folder to further_watched_folders."
    assert listing.skipped == {
        "linked": link_to_folder,
        "loop": link_to_folder,
        "self.mp4": "The link cannot be resolved.",
        "nothing.mp4": "The target of the link does not exist.",
        "long.mp4": "The link cannot be resolved.",
        "pipe.mp4": "The entry is a pipe, a socket or a device, not a file.",
    }


def test_an_unreadable_folder_does_not_hide_the_others(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"x")
    unreadable = folder / "unreadable"
    unreadable.mkdir(mode=0)
    try:
        listing = list_watched_files(settings_of(folder))
    finally:
        unreadable.chmod(0o700)
    assert list(listing.files) == ["a.mp4"]
    if os.getuid() != 0:
        assert listing.skipped == {"unreadable": f"The folder {unreadable} cannot be read: Permission denied."}


def test_a_missing_folder_does_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    further = tmp_path / "nas"
    (further / "yard").mkdir(parents=True)
    (folder / "gate" / "a.mp4").write_bytes(b"first")
    (further / "yard" / "a.mp4").write_bytes(b"second")
    settings = settings_of(folder, further)
    assert list(list_watched_files(settings).files) == ["gate/a.mp4", f"{further}/yard/a.mp4"]
    assert resolve_source_path(settings, f"{further}/yard/a.mp4").read_bytes() == b"second"
    further.rename(tmp_path / "unmounted")
    listing = list_watched_files(settings)
    assert list(listing.files) == ["gate/a.mp4"]
    assert listing.problems == [f"The watched folder {further} does not exist: create it, mount it or name another."]


def test_a_missing_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="does not exist"):
        list_watched_files(settings_of(tmp_path / "none"))


def test_the_camera_is_the_first_folder() -> None:
    assert camera_of("gate/2026/a.mp4") == "gate"
    assert camera_of("a.mp4") is None
    assert camera_of("/mnt/nas/yard/2026/a.mp4", [Path("/mnt/nas")]) == "yard"
    assert camera_of("/mnt/nas/a.mp4", [Path("/mnt/nas")]) is None


def test_incomplete_mp4_and_avi_files_are_recognized(tmp_path: Path) -> None:
    complete = tmp_path / "complete.mp4"
    write_video(demo_scene(1, 4, {"car": 1}), complete)
    content, file = complete.read_bytes(), tmp_path / "incomplete.mp4"
    assert not is_incomplete_container(complete)
    for size_bytes in (9, 40, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size_bytes])
        assert is_incomplete_container(file), size_bytes
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))  # space was reserved
    assert is_incomplete_container(file)
    file.write_bytes(b"this is not a video")
    assert not is_incomplete_container(file)
    file.write_bytes(b"RIFF" + (100).to_bytes(4, "little") + b"AVI " + bytes(50))
    assert is_incomplete_container(file)
    file.write_bytes(b"RIFF" + (100).to_bytes(4, "little") + b"AVI " + bytes(96))
    assert not is_incomplete_container(file)


def test_a_source_path_outside_the_watched_folder_fails(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (outside / "a.mp4").write_bytes(b"secret")
    (folder / "cam").symlink_to(outside)
    (folder / "b.mp4").symlink_to(outside / "a.mp4")
    for path in ("cam/a.mp4", "b.mp4", "../out/a.mp4"):
        with pytest.raises(RecordingError, match=f"The file {path} is outside the watched folders"):
            resolve_source_path(settings_of(folder), path)
    (folder / "c.mp4").write_bytes(b"inside")
    assert resolve_source_path(settings_of(folder), "c.mp4") == folder / "c.mp4"


def test_folders_that_no_path_leads_to_are_skipped_with_a_name_that_can_be_stored(folder: Path) -> None:
    (folder / "real.mp4").write_bytes(b"x")
    make_deep_folder(folder / "gate")
    listing = list_watched_files(settings_of(folder))
    assert list(listing.files) == ["real.mp4"]
    assert sorted(reason.partition(" cannot be ")[2] for reason in listing.skipped.values()) == [
        "examined: File name too long.",
        "read: File name too long.",
    ]
    assert all("\\xe9dd" in path for path in listing.skipped)
    for text in (*listing.skipped, *listing.skipped.values(), *listing.problems):
        text.encode()
    assert [len(problem) < 300 for problem in listing.problems] == [True]


def test_an_mtime_that_no_table_can_store_is_replaced_by_the_nearest(folder: Path) -> None:
    for year, is_storable in ((1960, True), (1970, True), (2261, True), (2300, False)):
        file = folder / f"{year}.mp4"
        file.write_bytes(b"x")
        if not set_mtime_year(file, year):
            pytest.skip(f"this file system stores no mtime in {year}")
        state = list_watched_files(settings_of(folder)).files[file.name]
        assert state.is_mtime_storable == is_storable
        assert -(2**63) <= state.mtime_ns < 2**63
