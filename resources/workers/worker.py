"""Workers: take launched runs from a queue and execute each in a warm process, which is replaced when it must be.

It is replaced between two runs when code, settings or weights have changed or its memory has grown past the limit, and
at once when it has died.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from resources.errors import PipelineError
from resources.workers.run_queue import RunQueue, open_run_queue
from resources.workers.warm_process import WarmProcess
from resources.workers.worker_events import WorkerEvents, open_worker_events
from resources.workers.worker_states import RENEWAL_S, WorkerState, delete_worker_state, write_worker_state
from resources.workers.worker_version import VersionReader, read_required_version

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_RECONNECT_S = 2.0
_RESTART_S = 10.0  # after a process that has died before it was ready
_END_PATIENCE_S = 1.0


@dataclass(frozen=True)
class WorkerOptions:
    """What one worker serves, and how.

    Attributes:
        queue: The queue.
        device: The only device that its models may use, `cpu` or `cuda:N`; empty for any.
        is_kept_warm: Whether its process is kept after each run.
        is_started_at_once: Whether its process is started before the first run; otherwise with it, and while the worker
            before it of the same queue is free it leaves runs to that one.
    """

    queue: str
    device: str = ""
    is_kept_warm: bool = True
    is_started_at_once: bool = True

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables that hide all other devices."""
        if not self.device:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self.device.partition(":")[2]}


