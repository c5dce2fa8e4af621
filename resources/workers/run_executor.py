"""The process of a worker that executes runs, one at a time; it keeps imports, definitions and models loaded.

Run as `python -m resources.workers.run_executor DESCRIPTOR PARENT_PID`. Over the connection it receives ids of runs
and answers when each has ended, and whether it has succeeded.
"""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from resources.process_isolation import exit_with_parent

if TYPE_CHECKING:
    from dagster import DagsterInstance

READY = "ready"
_CHECK_INTERVAL_S = 1.0
_END_GRACE_S = 60.0
WORKER_TAG, WORKER_RUN_TAG = "cv_assets/worker", "cv_assets/worker_run"
"""Tags of a run: the worker that executes it, and how many runs the worker's process has executed with it."""


def main() -> None:
    """Serve until the parent process has ended."""
    threading.Thread(target=exit_with_parent, args=(int(sys.argv[2]),), name="parent check", daemon=True).start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker decides when this process ends
    worker_name, code_module = sys.argv[3], sys.argv[4]
    with suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as connection:
        _serve(connection, worker_name, code_module)


def _serve(connection: "Connection[Any, Any]", worker_name: str, code_module: str) -> None:
    from dagster import DagsterInstance

    importlib.import_module(code_module)
    with DagsterInstance.get() as instance:
        connection.send(READY)
        run_count = 0
        while True:
            run_id = connection.recv()
            run_count += 1
            _execute(instance, run_id, {WORKER_TAG: worker_name, WORKER_RUN_TAG: str(run_count)})
            connection.send((run_id, _is_success(instance, run_id)))


def _execute(instance: "DagsterInstance", run_id: str, tags: dict[str, str]) -> None:
    """Execute a launched run; nothing happens if it was canceled or executed before."""
    from dagster import DagsterRunStatus

    from resources.dagster_instance.private_api import execute_launched_run

    run = instance.get_run_by_id(run_id)
    if run is None or run.status not in (DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING):
        return
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "Canceled before a worker took the run.")
        return
    instance.add_run_tags(run_id, tags)
    with suppress(KeyboardInterrupt), _cancellation(instance, run_id):  # an interrupt that comes after the run's end
        execute_launched_run(instance, run_id)


def _is_success(instance: "DagsterInstance", run_id: str) -> bool | None:
    """Whether a run has succeeded; None if the database is away."""
    from dagster import DagsterRunStatus
    from sqlalchemy.exc import SQLAlchemyError

    try:
        run = instance.get_run_by_id(run_id)
    except SQLAlchemyError:
        return None
    return run is not None and run.status == DagsterRunStatus.SUCCESS


@contextmanager
def _cancellation(instance: "DagsterInstance", run_id: str) -> Iterator[None]:
    """Interrupt the main thread once the run is to be canceled, and end this process if it goes on regardless."""
    has_ended = threading.Event()

    def watch() -> None:
        from dagster import DagsterRunStatus
        from sqlalchemy.exc import SQLAlchemyError

        is_interrupted, ended_s = False, None
        while not has_ended.wait(_CHECK_INTERVAL_S):
            try:
                run = instance.get_run_by_id(run_id)
            except SQLAlchemyError:
                continue  # the database is away: what the run does there waits, too
            if run is not None and run.status == DagsterRunStatus.CANCELING and not is_interrupted:
                is_interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
            # Someone else has ended the run: its writes are fenced off, and the worker is needed for others.
            if run is None or run.is_finished:
                ended_s = ended_s or time.monotonic()
                if time.monotonic() - ended_s > _END_GRACE_S:
                    os._exit(1)

    watcher = threading.Thread(target=watch, name="cancellation", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        has_ended.set()
        watcher.join()


if __name__ == "__main__":
    main()
