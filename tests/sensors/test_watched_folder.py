from pathlib import Path

from resources.settings import IntakeSettings, Settings
from resources.watched_folder import FileState, SourceFile
from sensors.watched_folder import rest_of, settle


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