@dataclass
class Worker:
    """One worker; `serve` runs until `stop`.

    Attributes:
        name: Its name, unique among all machines.
        options: What it serves.
        data_folder: The data folder, which it shares with all workers.
        run_queue: The queues; not shared with another thread.
        versions: Reads the version on this machine's disk; not shared with another thread.
        max_memory_bytes: Its process is replaced after a run that leaves it with more.
        must_agree: Whether it takes no runs while it has another version than the machine with Dagster's daemon. The
            workers that the pipeline itself starts read the same files.
        events: Receives each change of its state.
        log: Where the output of its process goes; None means that of this process.
        before: The worker before it of the same queue in the same process; None if it is the first.
    """

    name: str
    options: WorkerOptions
    data_folder: Path
    run_queue: RunQueue
    versions: VersionReader
    max_memory_bytes: int
    must_agree: bool
    events: WorkerEvents
    log: BinaryIO | None = None
    before: "Worker | None" = None
    _process: WarmProcess | None = field(default=None, init=False)
    _loaded_version: str = field(default="", init=False)
    _problems: dict[str, str] = field(default_factory=dict, init=False)
    _renewed_s: float = field(default=float("-inf"), init=False)
    _start_s: float = field(default=float("-inf"), init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _deadline_s: float = field(default=float("inf"), init=False)

    def stop(self, patience_s: float) -> None:
        """Take no more runs, and end once the current run has ended.

        Args:
            patience_s: Time after which the current run is killed.
        """
        self._deadline_s = time.monotonic() + patience_s
        self._stop.set()

    @property
    def run_id(self) -> str:
        """The run that it executes; empty if none."""
        return self._process.run_id if self._process else ""

    def serve(self) -> None:
        """Execute runs until `stop`."""
        try:
            while not self._stop.is_set() or (self.run_id and time.monotonic() < self._deadline_s):
                try:
                    self._work()
                    self._set_problem("connection", "")
                except (PipelineError, OSError) as error:
                    # The broker, the share or the disk is away: it waits for them and goes on.
                    self._set_problem("connection", str(error))
                    self._stop.wait(_RECONNECT_S)
        finally:
            if self._process:
                self._process.end(_END_PATIENCE_S)
            try:
                delete_worker_state(self.data_folder, self.name)
            except OSError as error:
                logger.warning("%s: its state cannot be deleted: %s", self.name, error)

    def _work(self) -> None:
        """Do what is due: renew the state, replace the process, take a run, or wait a moment for its end."""
        if time.monotonic() - self._renewed_s > RENEWAL_S:
            self._check_data_folder()
            self._check_version()
            self._renew_state()
        if self._process is None and self.options.is_started_at_once and time.monotonic() > self._start_s:
            self._start_process()
        if self.run_id:
            self._wait_for_process(1.0)
        elif self._can_take_run and not self._stop.is_set():
            self._take_run()
        else:
            self._wait_for_process(_POLL_S)

    @property
    def _can_take_run(self) -> bool:
        if self._process:
            is_ready = self._process.is_ready
        else:
            is_before_busy = self.before is None or bool(self.before.run_id)
            is_ready = not self.options.is_started_at_once and is_before_busy and time.monotonic() > self._start_s
        return is_ready and not self._problems.keys() - {"connection"}

    def _take_run(self) -> None:
        self._check_data_folder()
        run_id = self.run_queue.take(self.options.queue)
        if run_id is None:
            self._wait_for_process(_POLL_S)
            return
        # Before its first step, so that Dagster's run monitoring finds its worker.
        self._renew_state(run_id)
        if self._process is None:
            self._start_process()
        assert self._process is not None
        self._process.execute(run_id)

    def _check_data_folder(self) -> None:
        """Check that the data folder is there: an unmounted share is an empty folder, which a run would fill.

        Raises:
            PipelineError: The data folder is away.
        """
        if not (self.data_folder / "dagster" / "dagster.yaml").exists():
            raise PipelineError(f"The data folder {self.data_folder} is away: mount its share, or start the pipeline.")

    def _wait_for_process(self, time_limit_s: float) -> None:
        """Wait for the process, and handle its death and the end of its run."""
        if self._process is None:
            self._stop.wait(time_limit_s)
            return
        run_id, was_ready = self.run_id, self._process.is_ready
        if not self._process.wait(time_limit_s):
            self._handle_death(run_id, was_ready)
        elif run_id and not self.run_id:
            self._renew_state()
            is_large = self._process.memory_bytes() > self.max_memory_bytes
            if is_large or not self.options.is_kept_warm:
                self._end_process()
        elif self._process.is_ready and not was_ready:
            self._set_problem("start", "")
            self._renew_state()

    def _handle_death(self, run_id: str, was_ready: bool) -> None:
        assert self._process is not None
        reason = self._process.exit_reason()
        if was_ready:
            in_run = f" in the run {run_id[:8]}" if run_id else ""
            logger.warning("%s: its process has ended (%s)%s.", self.name, reason, in_run)
        else:
            self._set_problem("start", f"its process has ended ({reason}) before it had loaded the code; see the log.")
            self._start_s = time.monotonic() + _RESTART_S
        self._end_process()
        self._renew_state()

    def _check_version(self) -> None:
        """Replace an idle process that has loaded another version than that on the disk, and check for agreement."""
        try:
            version = self.versions.read()
        except PipelineError as error:
            self._set_problem("version", str(error))
            return
        if self._process and not self.run_id and self._loaded_version != version:
            self._end_process()
        required = read_required_version(self.data_folder) if self.must_agree else None
        problem = ""
        if required not in (None, version):
            problem = (
                f"it has version {version} of code, settings and weights, and the pipeline has {required}: install "
                "the same version, and use the same settings and weights on all machines."
            )
        self._set_problem("version", problem)

    def _start_process(self) -> None:
        self._loaded_version = self.versions.read()
        self._process = WarmProcess(self.name, self.options.environment, self.log)

    def _end_process(self) -> None:
        assert self._process is not None
        self._process.end(_END_PATIENCE_S)
        self._process = None

    def _renew_state(self, run_id: str | None = None) -> None:
        state = WorkerState(
            self.name,
            socket.gethostname(),
            os.getpid(),
            self.options.queue,
            self.options.device,
            self._loaded_version,
            time.time(),
            self.run_id if run_id is None else run_id,
            " ".join(self._problems.values()),
        )
        write_worker_state(self.data_folder, state)
        self.events.report(state, self._process.is_success if self._process else None)
        self._renewed_s = time.monotonic()

    def _set_problem(self, kind: str, problem: str) -> None:
        """Set why no runs can be taken; an empty text means that this kind of problem has ended."""
        if problem and self._problems.get(kind) != problem:
            logger.warning("%s waits: %s", self.name, problem)
        if problem:
            self._problems[kind] = problem
        else:
            self._problems.pop(kind, None)


class Workers:
    """The workers of this process, each in a thread.

    Args:
        data_folder: The data folder.
        all_options: One per worker.
        max_memory_mb: Memory in megabytes after which the process of a worker is replaced.
        must_agree: Whether they check that they have the version of the machine with Dagster's daemon.
        log: Where the output of the processes goes; None means that of this process.
    """

    def __init__(
        self,
        data_folder: Path,
        all_options: Sequence[WorkerOptions],
        max_memory_mb: int,
        *,
        must_agree: bool,
        log: BinaryIO | None = None,
    ) -> None:
        host = socket.gethostname()
        self._events = open_worker_events()
        self._workers = [
            Worker(
                f"{host}-{options.queue}-{os.getpid()}.{number}",
                options,
                data_folder,
                open_run_queue(data_folder),
                VersionReader(),
                max_memory_mb * 1_000_000,
                must_agree,
                self._events,
                log,
            )
            for number, options in enumerate(all_options, 1)
        ]
        for number, worker in enumerate(self._workers):
            same_queue = [other for other in self._workers[:number] if other.options.queue == worker.options.queue]
            worker.before = same_queue[-1] if same_queue else None
        self._threads = [threading.Thread(target=worker.serve, name=worker.name) for worker in self._workers]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    @property
    def failed(self) -> str:
        """Name of a worker that has ended by itself, which none should; empty if there is none."""
        return next((thread.name for thread in self._threads if not thread.is_alive()), "")

    @property
    def run_ids(self) -> list[str]:
        """The runs that the workers execute."""
        return [worker.run_id for worker in self._workers if worker.run_id]

    def take_no_more(self) -> None:
        """Let each worker end once its current run has ended."""
        for worker in self._workers:
            worker.stop(float("inf"))

    def stop(self, patience_s: float = 2.0) -> None:
        """End the workers.

        Args:
            patience_s: Time that the current runs get to end; they are killed then.
        """
        for worker in self._workers:
            worker.stop(patience_s)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._events.close()
