"""Probing and normalizing in a process of their own, where a crash or a hang of a codec library can be survived.

The process is started when it is first needed, reads one file after the other, and ends with the process that started
it. A file on which it crashes or stalls is tried once more with a single decoding thread, which is how most faults of
codecs are got around, and is then given up; the next file gets a new process.
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

from resources.errors import PipelineError, RecordingError, RejectedRecordingError
from resources.media.normalizing import NormalizedVideo, Progress, normalize
from resources.media.probing import Probe, probe
from resources.pictures import Occasions
from resources.settings import PROJECT_ROOT, VideoSettings

logger = logging.getLogger(__name__)

_TELL_EVERY_S = 0.5
_LOOK_AFTER_PARENT_EVERY_S = 2.0
_RETRY_THREAD_COUNT = 1
_SLOW_DISK_BYTES_PER_S = 5_000_000  # finishing a large file rewrites it, in silence
_NO_PROGRESS: Progress = lambda done, total, picture=None: None  # noqa: E731 - a constant, not a function of its own

Answer = TypeVar("Answer")


def probe_isolated(path: Path, settings: VideoSettings) -> Probe:
    """`probe`, in the media process.

    Raises:
        RejectedRecordingError: As `probe`; or the decoder crashes on the file or needs too much memory.
        RecordingError: The file is gone, or its decoding stalled.
    """
    return _process.ask(_probe, (path, settings), path, settings, _NO_PROGRESS)


def normalize_isolated(
    path: Path, output: Path, settings: VideoSettings, progress: Progress = _NO_PROGRESS
) -> NormalizedVideo:
    """`normalize`, in the media process.

    Raises:
        RejectedRecordingError: As `normalize`; or the decoder crashes on the file or needs too much memory.
        RecordingError: The file is gone, or its decoding stalled.
        OSError: The output cannot be written.
    """
    return _process.ask(_normalize, (path, output, settings), path, settings, progress)


def _probe(progress: Progress, thread_count: int | None, path: Path, settings: VideoSettings) -> Probe:
    return probe(path, settings, lambda: progress(0, 0), thread_count)


def _normalize(
    progress: Progress, thread_count: int | None, path: Path, output: Path, settings: VideoSettings
) -> NormalizedVideo:
    return normalize(path, output, settings, progress, thread_count)


class _CrashedError(Exception):
    """The media process ended by itself."""


class _StalledError(Exception):
    """The media process said nothing for too long."""


class MediaProcess:
    """The other side: one process, asked one thing at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def ask(
        self,
        work: Callable[..., Answer],
        arguments: tuple[Any, ...],
        path: Path,
        settings: VideoSettings,
        progress: Progress,
    ) -> Answer:
        """Have some work done on a file, with one thread if it fails with many.

        Args:
            work: A function of this module that takes progress, a thread count and the arguments.
            arguments: What else it takes.
            path: The recording, for what is told.
            settings: Its bounds of memory and silence.
            progress: Told how far the work is.

        Raises:
            RejectedRecordingError: The process crashed twice on the file.
            RecordingError: It stalled twice.
        """
        with self._turn:
            try:
                return self._attempt(work, None, arguments, path, settings, progress)
            except (_CrashedError, _StalledError) as first:
                logger.warning("%s: decoding %s; once more with a single thread.", path.name, first)
            try:
                return self._attempt(work, _RETRY_THREAD_COUNT, arguments, path, settings, progress)
            except _CrashedError as error:
                raise RejectedRecordingError(
                    f"Its decoding {error}, with several threads and with one: the file is damaged in a way that the "
                    "decoder does not survive."
                ) from error
            except _StalledError as error:
                raise RecordingError(
                    f"Its decoding {error}, with several threads and with one: the file or the disk hangs; "
                    "video.stall_s sets how long to wait."
                ) from error

    def _attempt(
        self,
        work: Callable[..., Answer],
        thread_count: int | None,
        arguments: tuple[Any, ...],
        path: Path,
        settings: VideoSettings,
        progress: Progress,
    ) -> Answer:
        connection = self._started()
        allowed_s = settings.stall_s
        try:
            connection.send((work.__name__, thread_count, arguments, settings.max_memory_mb))
            while True:
                if not connection.poll(allowed_s):
                    raise _StalledError(f"made no progress for {allowed_s:.0f} s")
                kind, value = connection.recv()
                if kind == "progress":
                    progress(*value)
                    if value[0] == value[1] > 0:
                        # All frames are through: the index is written, and the whole file is rewritten behind it.
                        allowed_s = settings.stall_s + _size_bytes(path) / _SLOW_DISK_BYTES_PER_S
                elif kind == "answer":
                    return cast(Answer, value)
                else:
                    raise value
        except (EOFError, ConnectionError) as error:
            raise _CrashedError(f"crashed ({self._ending()})") from error
        except BaseException as error:
            if not isinstance(error, (PipelineError, RecordingError)):
                self.stop()  # what it still works on is of no use to anyone
            raise

    def _started(self) -> "Connection[Any, Any]":
        if self._connection is None or self._process is None or self._process.poll() is not None:
            self.stop()
            self._connection, theirs = Pipe()
            with theirs:
                command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(os.getpid())]
                environment = {
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT_ROOT), *sys.path))),
                }
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment
                )
        return self._connection

    def _ending(self) -> str:
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
        """End the process, if there is one."""
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
        return 0  # the work itself says what is wrong with it


