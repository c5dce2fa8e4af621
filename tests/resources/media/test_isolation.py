"""A codec that crashes, hangs or uses too much memory costs one recording: its process is killed and replaced."""

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

from resources.config.media_config import VideoSettings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import RecordingError, RejectedRecordingError
from resources.media import isolation
from resources.media.isolation import normalize_in_subprocess, probe_in_subprocess
from resources.media.progress import ReportProgress
from resources.previews import preview_throttle
from tests.builders.numbered_videos import MakeVideo

pytestmark = pytest.mark.slow

VIDEO = VideoSettings(when_conforming="encode", stall_s=3)
LONG_FRAME_COUNT = 1500


def media_pid() -> int:
    process = isolation._process._process
    assert process is not None
    return process.pid


def disturb_processes(count: int, disturb: Callable[[int], None]) -> ReportProgress:
    """A progress callback that disturbs the first `count` media processes, each at its first progress report."""
    disturbed_pids: set[int] = set()

    def progress(*_: object) -> None:
        if media_pid() not in disturbed_pids and len(disturbed_pids) < count:
            disturbed_pids.add(media_pid())
            disturb(media_pid())

    return progress


def crash(pid: int) -> None:
    os.kill(pid, signal.SIGSEGV)


def hang(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("disturb", [crash, hang])
def test_a_crash_or_hang_is_retried_with_one_thread(
    make_video: MakeVideo, tmp_path: Path, disturb: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    source = make_video("a.mkv", LONG_FRAME_COUNT, pixel_format="yuv444p")
    video = normalize_in_subprocess(source, tmp_path / "out.mp4", VIDEO, disturb_processes(1, disturb))
    assert len(video.frames) == LONG_FRAME_COUNT
    assert "a.mkv: the decoder " in caplog.text and "retrying with a single thread" in caplog.text


def test_a_file_that_crashes_the_decoder_twice_is_rejected_and_the_next_is_not(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    source = make_video("a.mkv", LONG_FRAME_COUNT, pixel_format="yuv444p")
    with pytest.raises(RejectedRecordingError, match=r"crashed \(SIGSEGV\), with several threads and with one"):
        normalize_in_subprocess(source, tmp_path / "out.mp4", VIDEO, disturb_processes(2, crash))
    assert probe_in_subprocess(make_video("b.mkv", 5), VIDEO).codec_name == "h264"


def test_a_file_on_which_the_decoder_hangs_twice_fails_within_the_time_limit(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    source = make_video("a.mkv", LONG_FRAME_COUNT, pixel_format="yuv444p")
    start_s = time.monotonic()
    with pytest.raises(RecordingError, match="made no progress for 1 s"):
        normalize_in_subprocess(
            source, tmp_path / "out.mp4", VIDEO.model_copy(update={"stall_s": 1}), disturb_processes(2, hang)
        )
    assert time.monotonic() - start_s < 30


def test_an_interruption_kills_the_media_process(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", LONG_FRAME_COUNT, pixel_format="yuv444p")
    pids = []

    def interrupt(*_: object) -> None:
        pids.append(media_pid())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normalize_in_subprocess(source, tmp_path / "out.mp4", VIDEO, interrupt)
    assert not psutil.pid_exists(pids[0])


def test_a_file_that_exceeds_the_memory_limit_is_rejected(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("large.mkv", 3, size=(7680, 4320), pixel_format="yuv444p")
    settings = VideoSettings(max_memory_mb=500, max_height_px=None)
    with pytest.raises(RejectedRecordingError, match=r"needs more than 500 MB to decode \(video.max_memory_mb\)"):
        normalize_in_subprocess(source, tmp_path / "out.mp4", settings)


def test_errors_keep_their_type_and_message(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="The file no longer exists"):
        probe_in_subprocess(tmp_path / "nowhere.mp4", VIDEO)
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(RejectedRecordingError, match="not a video that can be opened"):
        probe_in_subprocess(tmp_path / "a.mp4", VIDEO)


def test_a_full_disk_is_an_os_error(make_video: MakeVideo) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        normalize_in_subprocess(make_video("a.mkv", LONG_FRAME_COUNT, pixel_format="yuv444p"), Path("/dev/full"), VIDEO)


def test_the_media_process_ends_with_its_parent(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", LONG_FRAME_COUNT, size=(256, 192), pixel_format="yuv444p")
    code = (
        "import sys; from pathlib import Path; from resources.media import isolation; "
        "from resources.config.media_config import VideoSettings\n"
        "def print_pid(*_): print(isolation._process._process.pid, flush=True)\n"
        f"source, output = Path({str(source)!r}), Path({str(tmp_path / 'o.mp4')!r})\n"
        "isolation.normalize_in_subprocess(source, output, VideoSettings(), print_pid)"
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


def test_requests_of_several_threads_are_handled_one_by_one(make_video: MakeVideo) -> None:
    source = make_video("a.mkv", 20)
    codec_names: list[str] = []
    threads = [
        threading.Thread(target=lambda: codec_names.append(probe_in_subprocess(source, VIDEO).codec_name))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codec_names == ["h264"] * 4


def test_each_image_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_throttle, "PREVIEW_INTERVAL_S", 0.0)
    monkeypatch.setattr(isolation, "_REPORT_INTERVAL_S", 0.0)
    parent_connection, child_connection = Pipe()
    send_progress = isolation._progress_sender(child_connection)
    first, second = (np.full((2, 2, 3), grey, np.uint8) for grey in (1, 2))
    sent_greys: list[int | None] = []
    for done, image in ((10, None), (20, first), (30, first), (40, second)):
        send_progress(done, 100, image)
        kind, (sent_done, sent_total, sent_image) = parent_connection.recv()
        assert (kind, sent_done, sent_total) == ("progress", done, 100)
        sent_greys.append(None if sent_image is None else int(sent_image[0, 0, 0]))
    assert sent_greys == [None, 1, None, 2]
