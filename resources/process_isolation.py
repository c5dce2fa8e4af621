"""A child process that handles one request at a time, so that a crash or a hang in it costs one request only.

The parent starts it when it is first needed, keeps it for the next requests, and replaces it after a crash. The process
ends with its parent. Media are decoded in such a process, and stages of one's own run in one.
"""

import contextlib
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from resources.config.settings_file import PROJECT_ROOT

_PARENT_CHECK_INTERVAL_S = 1.0


class ProcessCrashedError(Exception):
    """The process ended unexpectedly; the text is a clause such as `crashed (SIGSEGV)`."""


class ProcessStalledError(Exception):
    """The process did not reply in time; the text is a clause such as `made no progress for 60 s`."""


class IsolatedProcess:
    """The parent's side of a process.

    Args:
        module: The module that the process runs, which calls `serve_requests`.
        inherited_fds: Open files that the process has under the same numbers.
    """

    def __init__(self, module: str, inherited_fds: Sequence[int] = ()) -> None:
        self._module, self._inherited_fds = module, tuple(inherited_fds)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def send(self, request: Any, time_limit_s: float) -> None:
        """Send a request, and start the process if it is not running.

        Args:
            request: Any value that can be pickled.
            time_limit_s: Time in which the process must have read it.

        Raises:
            ProcessCrashedError: The process ended meanwhile.
            ProcessStalledError: The process did not read the request in time; it has been killed.
        """
        connection = self._connect()
        has_timed_out = threading.Event()

        def kill() -> None:
            has_timed_out.set()
            if self._process is not None:
                self._process.kill()

        timer = threading.Timer(time_limit_s, kill)  # a process that hangs reads nothing, and the pipe is soon full
        timer.daemon = True
        timer.start()
        try:
            connection.send(request)
        except (EOFError, ConnectionError) as error:
            if has_timed_out.is_set():
                self.stop()
                raise ProcessStalledError(f"made no progress for {time_limit_s:.0f} s") from error
            raise ProcessCrashedError(f"crashed ({self._exit_reason()})") from error
        finally:
            timer.cancel()

    def receive(self, time_limit_s: float) -> Any:
        """Receive the next reply.

        Args:
            time_limit_s: Time in which it must come.

        Raises:
            ProcessCrashedError: The process ended.
            ProcessStalledError: No reply came in time; the process is still running.
        """
        connection = self._connection
        assert connection is not None, "a request precedes every reply"
        try:
            if not connection.poll(time_limit_s):
                raise ProcessStalledError(f"made no progress for {time_limit_s:.0f} s")
            return connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ProcessCrashedError(f"crashed ({self._exit_reason()})") from error

    def stop(self) -> None:
        """Kill the process if it is running."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None

    def _connect(self) -> "Connection[Any, Any]":
        if self._connection is None or not self.is_running:
            self.stop()
            self._connection, child_connection = Pipe()
            with child_connection:
                command = [sys.executable, "-P", "-m", self._module, str(child_connection.fileno()), str(os.getpid())]
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[child_connection.fileno(), *self._inherited_fds],
                    stdin=subprocess.DEVNULL,
                    env=child_environment(),
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


def child_environment() -> dict[str, str]:
    """Environment of a child process that can import the same modules as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT_ROOT), *sys.path)))}


def serve_requests(handle: Callable[[Any, "Connection[Any, Any]"], Any]) -> None:
    """Handle the requests of the parent until it has ended; the whole program of the process.

    Args:
        handle: Takes a request and the connection, on which it may send messages before its reply; returns the reply.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interruptions
    threading.Thread(target=exit_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    with contextlib.suppress(BrokenPipeError), Connection(int(sys.argv[1])) as connection:
        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            connection.send(handle(request, connection))


def limit_memory(max_memory_mb: int) -> None:
    """Limit the writable memory of this process.

    The address space is not limited: it also counts what threads and libraries merely reserve.
    """
    _, hard_limit_bytes = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (max_memory_mb * 1_000_000, hard_limit_bytes))


def has_free_memory(max_memory_mb: int) -> bool:
    """Whether a quarter of the limit is still free; libraries do not report that memory was the reason of a failure."""
    try:
        mmap.mmap(-1, max_memory_mb * 1_000_000 // 4, mmap.MAP_PRIVATE).close()
    except OSError:
        return False
    return True


def exit_with_parent(parent_pid: int) -> None:
    """Exit when the parent has ended, even while native code is running."""
    while os.getppid() == parent_pid:
        time.sleep(_PARENT_CHECK_INTERVAL_S)
    os._exit(1)
