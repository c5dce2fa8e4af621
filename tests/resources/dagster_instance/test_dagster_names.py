"""Our names of Dagster's tags and statuses against Dagster's own: a new Dagster that renames one fails here."""

import pytest
from dagster import AssetKey
from dagster._core.definitions import data_version
from dagster._core.storage import dagster_run, tags

from resources.dagster_instance import dagster_names

RUN_TAGS = (
    *("PARTITION_NAME_TAG", "ASSET_PARTITION_RANGE_START_TAG", "ASSET_PARTITION_RANGE_END_TAG", "BACKFILL_ID_TAG"),
    *("PRIORITY_TAG", "RETRY_NUMBER_TAG", "SCHEDULE_NAME_TAG", "SENSOR_NAME_TAG"),
)
VERSION_TAGS = ("CODE_VERSION_TAG", "DATA_VERSION_TAG", "DATA_VERSION_IS_USER_PROVIDED_TAG")
KEY = AssetKey(["camera", "zones"])


@pytest.mark.parametrize("name", RUN_TAGS)
def test_a_tag_of_runs_is_called_as_dagster_calls_it(name: str) -> None:
    assert getattr(dagster_names, name) == getattr(tags, name), f"Dagster has renamed {name}: change dagster_names.py."


@pytest.mark.parametrize("name", VERSION_TAGS)
def test_a_tag_of_versions_is_called_as_dagster_calls_it(name: str) -> None:
    expected = getattr(data_version, name)
    assert getattr(dagster_names, name) == expected, f"Dagster has renamed {name}: change dagster_names.py."


def test_tags_of_inputs_are_called_as_dagster_calls_them() -> None:
    assert dagster_names.input_data_version_tag(KEY) == data_version.get_input_data_version_tag(KEY)
    assert dagster_names.input_event_pointer_tag(KEY) == data_version.get_input_event_pointer_tag(KEY)


def test_groups_of_run_statuses_are_those_of_dagster() -> None:
    assert set(dagster_names.FINISHED_STATUSES) == set(dagster_run.FINISHED_STATUSES)
    assert set(dagster_names.IN_PROGRESS_STATUSES) == set(dagster_run.IN_PROGRESS_RUN_STATUSES)
    assert set(dagster_names.UNFINISHED_STATUSES) == set(dagster_run.NOT_FINISHED_STATUSES)
