"""The worker's side of its process that executes runs: starts it, gives it runs, and ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from typing import BinaryIO

import psutil
import yaml

from resources.config.settings_file import PROJECT_ROOT
from resources.process_isolation import child_environment
from resources.workers.run_executor import READY


class WarmProcess:
    """A process that executes runs, one after the other.

    Args:
        worker_name: Name of its worker.
        environment: Environment variables in addition to those of this process.
        log: Where its output goes; None means that of this process.

    Attributes:
        run_id: The run that it executes; empty if none.
        run_count: Number of runs that it has been given.
        is_ready: Whether it has loaded the code.
        is_success: Whether its last run has succeeded; None if unknown.
    """

    def __init__(self, worker_name: str, environment: Mapping[str, str], log: BinaryIO | None = None) -> None:
        self.run_id, self.run_count, self.is_ready = "", 0, False
        self.is_success: bool | None = None
        self._connection, child_connection = Pipe()
        workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text(encoding="utf-8"))
        code_module = workspace["load_from"][0]["python_module"]["module_name"]
        with child_connection:
            descriptor = child_connection.fileno()
            arguments = [str(descriptor), str(os.getpid()), worker_name, code_module]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "resources.workers.run_executor", *arguments],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt on the terminal is for the command, which ends the run in order
                env={**child_environment(), **environment},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def execute(self, run_id: str) -> None:
        """Start to execute a run; `wait` tells when it has ended."""
        self.run_id, self.run_count, self.is_success = run_id, self.run_count + 1, None
        self._connection.send(run_id)

    def wait(self, time_limit_s: float) -> bool:
        """Wait until the process is ready or its run has ended, or until the time is over.

        Returns:
            Whether the process is alive.
        """
        try:
            if self._connection.poll(time_limit_s):
                message = self._connection.recv()
                if message == READY:
                    self.is_ready = True
                else:
                    self.run_id, self.is_success = "", message[1]
        except (EOFError, ConnectionError):
            return False
        return True

    def memory_bytes(self) -> int:
        """Memory of the process and its child processes that is resident; 0 if it has ended."""
        total = 0
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for member in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += member.memory_info().rss
        return total

    def exit_reason(self) -> str:
        """How the process has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        code = self._process.returncode
        if code is None or code >= 0:
            return f"exit status {code}"
        return signal.Signals(-code).name

    def end(self, patience_s: float = 0.0) -> None:
        """End the process with its child processes, which end with it.

        Args:
            patience_s: Time that it gets to end its run.
        """
        with suppress(subprocess.TimeoutExpired, OSError):
            self._connection.close()  # it exits when it wants the next run
            self._process.wait(patience_s or 0.001)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
