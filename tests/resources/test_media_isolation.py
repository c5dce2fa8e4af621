"""A codec that crashes, hangs or eats memory costs one file: the process it ran in is killed and replaced."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import psutil
import pytest

import resources.pictures
from resources.errors import RecordingError, RejectedRecordingError
from resources.media import isolation
from resources.media.isolation import normalize_isolated, probe_isolated
from resources.media.normalizing import Progress
from resources.settings import PROJECT_ROOT, VideoSettings
from tests.conftest import MakeVideo

VIDEO = VideoSettings(when_conforming="encode", stall_s=3)
LONG = 1500


def media_pid() -> int:
    process = isolation._process._process
    assert process is not None
    return process.pid


def struck(when_told: int, strike: Callable[[int], None]) -> Progress:
    """A progress function that strikes the media process at its first signs of life, `when_told` times in all."""
    stricken: set[int] = set()

    def progress(*_: object) -> None:
        if media_pid() not in stricken and len(stricken) < when_told:
            stricken.add(media_pid())
            strike(media_pid())

    return progress


def crash(pid: int) -> None:
    os.kill(pid, signal.SIGSEGV)


def hang(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("strike", [crash, hang])
def test_a_crash_or_a_hang_is_tried_again_with_one_thread(
    make_video: MakeVideo, tmp_path: Path, strike: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    source = make_video("a.mkv", LONG, pixel_format="yuv444p")
    video = normalize_isolated(source, tmp_path / "out.mp4", VIDEO, struck(1, strike))
    assert len(video.frames) == LONG
    assert "a.mkv: decoding " in caplog.text and "once more with a single thread" in caplog.text


def test_a_file_that_crashes_twice_is_refused_and_the_next_one_is_read(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", LONG, pixel_format="yuv444p")
    with pytest.raises(RejectedRecordingError, match=r"crashed \(SIGSEGV\), with several threads and with one"):
        normalize_isolated(source, tmp_path / "out.mp4", VIDEO, struck(2, crash))
    assert probe_isolated(make_video("b.mkv", 5), VIDEO).codec_name == "h264"


def test_a_file_that_hangs_twice_fails_within_the_time_allowed(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", LONG, pixel_format="yuv444p")
    started = time.monotonic()
    with pytest.raises(RecordingError, match="made no progress for 1 s"):
        normalize_isolated(source, tmp_path / "out.mp4", VIDEO.model_copy(update={"stall_s": 1}), struck(2, hang))
    assert time.monotonic() - started < 30


def test_an_interruption_ends_the_work_at_once(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", LONG, pixel_format="yuv444p")
    pids = []

    def interrupt(*_: object) -> None:
        pids.append(media_pid())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normalize_isolated(source, tmp_path / "out.mp4", VIDEO, interrupt)
    assert not psutil.pid_exists(pids[0])


def test_a_file_that_needs_too_much_memory_is_refused(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("large.mkv", 3, size=(7680, 4320), pixel_format="yuv444p")
    few = VideoSettings(max_memory_mb=500, max_height_px=None)
    with pytest.raises(RejectedRecordingError, match="memory"):
        normalize_isolated(source, tmp_path / "out.mp4", few)


def test_words_and_causes_come_through(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="The file is gone"):
        probe_isolated(tmp_path / "nowhere.mp4", VIDEO)
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(RejectedRecordingError, match="not a video that can be opened"):
        probe_isolated(tmp_path / "a.mp4", VIDEO)


def test_a_full_disk_is_told_as_such(make_video: MakeVideo) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        normalize_isolated(make_video("a.mkv", LONG, pixel_format="yuv444p"), Path("/dev/full"), VIDEO)


def test_the_process_ends_with_the_one_that_started_it(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", LONG, size=(256, 192), pixel_format="yuv444p")
    code = (
        "import sys; from pathlib import Path; from resources.media import isolation; "
        "from resources.settings import VideoSettings\n"
        "def told(*_): print(isolation._process._process.pid, flush=True)\n"
        f"isolation.normalize_isolated(Path({str(source)!r}), Path({str(tmp_path / 'o.mp4')!r}), VideoSettings(), told)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_two_threads_take_turns(make_video: MakeVideo) -> None:
    source = make_video("a.mkv", 20)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(probe_isolated(source, VIDEO).codec_name)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["h264"] * 4


def test_each_picture_is_handed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.pictures, "EVERY_S", 0.0)
    monkeypatch.setattr(isolation, "_TELL_EVERY_S", 0.0)
    ours, theirs = Pipe()
    tell = isolation._teller(theirs)
    first, second = (np.full((2, 2, 3), shade, np.uint8) for shade in (1, 2))
    told: list[object] = []
    for done, picture in ((10, None), (20, first), (30, first), (40, second)):
        tell(done, 100, picture)
        kind, (reached, total, shown) = ours.recv()
        assert (kind, reached, total) == ("progress", done, 100)
        told.append(None if shown is None else int(shown[0, 0, 0]))
    assert told == [None, 1, None, 2]
