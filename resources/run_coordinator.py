"""The run queue: marks every run that contains a model stage, so that one limit bounds them all."""

from dagster import DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    PRIORITY_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
)

from resources.settings import current_settings

GPU_POOL = "gpu"
GPU_TAG = {"gpu": "true"}
INGEST_TAG = {"cpu": "true"}
INGEST_PRIORITY = 10
PERSON_PRIORITY = 20
_MACHINERY = (SENSOR_NAME_TAG, SCHEDULE_NAME_TAG, BACKFILL_ID_TAG)
_ASK_AGAIN_AFTER_S, _PATIENCE = 20, 10_000
HOUSEKEEPING_TAG = {"cv_assets/housekeeping": "true"}


class TaggingRunCoordinator(QueuedRunCoordinator):
    """Tags runs `gpu=true` when one of their assets is in the pool `gpu`, and `cpu=true` otherwise.

    It sees every run, however it was launched: by a sensor, the UI, a backfill, the API or a retry, and the settings
    bound the two tags. Nobody has to remember a tag, and nobody can forget one. Ingest goes ahead of analysis, and what
    a person asks for goes ahead of what sensors, schedules and backfills have queued; a priority given with the run
    stands.

    Housekeeping, which makes nothing, gets neither tag: it must not wait behind a backlog, nor take a place in it.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag the run, then queue it."""
        run = context.dagster_run
        pools = run.run_op_concurrency.all_pools if run.run_op_concurrency else None
        has_model = GPU_POOL in (pools or ())
        if HOUSEKEEPING_TAG.items() <= run.tags.items() and not has_model:
            return super().submit_run(context)
        tags = dict(GPU_TAG if has_model else INGEST_TAG)
        # A person's re-execution inherits the tags of its parent, which a sensor may have requested.
        is_reexecution = run.parent_run_id is not None and RETRY_NUMBER_TAG not in run.tags
        if PRIORITY_TAG not in run.tags or is_reexecution:
            by_person = is_reexecution or not any(tag in run.tags for tag in _MACHINERY)
            tags[PRIORITY_TAG] = str((0 if has_model else INGEST_PRIORITY) + (PERSON_PRIORITY if by_person else 0))
        self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)

    def get_run_queue_config(self) -> RunQueueConfig:
        """The limits, from the settings."""
        queue = current_settings().queue
        limits = [(GPU_TAG, queue.gpu_runs), (INGEST_TAG, queue.cpu_runs)]
        return RunQueueConfig(
            max_concurrent_runs=-1,
            # Settings that cannot be read stop the queue until they are mended, and fail nothing that waits in it.
            max_user_code_failure_retries=_PATIENCE,
            user_code_failure_retry_delay=_ASK_AGAIN_AFTER_S,
            tag_concurrency_limits=[
                {"key": key, "value": value, "limit": limit} for tag, limit in limits for key, value in tag.items()
            ],
        )
