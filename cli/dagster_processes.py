"""Dagster's processes: the commands start them and end them with all their child processes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError


@contextmanager
def run_daemon(data_folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run Dagster's daemon with its code server, in a process group that ends with the block."""
    logs = data_folder / "logs"
    logs.mkdir(exist_ok=True)
    command = [find_script("dagster-daemon"), "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    with (logs / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield daemon
    finally:
        terminate_process_group(daemon)


def terminate_process_group(process: "subprocess.Popen[bytes]", patience_s: float = 10.0) -> None:
    """Terminate a process and all its child processes, and kill what is left.

    Args:
        process: The leader of the process group.
        patience_s: Time between SIGTERM and SIGKILL.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
