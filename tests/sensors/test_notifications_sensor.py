import json
import time
from pathlib import Path

import pytest
from dagster import DagsterInstance, SensorDefinition, SkipReason, build_sensor_context

from cv_assets.asset_graph import AssetGraph
from resources.config.settings import Settings
from sensors import notification_ledger, notifications_sensor
from sensors.notifications_sensor import build_notifications_sensor
from tests.builders.message_receivers import HOST, webhook_server
from tests.sensors.test_notification_events import NotifiedPipeline


class Ticks:
    """Evaluates a sensor, with the cursor of the tick before.

    Args:
        sensor: The sensor.
        pipeline: The pipeline.

    Attributes:
        cursor: The cursor after the last tick.
    """

    def __init__(self, sensor: SensorDefinition, pipeline: NotifiedPipeline) -> None:
        self._sensor, self._pipeline = sensor, pipeline
        self.cursor: str | None = None

    def tick(self) -> str | None:
        """Evaluate the sensor once; returns its skip message."""
        pipeline = self._pipeline
        context = build_sensor_context(pipeline.instance, self.cursor, resources={"store": pipeline.store})
        result = self._sensor(context)
        self.cursor = context.cursor
        assert isinstance(result, SkipReason)
        return result.skip_message


def test_the_sensor_is_stopped_and_reads_nothing_without_a_channel(tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        pipeline = NotifiedPipeline(tmp_path, instance)
        sensor = build_notifications_sensor(pipeline.graph)
        assert Ticks(sensor, pipeline).tick() == "The settings contain no channel in the section notifications."
        assert not pipeline.store.tables_folder.exists()
    default_settings = Settings(watched_folder=tmp_path)
    sensor = build_notifications_sensor(AssetGraph.build(default_settings))
    assert (default_settings.notifications.channels, sensor.default_status.value) == ((), "STOPPED")


def test_the_sensor_checks_again_when_something_happened_or_a_message_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", HOST)
    with webhook_server() as webhook, DagsterInstance.ephemeral() as instance:
        pipeline = NotifiedPipeline(tmp_path, instance, webhooks=[{"name": "ops", "url": webhook.url}])
        ticks = Ticks(build_notifications_sensor(pipeline.graph), pipeline)
        assert ticks.tick() == ticks.tick() == "No new events."
        pipeline.add_recordings("bad", status="rejected", error="The file is not a video.")
        webhook.response_statuses = [500]
        monkeypatch.setattr(notification_ledger, "_FIRST_RETRY_S", 0.0)
        assert str(ticks.tick()).startswith("ops: undelivered")
        assert ticks.tick() == "ops: sent"
        assert ticks.tick() == ticks.tick() == "No new events."
        assert len(webhook.messages) == 2


def test_a_tick_without_a_change_reads_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DagsterInstance.ephemeral() as instance:
        pipeline = NotifiedPipeline(tmp_path, instance, webhooks=[{"name": "ops", "url": "https://example.org/x"}])
        sensor = build_notifications_sensor(pipeline.graph)
        assert sensor.minimum_interval_seconds == 60
        ticks = Ticks(sensor, pipeline)
        ticks.tick()
        ticks.tick()  # the first one has changed a table
        with monkeypatch.context() as patch:
            patch.setattr(notifications_sensor, "notify", None)
            assert ticks.tick() == "No new events."
        pipeline.add_recordings("a")
        now_s = time.time()
        assert ticks.tick() == "No new events."
        assert json.loads(str(ticks.cursor))["valid_until_s"] > now_s
