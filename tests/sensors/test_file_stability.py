from pathlib import Path

from resources.config.media_config import IngestSettings
from resources.config.settings import Settings
from resources.source_index import SourceFile
from resources.watched_files import FileState
from sensors.file_stability import split_stable_files, stability_rule


def four_seconds(path: str, state: FileState) -> float:
    return 4.0


def known_file(path: str, state: FileState) -> SourceFile:
    return SourceFile(path, state.size_bytes, state.mtime_ns, "id", "f", "known", None)


def test_a_file_is_stable_once_two_listings_far_enough_apart_agree() -> None:
    listed = {"a.mp4": FileState(10, 1)}
    stable, unstable = split_stable_files(listed, {}, {}, 100.0, four_seconds)
    assert (stable, unstable) == ({}, {"a.mp4": (10, 1, 100.0)})
    stable, unstable = split_stable_files(listed, {}, unstable, 103.0, four_seconds)
    assert (stable, unstable) == ({}, {"a.mp4": (10, 1, 100.0)})
    stable, unstable = split_stable_files(listed, {}, unstable, 104.0, four_seconds)
    assert (stable, unstable) == (listed, {})


def test_a_change_of_size_or_mtime_restarts_the_time() -> None:
    _, unstable = split_stable_files({"a.mp4": FileState(10, 1)}, {}, {}, 100.0, four_seconds)
    _, unstable = split_stable_files({"a.mp4": FileState(20, 1)}, {}, unstable, 110.0, four_seconds)
    assert unstable == {"a.mp4": (20, 1, 110.0)}
    stable, _ = split_stable_files({"a.mp4": FileState(20, 2)}, {}, unstable, 120.0, four_seconds)
    assert stable == {}


def test_an_mtime_in_the_future_does_not_matter() -> None:
    future = {"a.mp4": FileState(10, 10**19)}
    _, unstable = split_stable_files(future, {}, {}, 100.0, four_seconds)
    stable, _ = split_stable_files(future, {}, unstable, 105.0, four_seconds)
    assert stable == future


def test_known_files_are_ignored_until_they_change() -> None:
    state = FileState(10, 1)
    known = {"a.mp4": known_file("a.mp4", state)}
    assert split_stable_files({"a.mp4": state}, known, {}, 100.0, four_seconds) == ({}, {})
    _, unstable = split_stable_files({"a.mp4": FileState(11, 1)}, known, {}, 100.0, four_seconds)
    assert list(unstable) == ["a.mp4"]


def test_deleted_files_are_forgotten() -> None:
    _, unstable = split_stable_files({}, {}, {"a.mp4": (10, 1, 100.0)}, 200.0, four_seconds)
    assert unstable == {}


def test_setting_the_clock_back_restarts_the_time() -> None:
    listed = {"a.mp4": FileState(10, 1)}
    _, unstable = split_stable_files(listed, {}, {"a.mp4": (10, 1, 5000.0)}, 100.0, four_seconds)
    assert unstable == {"a.mp4": (10, 1, 100.0)}
    assert split_stable_files(listed, {}, unstable, 104.0, four_seconds)[0] == listed


def test_an_incomplete_container_must_be_unchanged_for_longer(tmp_path: Path) -> None:
    settings = Settings(watched_folder=tmp_path, ingest=IngestSettings(settle_s=4, incomplete_settle_s=30))
    file = tmp_path / "a.mp4"
    file.write_bytes(b"\0\0\1\0ftypisom" + bytes(10))
    now = file.stat().st_mtime
    state = FileState(22, file.stat().st_mtime_ns)
    assert stability_rule(settings, now)("a.mp4", state) == 30
    assert stability_rule(settings, now + 3600)("a.mp4", state) == 4
    file.write_bytes(b"no video")
    assert stability_rule(settings, now)("a.mp4", state) == 4
