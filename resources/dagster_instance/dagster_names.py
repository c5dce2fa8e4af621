"""Names that Dagster gives to tags, and groups of its run statuses; tests compare them with Dagster's own."""

from dagster import AssetKey, DagsterRunStatus

PARTITION_NAME_TAG = "dagster/partition"
ASSET_PARTITION_RANGE_START_TAG = "dagster/asset_partition_range_start"
ASSET_PARTITION_RANGE_END_TAG = "dagster/asset_partition_range_end"

BACKFILL_ID_TAG = "dagster/backfill"
PRIORITY_TAG = "dagster/priority"
RETRY_NUMBER_TAG = "dagster/retry_number"
SCHEDULE_NAME_TAG = "dagster/schedule_name"
SENSOR_NAME_TAG = "dagster/sensor_name"

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
DATA_VERSION_IS_USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"

QUEUED_STATUSES = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
IN_PROGRESS_STATUSES = [
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
    DagsterRunStatus.SUSPENDED,
]
"""Runs that a process executes now."""
UNFINISHED_STATUSES = [*IN_PROGRESS_STATUSES, *QUEUED_STATUSES]
FINISHED_STATUSES = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def input_data_version_tag(key: AssetKey) -> str:
    """Name of a materialization's tag with the data version of an input."""
    return f"dagster/input_data_version/{key.to_user_string()}"


def input_event_pointer_tag(key: AssetKey) -> str:
    """Name of a materialization's tag with the storage id of the event that an input had."""
    return f"dagster/input_event_pointer/{key.to_user_string()}"
