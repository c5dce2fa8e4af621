"""The run coordinator, which tags every run `gpu=true` or `cpu=true` when it is queued, and limits both kinds."""

from typing import Any

from dagster import DagsterRun, QueuedRunCoordinator, SubmitRunContext

from resources.config.settings_file import load_settings
from resources.dagster_instance.dagster_names import (
    BACKFILL_ID_TAG,
    PRIORITY_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
)

GPU_POOL = "gpu"
GPU_TAG = {"gpu": "true"}
CPU_TAG = {"cpu": "true"}
INGEST_PRIORITY = 10
PERSON_PRIORITY = 20
_AUTOMATION_TAGS = (SENSOR_NAME_TAG, SCHEDULE_NAME_TAG, BACKFILL_ID_TAG)
HOUSEKEEPING_TAG = {"cv_assets/housekeeping": "true"}


class TaggingRunCoordinator(QueuedRunCoordinator):
    """Tags each run in `submit_run`, with `gpu=true` if one of its steps uses the pool `gpu`, else with `cpu=true`.

    Model stages are in the pool `gpu`; sensors, jobs and people do not set these tags. The coordinator receives every
    run however it was launched (by a sensor, the UI, a backfill, the API or a retry), so no run can miss its tag, and
    the limits in the settings (`queue.gpu_runs`, `queue.cpu_runs`) apply to all runs of a tag together.

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
        queue = load_settings().queue
        limits = [(GPU_TAG, queue.gpu_runs), (CPU_TAG, queue.cpu_runs)]
        config["tag_concurrency_limits"] = [
            {"key": key, "value": value, "limit": limit} for tag, limit in limits for key, value in tag.items()
        ]
        super().__init__(**config)

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
