"""The run queue: marks every run that contains a model stage, so that one limit bounds them all."""

from dagster import DagsterRun, QueuedRunCoordinator
from dagster._core.run_coordinator.base import SubmitRunContext

GPU_POOL = "gpu"
GPU_TAG = {"gpu": "true"}
INGEST_TAG = {"cpu": "true"}


class TaggingRunCoordinator(QueuedRunCoordinator):
    """Tags runs `gpu=true` when one of their assets is in the pool `gpu`, and `cpu=true` otherwise.

    It sees every run, however it was launched: by a sensor, the UI, a backfill, the API or a retry. dagster.yaml
    bounds the two tags. Nobody has to remember a tag, and nobody can forget one.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag the run, then queue it."""
        run = context.dagster_run
        pools = run.run_op_concurrency.all_pools if run.run_op_concurrency else None
        self._instance.add_run_tags(run.run_id, GPU_TAG if GPU_POOL in (pools or ()) else INGEST_TAG)
        return super().submit_run(context)
