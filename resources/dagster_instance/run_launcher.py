"""The run launcher, which gives launched runs to the workers and reports to Dagster which of them have lost theirs."""

import weakref
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, DefaultRunLauncher

from resources.config.settings_file import load_settings
from resources.dagster_instance.private_api import worker_health
from resources.workers.run_queue import CPU_QUEUE, GPU_QUEUE, HOUSEKEEPING_QUEUE, RunQueue, open_run_queue
from resources.workers.worker_states import read_worker_states

GPU_TAG = {"gpu": "true"}
CPU_TAG = {"cpu": "true"}


def queue_of(run: DagsterRun) -> str:
    """The queue of a run, by the tag that the run coordinator has set."""
    if GPU_TAG.items() <= run.tags.items():
        return GPU_QUEUE
    return CPU_QUEUE if CPU_TAG.items() <= run.tags.items() else HOUSEKEEPING_QUEUE


class WorkerRunLauncher(DefaultRunLauncher):
    """Appends each launched run to the queue `gpu`, `cpu` or `housekeeping`, from which a worker takes it.

    Dagster's own launcher starts a process per run, which imports everything and loads the model again. Its launcher
    for Celery needs a result backend, and does not notice a worker that was killed.
    """

    def __init__(self, inst_data: Any = None) -> None:
        super().__init__(inst_data)
        self._queue: RunQueue | None = None
        self._registered: weakref.ref[DagsterInstance] | None = None

    def register_instance(self, instance: DagsterInstance) -> None:
        """Remember the instance to which this launcher belongs."""
        super().register_instance(instance)
        self._registered = weakref.ref(instance)

    def launch_run(self, context: Any) -> None:
        """Append a run to its queue.

        Raises:
            PipelineError: The queue cannot be reached; Dagster fails the run, and its work is requested again.
        """
        run = context.dagster_run
        self._queue = self._queue or open_run_queue(load_settings().data_folder)
        self._queue.put(queue_of(run), run.run_id)

    def terminate(self, run_id: str) -> bool:
        """Request the cancellation of a run: its worker interrupts it within a second or two.

        Returns:
            Whether the run was unfinished.
        """
        instance = self._registered() if self._registered else None
        run = instance.get_run_by_id(run_id) if instance else None
        if instance is None or run is None or run.is_finished:
            return False
        if run.status != DagsterRunStatus.CANCELING:
            instance.report_run_canceling(run)
        if not self._worker_of(run_id):
            # In a queue, where the worker that takes it would do the same, or lost with its worker.
            instance.report_run_canceled(run)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for the worker of each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> Any:
        """Whether a live worker executes a started run, from the files that the workers renew."""
        worker = self._worker_of(run.run_id)
        sentence = "" if worker else "Its worker has died, or has not renewed its state for half a minute."
        return worker_health(is_alive=bool(worker), message=sentence)

    @staticmethod
    def _worker_of(run_id: str) -> str:
        """Name of the live worker that executes a run; empty if there is none."""
        states = read_worker_states(load_settings().data_folder)
        return next((state.name for state in states if state.run_id == run_id and state.is_alive()), "")