def _end_with(parent_pid: int) -> None:
    """End this process when the other side is gone, whatever the codecs are doing."""
    while os.getppid() == parent_pid:
        time.sleep(_LOOK_AFTER_PARENT_EVERY_S)
    os._exit(1)


def _serve(connection: "Connection[Any, Any]") -> None:
    """Do what is asked until the other side is gone."""
    while True:
        try:
            name, thread_count, arguments, max_memory_mb = connection.recv()
        except EOFError:
            return
        # Writable memory only: address space also counts what threads and libraries merely reserve.
        limit = max_memory_mb * 1_000_000
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        try:
            reply = ("answer", globals()[name](_teller(connection), thread_count, *arguments))
        except BrokenPipeError:
            raise
        except Exception as error:
            reply = ("error", _told(error, max_memory_mb))
        connection.send(reply)


def _teller(connection: "Connection[Any, Any]") -> Progress:
    """Tells the other side how far the work is, twice a second at most, and now and then with a picture."""
    last, occasions = 0.0, Occasions()
    shown: np.ndarray | None = None

    def tell(done: int, total: int, picture: np.ndarray | None = None, /) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if now - last >= _TELL_EVERY_S or done == total > 0:
            last = now
            is_new = picture is not None and picture is not shown and occasions.is_due(done, total)
            shown = picture if is_new else shown
            connection.send(("progress", (done, total, picture if is_new else None)))

    return tell


def _is_memory_left(max_memory_mb: int) -> bool:
    """Whether a good part of the bound is free; encoders do not say that they got too little, only that they fail."""
    try:
        mmap.mmap(-1, max_memory_mb * 1_000_000 // 4, mmap.MAP_PRIVATE).close()
    except OSError:
        return False
    return True


def _told(error: Exception, max_memory_mb: int) -> Exception:
    """An error in a form that can be handed to another process."""
    if isinstance(error, (PipelineError, RecordingError)):
        return error
    if isinstance(error, MemoryError) or not _is_memory_left(max_memory_mb):
        return RejectedRecordingError(
            f"Its decoding needs more than {max_memory_mb} MB of memory: raise video.max_memory_mb if it is worth it."
        )
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror, error.filename)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of a library may not survive the journey; its words do
        return RecordingError(f"Unexpected {type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides what an interruption means
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    with contextlib.suppress(BrokenPipeError), Connection(int(sys.argv[1])) as _connection:
        _serve(_connection)
