"""Tells people how recordings ended, that work is on hold or done again, and that a camera is silent."""

import time
from dataclasses import dataclass

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from cv_assets.outcomes import tell
from cv_assets.outstanding import occasion
from resources.errors import PipelineError
from resources.settings import Settings, current_settings
from resources.storage import Store

_LOOK_AGAIN_AFTER_S = 300.0  # silence is no event

_wanted = current_settings().notifications


@dataclass(frozen=True)
class _Seen:
    """What the last look found: `news` changes whenever there is something to see, `until` it holds for good or bad."""

    news: object
    until: float


_seen: dict[str, _Seen] = {}
"""By data folder; of this process, so that every new start looks anew."""


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
    seen, news, now = _seen.get(str(store.data_folder)), occasion(context.instance, store), time.monotonic()
    if seen is not None and seen.news == news and now < seen.until:
        return SkipReason("Nothing new to tell.")
    try:
        told = tell(context.instance, store, settings)
    except PipelineError as error:
        return SkipReason(str(error))
    _seen[str(store.data_folder)] = _Seen(news, now if told.is_waiting else now + _LOOK_AGAIN_AFTER_S)
    return SkipReason(told.sentence)
