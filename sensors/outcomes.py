"""Tells people how recordings ended, that work is on hold or done again, and that a camera is silent."""

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from cv_assets.outcomes import tell
from resources.errors import PipelineError
from resources.settings import Settings, current_settings
from resources.storage import Store

_wanted = current_settings().notifications


@sensor(
    name="outcomes",
    minimum_interval_seconds=_wanted.every_s,
    # Where nobody is to be told there is nothing to look at.
    default_status=DefaultSensorStatus.RUNNING if _wanted.channels else DefaultSensorStatus.STOPPED,
    description="Tells the channels of the settings what has come through, failed, recovered or fallen silent.",
)
def outcomes_sensor(
    context: SensorEvaluationContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> SkipReason:
    """Tell what is new. A delivery that fails is noted and tried again; it fails nothing else."""
    if not settings.notifications.channels:
        return SkipReason("No channel is named in the settings, at notifications.")
    try:
        return SkipReason(tell(context.instance, store, settings))
    except PipelineError as error:
        return SkipReason(str(error))
