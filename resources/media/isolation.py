"""Probes and normalizes in a subprocess, so that a crash or hang of a codec library costs one recording only.

The subprocess is started when it is first needed, processes one file after the other, and ends with its parent. A file
on which it crashes or stalls is retried once with a single decoding thread, which avoids most faults of codecs, and
then fails; the next file gets a new subprocess.
"""

import contextlib
import logging
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from resources.config.media_config import VideoSettings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError, RecordingError, RejectedRecordingError
from resources.media.normalize import normalize
from resources.media.normalized_file import NormalizedVideo
from resources.media.probe import Probe, probe
from resources.media.progress import ReportProgress
from resources.previews.preview_throttle import PreviewThrottle

logger = logging.getLogger(__name__)

_REPORT_INTERVAL_S = 0.5
_PARENT_CHECK_INTERVAL_S = 2.0
_RETRY_THREAD_COUNT = 1
_SLOW_DISK_BYTES_PER_S = 5_000_000  # finishing a large file rewrites it, without any progress report
_NO_PROGRESS: ReportProgress = lambda done, total, image=None: None  # noqa: E731 - a constant

Result = TypeVar("Result")


def probe_in_subprocess(path: Path, settings: VideoSettings) -> Probe:
    """Run `probe` in the media process.

    Raises:
        RejectedRecordingError: As in `probe`; or the decoder crashed on the file or exceeded its memory limit.
        RecordingError: The file does not exist or is not readable, or decoding stalled.
    """
    return _process.request(_probe, (path, settings), path, settings, _NO_PROGRESS)


def normalize_in_subprocess(
    path: Path, output: Path, settings: VideoSettings, progress: ReportProgress = _NO_PROGRESS
) -> NormalizedVideo:
    """Run `normalize` in the media process.

    Raises:
        RejectedRecordingError: As in `normalize`; or the decoder crashed on the file or exceeded its memory limit.
        RecordingError: The file does not exist or is not readable, or decoding stalled.
        OSError: The output cannot be written.
    """
    return _process.request(_normalize, (path, output, settings), path, settings, progress)


def _probe(progress: ReportProgress, thread_count: int | None, path: Path, settings: VideoSettings) -> Probe:
    return probe(path, settings, lambda: progress(0, 0), thread_count)


def _normalize(
    progress: ReportProgress, thread_count: int | None, path: Path, output: Path, settings: VideoSettings
) -> NormalizedVideo:
    return normalize(path, output, settings, progress, thread_count)


class _CrashedError(Exception):
    """The media process ended unexpectedly."""


class _StalledError(Exception):
    """The media process reported no progress for too long."""


class MediaProcess:
    """The parent's side of the media process, which handles one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def request(
        self,
        function: Callable[..., Result],
        arguments: tuple[Any, ...],
        path: Path,
        settings: VideoSettings,
        progress: ReportProgress,
    ) -> Result:
        """Run a function in the media process; retry it with a single thread if the process crashes or stalls.

        Args:
            function: A function of this module that takes a progress callback, a thread count and the arguments.
            arguments: Further arguments of the function.
            path: The recording.
            settings: Limits of memory and of time without progress.
            progress: Progress callback.

        Returns:
            The result of the function.

        Raises:
            RejectedRecordingError: The process crashed twice on the file.
            RecordingError: The process stalled twice on the file.
        """
        with self._lock:
            try:
                return self._attempt(function, None, arguments, path, settings, progress)
            except (_CrashedError, _StalledError) as error:
                logger.warning("%s: the decoder %s: retrying with a single thread.", path.name, error)
            try:
                return self._attempt(function, _RETRY_THREAD_COUNT, arguments, path, settings, progress)
            except _CrashedError as error:
                raise RejectedRecordingError(
                    f"The decoder {error}, with several threads and with one: the file is damaged in a way "
                    "that crashes the decoder."
                ) from error
            except _StalledError as error:
                raise RecordingError(
                    f"The decoder {error}, with several threads and with one: the file or the disk hangs; "
                    "video.stall_s sets the time limit."
                ) from error

    def _attempt(
        self,
        function: Callable[..., Result],
        thread_count: int | None,
        arguments: tuple[Any, ...],
        path: Path,
        settings: VideoSettings,
        progress: ReportProgress,
    ) -> Result:
        connection = self._connect()
        time_limit_s = settings.stall_s
        try:
            connection.send((function.__name__, thread_count, arguments, settings.max_memory_mb))
            while True:
                if not connection.poll(time_limit_s):
                    raise _StalledError(f"made no progress for {time_limit_s:.0f} s")
                kind, value = connection.recv()
                if kind == "progress":
                    progress(*value)
                    if value[0] == value[1] > 0:
                        # All frames are encoded: now the index is written, and the whole file is rewritten after it.
                        time_limit_s = settings.stall_s + _size_bytes(path) / _SLOW_DISK_BYTES_PER_S
                elif kind == "result":
                    return cast(Result, value)
                else:
                    raise value
        except (EOFError, ConnectionError) as error:
            raise _CrashedError(f"crashed ({self._exit_reason()})") from error
        except BaseException as error:
            if not isinstance(error, (PipelineError, RecordingError)):
                self.stop()  # the result of the request is no longer needed
            raise

    def _connect(self) -> "Connection[Any, Any]":
        if self._connection is None or self._process is None or self._process.poll() is not None:
            self.stop()
            self._connection, child_connection = Pipe()
            with child_connection:
                command = [sys.executable, "-P", "-m", __name__, str(child_connection.fileno()), str(os.getpid())]
                environment = {
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT_ROOT), *sys.path))),
                }
                self._process = subprocess.Popen(
                    command, pass_fds=[child_connection.fileno()], stdin=subprocess.DEVNULL, env=environment
                )
        return self._connection

    def _exit_reason(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        code = self._process.returncode
        self.stop()
        if code is None or code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        return f"{name}, as when the system is out of memory" if name == "SIGKILL" else name

    def stop(self) -> None:
        """Kill the process if it is running."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None


