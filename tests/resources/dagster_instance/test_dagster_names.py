"""Our names of Dagster's tags and statuses against what Dagster does: a new Dagster that renames one fails here."""

from types import SimpleNamespace
from typing import Any

import dagster
import pytest
from dagster import (
    AssetExecutionContext,
    BackfillPolicy,
    DagsterInstance,
    DagsterRun,
    DataVersion,
    MaterializeResult,
    StaticPartitionsDefinition,
    asset,
    materialize,
)
from dagster._core.storage import dagster_run, tags  # no public module names these tags and groups

from resources.dagster_instance import dagster_names

HINT = f"Dagster {dagster.__version__} uses another name: change dagster_names.py."
PARTITIONS = StaticPartitionsDefinition(["a", "b", "c"])


@pytest.mark.parametrize("name", ["PRIORITY_TAG", "RETRY_NUMBER_TAG"])
def test_tags_of_the_queue_are_called_as_dagster_calls_them(name: str) -> None:
    assert getattr(dagster_names, name) == getattr(tags, name), HINT


def test_tags_of_the_requester_are_called_as_dagster_calls_them() -> None:
    requester: Any = SimpleNamespace(name="requester")
    assert DagsterRun.tags_for_sensor(requester) == {dagster_names.SENSOR_NAME_TAG: "requester"}, HINT
    assert DagsterRun.tags_for_schedule(requester) == {dagster_names.SCHEDULE_NAME_TAG: "requester"}, HINT
    assert DagsterRun.tags_for_backfill_id("b") == {dagster_names.BACKFILL_ID_TAG: "b"}, HINT


def test_tags_of_versions_and_inputs_are_called_as_dagster_calls_them() -> None:
    @asset(key=["camera", "zones"], code_version="1")
    def zones() -> MaterializeResult[None]:
        return MaterializeResult(data_version=DataVersion("zones-1"))

    @asset(deps=[zones], code_version="2")
    def events() -> None: ...

    with DagsterInstance.ephemeral() as instance:
        materialize([zones, events], instance=instance)
        zones_record = instance.fetch_materializations(zones.key, limit=1).records[0]
        events_record = instance.fetch_materializations(events.key, limit=1).records[0]
    assert zones_record.asset_materialization and events_record.asset_materialization
    zone_tags = zones_record.asset_materialization.tags or {}
    event_tags = events_record.asset_materialization.tags or {}
    assert zone_tags[dagster_names.DATA_VERSION_TAG] == "zones-1", HINT
    assert zone_tags[dagster_names.DATA_VERSION_IS_USER_PROVIDED_TAG] == "true", HINT
    assert event_tags[dagster_names.CODE_VERSION_TAG] == "2", HINT
    assert event_tags[dagster_names.input_data_version_tag(zones.key)] == "zones-1", HINT
    assert event_tags[dagster_names.input_event_pointer_tag(zones.key)] == str(zones_record.storage_id), HINT


def test_tags_of_partitions_are_called_as_dagster_calls_them() -> None:
    keys: list[str] = []

    @asset(partitions_def=PARTITIONS, backfill_policy=BackfillPolicy.single_run())
    def counts(context: AssetExecutionContext) -> None:
        keys.extend(context.partition_keys)

    start, end = dagster_names.ASSET_PARTITION_RANGE_START_TAG, dagster_names.ASSET_PARTITION_RANGE_END_TAG
    with DagsterInstance.ephemeral() as instance:
        result = materialize([counts], instance=instance, partition_key="c")
        assert result.dagster_run.tags[dagster_names.PARTITION_NAME_TAG] == "c", HINT
        materialize([counts], instance=instance, tags={start: "a", end: "b"})
    assert keys == ["c", "a", "b"], HINT


def test_groups_of_run_statuses_are_those_of_dagster() -> None:
    assert set(dagster_names.FINISHED_STATUSES) == set(dagster_run.FINISHED_STATUSES), HINT
    assert set(dagster_names.IN_PROGRESS_STATUSES) == set(dagster_run.IN_PROGRESS_RUN_STATUSES), HINT
    assert set(dagster_names.UNFINISHED_STATUSES) == set(dagster_run.NOT_FINISHED_STATUSES), HINT
