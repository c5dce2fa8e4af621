from pathlib import Path

import pytest
from dagster import DagsterInstance, SensorDefinition, SkipReason, build_sensor_context

from cv_assets.asset_graph import AssetGraph
from resources.config.settings import Settings
from sensors import notification_ledger
from sensors.notifications_sensor import build_notifications_sensor
from tests.builders.message_receivers import HOST, webhook_server
from tests.sensors.test_notification_events import NotifiedPipeline


def tick(sensor: SensorDefinition, pipeline: NotifiedPipeline) -> str | None:
    """Evaluate the sensor once; returns its skip message."""
    result = sensor(build_sensor_context(pipeline.instance, resources={"store": pipeline.store}))
    assert isinstance(result, SkipReason)
    return result.skip_message


def test_the_sensor_is_stopped_and_reads_nothing_without_a_channel(tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        pipeline = NotifiedPipeline(tmp_path, instance)
        sensor = build_notifications_sensor(pipeline.graph)
        assert tick(sensor, pipeline) == "The settings contain no channel in the section notifications."
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
        sensor = build_notifications_sensor(pipeline.graph)
        assert tick(sensor, pipeline) == tick(sensor, pipeline) == "No new events."
        pipeline.add_recordings("bad", status="rejected", error="The file is not a video.")
        webhook.response_statuses = [500]
        monkeypatch.setattr(notification_ledger, "_FIRST_RETRY_S", 0.0)
        assert str(tick(sensor, pipeline)).startswith("ops: undelivered")
        assert tick(sensor, pipeline) == "ops: sent"
        assert tick(sensor, pipeline) == tick(sensor, pipeline) == "No new events."
        assert len(webhook.messages) == 2
