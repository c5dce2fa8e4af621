"""Dagster's processes: the commands start them and end them with all their child processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml

from cli.local_workers import build_local_workers
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError
from resources.workers.worker import Workers
from sensors.crash_recovery import PAGES_MODULE

_CODE_SERVER_START_S = 180.0
_PATIENCE_S = 2.0  # the runs in progress are marked as interrupted before
_CODE_SERVER_CHECK_INTERVAL_S, _MAX_CHECKS_WITHOUT_CODE_SERVER = 5.0, 3


class DagsterServices:
    """Code server, UI, daemon and pages of `cv-assets dev`, each the leader of a process group.

    Args:
        data_folder: The data folder, with Dagster's home.
        port: Port of the UI.
        workers: The workers of this machine; None if others execute the runs.
    """

    def __init__(self, data_folder: Path, port: int, workers: Workers | None) -> None:
        self._dagster_home = data_folder / "dagster"
        self._port = port
        self._workers = workers
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._has_exit = threading.Event()

    def run_until_exit(self) -> str:
        """Start the services and wait until one of them ends by itself, which none of them should.

        Returns:
            The name of the service and how it ended.
        """
        # Not in the data folder: the path of a socket is limited to about 100 characters.
        with tempfile.TemporaryDirectory(prefix="cv-assets-") as folder:
            socket, workspace_file = Path(folder) / "code-server", Path(folder) / "workspace.yaml"
            project_workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text(encoding="utf-8"))
            location = project_workspace["load_from"][0]["python_module"]
            name = location["location_name"]
            # `code-server start`, because `api grpc` cannot reload definitions.
            command = [find_script("dagster"), "code-server", "start", "--log-level", "warning"]
            code = ["-m", location["module_name"], "--location-name", name]
            code_server = self._start("code server", *command, *code, "--socket", str(socket))
            if self._workers:
                self._workers.start()
            self._start("pages", sys.executable, "-m", PAGES_MODULE)
            # The UI waits for the workspace file; until then it imports what it needs.
            self._start("UI", sys.executable, "-m", "serve.dagster_ui", str(self._port), str(workspace_file))
            deadline_s = time.monotonic() + _CODE_SERVER_START_S
            while not socket.exists() and not self._has_exit.wait(0.1):
                if time.monotonic() > deadline_s:
                    return f"the code server did not start within {_CODE_SERVER_START_S:.0f} s"
            if not self._has_exit.is_set():
                draft = workspace_file.with_suffix(".next")
                server = {"socket": str(socket), "location_name": name}
                draft.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
                draft.replace(workspace_file)
                self._start("daemon", find_script("dagster-daemon"), "run", "-w", str(workspace_file))
            return self._wait_for_exit(code_server)

    def terminate(self) -> None:
        """Terminate the services and workers with all their child processes, runs included."""
        if self._workers:
            self._workers.stop(_PATIENCE_S)
        terminate_process_groups(*self._processes.values(), patience_s=_PATIENCE_S)

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        # Dagster reads its configuration from the folder where it is started, and that is in its home.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._dagster_home)
        self._processes[name] = process

        def signal_exit() -> None:
            process.wait()
            self._has_exit.set()

        # Popen.wait with a timeout polls the process twenty times a second; waiting in a thread does not.
        threading.Thread(target=signal_exit, name=f"{name} exit", daemon=True).start()
        return process

    def _wait_for_exit(self, code_server: "subprocess.Popen[bytes]") -> str:
        """Wait until a process exits, or until the code server has lost the process that has the code loaded."""
        checks_without = 0
        while not self._has_exit.wait(_CODE_SERVER_CHECK_INTERVAL_S):
            # The code server itself does not start that process again.
            checks_without = 0 if _has_loaded_code(code_server.pid) else checks_without + 1
            if checks_without == _MAX_CHECKS_WITHOUT_CODE_SERVER:
                return "the process of the code server with the code has died"
            if self._workers and self._workers.failed:
                return f"the worker {self._workers.failed}"
        exits = ((name, process.poll()) for name, process in self._processes.items())
        return next(f"{name}, status {status}" for name, status in exits if status is not None)


def _has_loaded_code(code_server_pid: int) -> bool:
    """Whether the child process of a code server that has the code loaded is running."""
    with suppress(psutil.Error):
        for child in psutil.Process(code_server_pid).children():
            with suppress(psutil.Error):
                if "grpc" in child.cmdline():
                    return True
    return False


@contextmanager
def run_daemon(settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    """Run Dagster's daemon with its code server, and the workers of this machine, until the block ends."""
    logs = settings.data_folder / "logs"
    logs.mkdir(exist_ok=True)
    command = [find_script("dagster-daemon"), "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    with (logs / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        workers = build_local_workers(settings, settings.data_folder, log)
        try:
            workers.start()
            yield daemon
        finally:
            workers.stop(_PATIENCE_S)
            terminate_process_groups(daemon)


def terminate_process_groups(*processes: "subprocess.Popen[bytes]", patience_s: float = 10.0) -> None:
    """Terminate processes and all their child processes, and kill what is left.

    Args:
        processes: The leaders of the process groups.
        patience_s: Time between SIGTERM and SIGKILL.
    """
    deadline_s = time.monotonic() + patience_s
    _signal_groups(processes, signal.SIGTERM)
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline_s - time.monotonic()))
    _signal_groups(processes, signal.SIGKILL)
    for process in processes:
        process.wait()


def _signal_groups(leaders: Sequence["subprocess.Popen[bytes]"], number: signal.Signals) -> None:
    for leader in leaders:
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, number)


def find_script(name: str) -> str:
    """Find a console script of this installation.

    Raises:
        PipelineError: The script is not installed.
    """
    next_to_python = Path(sys.executable).with_name(name)
    path = str(next_to_python) if next_to_python.exists() else shutil.which(name)
    if path is None:
        raise PipelineError(f"{name} is not installed next to {sys.executable}: install the project again.")
    return path
