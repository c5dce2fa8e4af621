"""The private parts of Dagster that the wings need. No other module of the wings uses a private part of Dagster.

`tests/resources/dagster_instance/test_private_api.py` fails with the name of Dagster's version if one of them changes.
"""

from collections.abc import Mapping
from typing import Any

from dagster import AssetKey, StepExecutionContext


def add_asset_metadata(
    step: StepExecutionContext, asset_name: str, metadata_by_partition: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add metadata to the materialization of each partition of a run.

    The public context.add_asset_metadata checks each partition against all partitions: with ten thousand of them that
    takes a third of the time of a run of short recordings.
    """
    for partition, metadata in metadata_by_partition.items():
        step._metadata_accumulator = step._metadata_accumulator.with_additional_asset_metadata(
            AssetKey(asset_name), partition, metadata
        )
