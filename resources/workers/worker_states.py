"""The state of each worker, as a file in the data folder that its worker renews every few seconds.

These files, not the broker, show which workers live: on one machine there is no broker, and none of them reports a
worker that was killed.
"""

import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

RENEWAL_S = 5.0
_LOST_AFTER_S = 30.0
_DELETED_AFTER_S = 86_400.0


@dataclass(frozen=True)
class WorkerState:
    """What a worker does.

    Attributes:
        name: Name of the worker.
        host: Its machine.
        pid: The process that renews this file.
        queue: The queue that it serves.
        device: The device that it is bound to; empty if it may use any.
        version: Version of code, settings and weights that it has loaded.
        renewed_at_s: When this was written, in seconds since 1970.
        run_id: The run that it executes; empty if it waits.
        problem: Why it takes no runs; empty if it does.
    """

    name: str
    host: str
    pid: int
    queue: str
    device: str
    version: str
    renewed_at_s: float
    run_id: str = ""
    problem: str = ""

    def is_alive(self, now_s: float | None = None) -> bool:
        """Whether the worker runs: its file is recent, and on this machine its process exists.

        The clocks of the machines may differ by a few seconds.
        """
        if (time.time() if now_s is None else now_s) - self.renewed_at_s > _LOST_AFTER_S:
            return False
        return self.host != socket.gethostname() or psutil.pid_exists(self.pid)

    @property
    def takes_runs(self) -> bool:
        """Whether the worker lives and takes runs."""
        return not self.problem and self.is_alive()


def write_worker_state(data_folder: Path, state: WorkerState) -> None:
    """Replace the state of a worker; readers never see a part of it.

    Raises:
        OSError: The data folder cannot be written.
    """
    folder = _folder(data_folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{state.name}"
    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
    draft.rename(folder / state.name)


def delete_worker_state(data_folder: Path, name: str) -> None:
    """Delete the state of a worker that has ended.

    Raises:
        OSError: The data folder cannot be written.
    """
    (_folder(data_folder) / name).unlink(missing_ok=True)


def read_worker_states(data_folder: Path) -> list[WorkerState]:
    """Read the states of all workers, also of those that do not live any more."""
    states = []
    for file in sorted(_folder(data_folder).glob("[!.]*")):
        with suppress(OSError, ValueError, TypeError):  # just deleted, or written by another version
            states.append(WorkerState(**json.loads(file.read_text(encoding="utf-8"))))
    return states


def delete_old_worker_states(data_folder: Path) -> None:
    """Delete the states of workers that were killed a day ago.

    Raises:
        OSError: The data folder cannot be written.
    """
    for state in read_worker_states(data_folder):
        if time.time() - state.renewed_at_s > _DELETED_AFTER_S:
            delete_worker_state(data_folder, state.name)


def describe_missing_workers(data_folder: Path, queue: str) -> str:
    """Say why no worker takes runs of a queue, and what to do; empty if one does."""
    states = [state for state in read_worker_states(data_folder) if state.queue == queue and state.is_alive()]
    if any(state.takes_runs for state in states):
        return ""
    if not states:
        return f"No worker of the queue {queue} is running: start cv-assets dev or cv-assets worker --queue {queue}."
    return f"No worker of the queue {queue} takes runs: the worker {states[0].name} waits: {states[0].problem}"


def runs_of_other_processes(data_folder: Path) -> frozenset[str]:
    """The runs that live workers of other processes execute, on this machine or others; they outlive this process."""
    own = socket.gethostname(), os.getpid()
    states = read_worker_states(data_folder)
    return frozenset(
        state.run_id for state in states if state.run_id and state.is_alive() and (state.host, state.pid) != own
    )


def count_free_of_problems(states: Iterable[WorkerState], queue: str) -> int:
    """Number of live workers that take runs of a queue."""
    return sum(state.queue == queue and state.takes_runs for state in states)


def _folder(data_folder: Path) -> Path:
    return data_folder / "workers" / "states"
