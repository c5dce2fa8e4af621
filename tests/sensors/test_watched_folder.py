import time
from pathlib import Path

import pytest

from resources.settings import IntakeSettings, Settings
from resources.watched_folder import FileState, SourceFile, list_recordings
from sensors.watched_folder import _Look, rest_of, settle


def four(path: str, state: FileState) -> float:
    return 4.0


def known(path: str, state: FileState) -> SourceFile:
    return SourceFile(path, state.size_bytes, state.mtime_ns, "id", "f", "known", None)


def test_a_file_counts_after_resting_between_two_looks() -> None:
    listed = {"a.mp4": FileState(10, 1)}
    settled, waiting = settle(listed, {}, {}, now=100.0, settle_s=four)
    assert (settled, waiting) == ({}, {"a.mp4": (10, 1, 100.0)})
    settled, waiting = settle(listed, {}, waiting, now=103.0, settle_s=four)
    assert (settled, waiting) == ({}, {"a.mp4": (10, 1, 100.0)})
    settled, waiting = settle(listed, {}, waiting, now=104.0, settle_s=four)
    assert (settled, waiting) == (listed, {})


def test_a_file_that_grows_starts_to_rest_anew() -> None:
    _, waiting = settle({"a.mp4": FileState(10, 1)}, {}, {}, now=100.0, settle_s=four)
    _, waiting = settle({"a.mp4": FileState(20, 1)}, {}, waiting, now=110.0, settle_s=four)
    assert waiting == {"a.mp4": (20, 1, 110.0)}
    settled, _ = settle({"a.mp4": FileState(20, 2)}, {}, waiting, now=120.0, settle_s=four)
    assert settled == {}


def test_a_clock_that_runs_ahead_does_not_matter() -> None:
    future = {"a.mp4": FileState(10, 10**19)}
    _, waiting = settle(future, {}, {}, now=100.0, settle_s=four)
    settled, _ = settle(future, {}, waiting, now=105.0, settle_s=four)
    assert settled == future


def test_known_files_are_not_looked_at_again_until_they_change() -> None:
    state = FileState(10, 1)
    assert settle({"a.mp4": state}, {"a.mp4": known("a.mp4", state)}, {}, 100.0, four) == ({}, {})
    _, waiting = settle({"a.mp4": FileState(11, 1)}, {"a.mp4": known("a.mp4", state)}, {}, 100.0, four)
    assert list(waiting) == ["a.mp4"]


def test_files_that_vanish_are_forgotten() -> None:
    _, waiting = settle({}, {}, {"a.mp4": (10, 1, 100.0)}, 200.0, four)
    assert waiting == {}


def test_a_clock_that_is_set_back_delays_but_does_not_block() -> None:
    listed = {"a.mp4": FileState(10, 1)}
    _, waiting = settle(listed, {}, {"a.mp4": (10, 1, 5000.0)}, 100.0, four)
    assert waiting == {"a.mp4": (10, 1, 100.0)}
    assert settle(listed, {}, waiting, 104.0, four)[0] == listed


def test_what_says_that_more_is_to_come_rests_longer(tmp_path: Path) -> None:
    settings = Settings(watched_folder=tmp_path, intake=IntakeSettings(settle_s=4, unfinished_settle_s=30))
    file = tmp_path / "a.mp4"
    file.write_bytes(b"\0\0\1\0ftypisom" + bytes(10))
    now = file.stat().st_mtime
    state = FileState(22, file.stat().st_mtime_ns)
    assert rest_of(settings, now)("a.mp4", state) == 30
    assert rest_of(settings, now + 3600)("a.mp4", state) == 4
    file.write_bytes(b"no video")
    assert rest_of(settings, now)("a.mp4", state) == 4


def test_what_could_not_be_read_is_tried_again_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    settings = Settings(watched_folder=tmp_path)
    look = _Look(settings.watched_folders)
    listing = look.list(settings)
    state = listing.files["a.mp4"]
    refused = SourceFile(
        "a.mp4", state.size_bytes, state.mtime_ns, None, None, "unreadable", "It cannot be read: Permission denied."
    )
    empty = SourceFile("b.mp4", 0, 0, None, None, "unreadable", "It is empty (0 bytes).")
    known = {"a.mp4": refused, "b.mp4": empty}
    look.set_done(listing, known)
    assert look.is_done_with(listing)
    assert look.to_try_again(listing, known) == {}
    monkeypatch.setattr("sensors.watched_folder._TRY_AGAIN_AFTER_S", 0.0)
    assert not look.is_done_with(listing)
    assert look.to_try_again(listing, known) == {"a.mp4": state}
    look.set_done(listing, {"b.mp4": empty})
    assert look.is_done_with(listing)  # where nothing may become readable, nothing is tried again


def test_a_folder_that_was_mounted_meanwhile_is_watched_anew(tmp_path: Path) -> None:
    watched, away = tmp_path / "nas", tmp_path / "away"
    watched.mkdir()
    settings = Settings(watched_folder=watched)
    look = _Look(settings.watched_folders)
    look.list(settings)
    before = look._watch
    watched.rename(away)
    watched.mkdir()
    look.list(settings)
    assert look._watch is not before
    assert before.is_set()
    until = time.monotonic() + 20
    while not look._watch.take_change() and time.monotonic() < until:
        (watched / f"{time.monotonic_ns()}.mp4").write_bytes(b"x")  # it begins to listen in a thread
        time.sleep(0.2)
    assert time.monotonic() < until
    assert len(list_recordings(settings).files) > 0
    look._watch.stop()
