"""The run coordinator, which tags every run `gpu=true` or `cpu=true` when it is queued, and limits both kinds."""

import time
from typing import Any

from dagster import DagsterInstance, DagsterRun, QueuedRunCoordinator, SubmitRunContext

from resources.config.settings_file import load_settings
from resources.dagster_instance.dagster_names import (
    BACKFILL_ID_TAG,
    PRIORITY_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
)
from resources.dagster_instance.run_launcher import CPU_TAG, GPU_TAG, WorkerRunLauncher
from resources.workers.run_queue import CPU_QUEUE, GPU_QUEUE
from resources.workers.worker_states import RENEWAL_S, WorkerState, count_free_of_problems, read_worker_states
from resources.workers.worker_version import VersionReader, write_required_version

GPU_POOL = "gpu"
INGEST_PRIORITY = 10
PERSON_PRIORITY = 20
_AUTOMATION_TAGS = (SENSOR_NAME_TAG, SCHEDULE_NAME_TAG, BACKFILL_ID_TAG)
HOUSEKEEPING_TAG = {"cv_assets/housekeeping": "true"}


class TaggingRunCoordinator(QueuedRunCoordinator):
    """Tags each run in `submit_run`, with `gpu=true` if one of its steps uses the pool `gpu`, else with `cpu=true`.

    Model stages are in the pool `gpu`; sensors, jobs and people do not set these tags. The coordinator receives every
    run however it was launched (by a sensor, the UI, a backfill, the API or a retry), so no run can miss its tag, and
    the limits (the live workers of the queue, and `queue.gpu_runs` and `queue.cpu_runs`) apply to all runs of a tag.

    It also sets the priority: ingest runs start before analysis runs, and runs that a person launches start before
    those that sensors, schedules and backfills have queued. A priority that a run already has is kept.

    Housekeeping runs, which materialize nothing, get neither tag: they must not wait behind a backlog or use one of
    its slots.

    Args:
        config: The options of QueuedRunCoordinator in dagster.yaml.

    Raises:
        PipelineError: The settings are invalid; Dagster's daemon does not start then, and queued runs wait for it.
    """

    def __init__(self, **config: Any) -> None:
        settings = load_settings()
        self._queue, self._data_folder = settings.queue, settings.data_folder
        self._versions, self._version_written_s = VersionReader(), float("-inf")
        self._has_workers = False
        super().__init__(**config)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Remember whether the runs of the instance are executed by workers."""
        super().register_instance(instance)
        self._has_workers = isinstance(instance.run_launcher, WorkerRunLauncher)

    # Without a return type, because Dagster does not export it.
    def get_run_queue_config(self) -> Any:
        """Limit the runs of each tag to the live workers of its queue, so that a run without a worker stays queued.

        Dagster's daemon asks before it launches runs, and so does the UI.
        """
        states: list[WorkerState] = []
        if self._has_workers:
            self._write_required_version()
            states = read_worker_states(self._data_folder)
        limits = []
        for tag, queue, setting, default in (
            (GPU_TAG, GPU_QUEUE, self._queue.gpu_runs, 1),
            (CPU_TAG, CPU_QUEUE, self._queue.cpu_runs, 2),
        ):
            limit = count_free_of_problems(states, queue) if self._has_workers else setting or default
            limit = limit if setting is None else min(limit, setting)
            limits += [{"key": key, "value": value, "limit": limit} for key, value in tag.items()]
        return _replace_limits(super().get_run_queue_config(), limits)

    def _write_required_version(self) -> None:
        """Write the version on this machine's disk, with which all workers must agree, every few seconds."""
        if time.monotonic() - self._version_written_s > RENEWAL_S:
            write_required_version(self._data_folder, self._versions.read())
            self._version_written_s = time.monotonic()

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag the run, then queue it."""
        run = context.dagster_run
        pools = run.run_op_concurrency.all_pools if run.run_op_concurrency else None
        has_model = GPU_POOL in (pools or ())
        if HOUSEKEEPING_TAG.items() <= run.tags.items() and not has_model:
            return super().submit_run(context)
        tags = dict(GPU_TAG if has_model else CPU_TAG)
        # A re-execution by a person inherits the tags of its parent run, which a sensor may have requested.
        is_reexecution = run.parent_run_id is not None and RETRY_NUMBER_TAG not in run.tags
        if PRIORITY_TAG not in run.tags or is_reexecution:
            is_by_person = is_reexecution or not any(tag in run.tags for tag in _AUTOMATION_TAGS)
            tags[PRIORITY_TAG] = str((0 if has_model else INGEST_PRIORITY) + (PERSON_PRIORITY if is_by_person else 0))
        context.workspace.instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)


def _replace_limits(config: Any, limits: list[dict[str, Any]]) -> Any:
    """The queue's configuration, a named tuple, with other limits of tags."""
    return config._replace(tag_concurrency_limits=limits)