_process = MediaProcess()


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the media process reports the problem of the file


def _exit_with_parent(parent_pid: int) -> None:
    """Exit when the parent has ended, even while a codec is running."""
    while os.getppid() == parent_pid:
        time.sleep(_PARENT_CHECK_INTERVAL_S)
    os._exit(1)


def _serve(connection: "Connection[Any, Any]") -> None:
    """Handle requests until the parent has ended."""
    while True:
        try:
            function_name, thread_count, arguments, max_memory_mb = connection.recv()
        except EOFError:
            return
        # Limits writable memory only: the address space also counts what threads and libraries merely reserve.
        limit_bytes = max_memory_mb * 1_000_000
        _, hard_limit_bytes = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, hard_limit_bytes))
        try:
            reply = ("result", globals()[function_name](_progress_sender(connection), thread_count, *arguments))
        except BrokenPipeError:
            raise
        except Exception as error:
            reply = ("error", _picklable_error(error, max_memory_mb))
        connection.send(reply)


def _progress_sender(connection: "Connection[Any, Any]") -> ReportProgress:
    """A progress callback that sends to the parent, twice a second at most, and each image at most once."""
    last_sent_s, throttle = 0.0, PreviewThrottle()
    last_image: np.ndarray | None = None

    def send_progress(done: int, total: int, image: np.ndarray | None = None, /) -> None:
        nonlocal last_sent_s, last_image
        now_s = time.monotonic()
        if now_s - last_sent_s >= _REPORT_INTERVAL_S or done == total > 0:
            last_sent_s = now_s
            sends_image = image is not None and image is not last_image and throttle.is_due(done, total)
            last_image = image if sends_image else last_image
            connection.send(("progress", (done, total, image if sends_image else None)))

    return send_progress


def _has_free_memory(max_memory_mb: int) -> bool:
    """Whether a quarter of the limit is still free; encoders do not report that memory was the reason of a failure."""
    try:
        mmap.mmap(-1, max_memory_mb * 1_000_000 // 4, mmap.MAP_PRIVATE).close()
    except OSError:
        return False
    return True


def _picklable_error(error: Exception, max_memory_mb: int) -> Exception:
    """Convert an error to one that can be sent to the parent process."""
    if isinstance(error, (PipelineError, RecordingError)):
        return error
    if isinstance(error, MemoryError) or not _has_free_memory(max_memory_mb):
        return RejectedRecordingError(
            f"The recording needs more than {max_memory_mb} MB to decode (video.max_memory_mb): raise the setting "
            "if the machine has enough memory."
        )
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror, error.filename)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of a library may not be picklable, but its message is
        return RecordingError(f"Unexpected {type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interruptions
    threading.Thread(target=_exit_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    with contextlib.suppress(BrokenPipeError), Connection(int(sys.argv[1])) as _connection:
        _serve(_connection)
