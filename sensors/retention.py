"""Removes what is old, once a day."""

from dagster import DefaultScheduleStatus, ScheduleDefinition

from cv_assets.retention import retention_job
from resources.settings import current_settings

_hour = current_settings().retention.daily_at_hour_utc

retention_schedule = ScheduleDefinition(
    name="retention",
    job=retention_job,
    cron_schedule=f"0 {_hour or 0} * * *",
    default_status=DefaultScheduleStatus.STOPPED if _hour is None else DefaultScheduleStatus.RUNNING,
    description="Removes old runs, logs and, by setting, videos and pictures.",
)
