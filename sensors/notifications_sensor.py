"""Sensor that sends notifications: success, failure, recovery and no-data alerts, to each channel of the settings."""

import json
import time
from typing import Any

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

_MIN_INTERVAL_S = 60
_RECHECK_AFTER_S = 300.0  # a camera without data does not change the token


def build_notifications_sensor(graph: AssetGraph) -> SensorDefinition:
    """Build the sensor; it runs if the settings contain a channel."""
    settings = graph.settings.notifications

    @sensor(
        name="notifications",
        minimum_interval_seconds=max(settings.interval_s, _MIN_INTERVAL_S),
        default_status=DefaultSensorStatus.RUNNING if settings.channels else DefaultSensorStatus.STOPPED,
        description="Sends success, failure, recovery and no-data alerts to the channels of the settings.",
    )
    def notifications_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> SkipReason:
        """Send what happened since the last check; a delivery that fails is recorded and retried."""
        if not settings.channels:
            return SkipReason("The settings contain no channel in the section notifications.")
        last: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
        token, now_s = change_token(context.instance, store), time.time()
        if last.get("token") == token and now_s < last["valid_until_s"]:
            return SkipReason("No new events.")
        try:
            result = notify(context.instance, store, graph)
        except PipelineError as error:
            return SkipReason(str(error))
        valid_until_s = now_s if result.has_pending else now_s + _RECHECK_AFTER_S
        context.update_cursor(json.dumps({"token": token, "valid_until_s": valid_until_s}))
        return SkipReason(result.sentence)

    return notifications_sensor
