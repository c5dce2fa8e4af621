"""Compares what is there with what should be, and requests what is missing."""

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from cv_assets.outstanding import observe, plan_runs
from cv_assets.stage import ANALYSIS
from cv_assets.walk import analysis_job, ingest_job
from resources.errors import PipelineError
from resources.results import publish
from resources.settings import Settings
from resources.storage import Store, check_data_folder
from resources.weights import check_weights
from sensors.requests import run_request


@sensor(
    name="reconciliation",
    jobs=[ingest_job, analysis_job],
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Requests what recordings lack, retries what failed alone and once, and heals interrupted work.",
)
def reconciliation_sensor(
    context: SensorEvaluationContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> SensorResult | SkipReason:
    """Request the runs that would complete the recordings."""
    try:
        check_data_folder(store.data_folder)
        publish(store)
    except PipelineError as error:
        return SkipReason(str(error))
    outstanding = observe(context.instance, store)
    planned = plan_runs(outstanding, settings.batches)
    on_hold = ""
    try:
        for model in settings.every_model:
            check_weights(model)
    except PipelineError as error:
        # Runs that cannot work are not started; ingest needs no weights.
        on_hold = f" Analysis is on hold: {error}"
        planned = [run for run in planned if run.job_name != ANALYSIS]
    if not planned:
        states = outstanding.states
        in_flight = sum(state.is_in_flight for state in states)
        complete = sum(not state.missing for state in states)
        return SkipReason(
            f"Nothing to request: {complete} of {len(states)} recordings are complete, {in_flight} in flight.{on_hold}"
        )
    return SensorResult(run_requests=[run_request(run) for run in planned])
