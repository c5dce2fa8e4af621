"""The job that deletes by age, and its daily schedule."""

from dagster import (
    DefaultScheduleStatus,
    JobDefinition,
    OpExecutionContext,
    ResourceParam,
    ScheduleDefinition,
    job,
    op,
)

from cv_assets.asset_graph import AssetGraph
from resources.config.operations_config import RetentionSettings
from resources.dagster_instance.run_coordinator import HOUSEKEEPING_TAG
from resources.storage.delta_store import Store
from sensors.retention import delete_old_data


def build_retention_job(graph: AssetGraph) -> JobDefinition:
    """Build the job that deletes everything older than the settings allow."""

    @op(description="Deletes everything older than the settings in the section retention allow.")
    def delete_old(context: OpExecutionContext, store: ResourceParam[Store]) -> None:
        context.log.info(delete_old_data(context.instance, store, graph).sentence)

    @job(
        name="retention",
        description="Deletes finished runs that no newest attempt or result needs, old logs and, by setting, videos "
        "and crop images.",
        tags=HOUSEKEEPING_TAG,
    )
    def retention() -> None:
        delete_old()

    return retention


def build_retention_schedule(retention_job: JobDefinition, settings: RetentionSettings) -> ScheduleDefinition:
    """Build the daily schedule of the job; it is stopped if the settings contain no hour."""
    hour_utc = settings.daily_at_hour_utc
    return ScheduleDefinition(
        name="retention",
        job=retention_job,
        cron_schedule=f"0 {hour_utc or 0} * * *",
        default_status=DefaultScheduleStatus.STOPPED if hour_utc is None else DefaultScheduleStatus.RUNNING,
        description="Deletes old runs and logs and, by setting, videos and crop images.",
    )
