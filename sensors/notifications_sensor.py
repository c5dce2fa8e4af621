"""Sensor that sends notifications: success, failure, recovery and no-data alerts, to each channel of the settings."""

import time
from dataclasses import dataclass

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from cv_assets.asset_graph import AssetGraph
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from sensors.notification_events import notify
from sensors.recording_states import change_token

_RECHECK_AFTER_S = 300.0  # a camera without data does not change the token


@dataclass(frozen=True)
class _LastCheck:
    """The last check.

    Attributes:
        token: Its change token.
        valid_until_s: Time by the monotonic clock until which there is no other check while the token is unchanged.
    """

    token: object
    valid_until_s: float


_last_checks: dict[str, _LastCheck] = {}
"""By data folder, in this process, so that every start checks again."""


def build_notifications_sensor(graph: AssetGraph) -> SensorDefinition:
    """Build the sensor; it runs if the settings contain a channel."""
    settings = graph.settings.notifications

    @sensor(
        name="notifications",
        minimum_interval_seconds=settings.interval_s,
        default_status=DefaultSensorStatus.RUNNING if settings.channels else DefaultSensorStatus.STOPPED,
        description="Sends success, failure, recovery and no-data alerts to the channels of the settings.",
    )
    def notifications_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> SkipReason:
        """Send what happened since the last check; a delivery that fails is recorded and retried."""
        if not settings.channels:
            return SkipReason("The settings contain no channel in the section notifications.")
        folder = str(store.data_folder)
        last, token, now_s = _last_checks.get(folder), change_token(context.instance, store), time.monotonic()
        if last is not None and last.token == token and now_s < last.valid_until_s:
            return SkipReason("No new events.")
        try:
            result = notify(context.instance, store, graph)
        except PipelineError as error:
            return SkipReason(str(error))
        valid_until_s = now_s if result.has_pending else now_s + _RECHECK_AFTER_S
        _last_checks[folder] = _LastCheck(token, valid_until_s)
        return SkipReason(result.sentence)

    return notifications_sensor
