"""The private parts of Dagster that the wings need.

UnresolvedAssetJobDefinition  return type of the public define_asset_job
RunQueueConfig                return type of a public method that the run coordinator overrides
partition status cache        DagsterInstance.get_status_by_partition loads all partitions twice per asset
others                        see the functions that use them

`instance_storage` and `postgres_migration` replace and copy Dagster's storage, so they import its private classes
themselves. No other module of the wings imports a private module of Dagster.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import AssetKey, DagsterInstance, DynamicPartitionsDefinition, StepExecutionContext
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob
from dagster._core.instance.types import CachingDynamicPartitionsLoader
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

__all__ = [
    "AssetJob",
    "RunQueueConfig",
    "add_asset_metadata",
    "mark_inputs_as_read",
    "read_partition_statuses",
    "run_events_file",
]


def read_partition_statuses(
    instance: DagsterInstance, asset_names: Sequence[str], partitions: DynamicPartitionsDefinition
) -> Iterator[tuple[str, frozenset[str], frozenset[str]]]:
    """Read the partition status of several assets from Dagster's cache, loading the partitions once.

    Yields:
        Name of the asset, its materialized partitions, and those whose last attempt failed; partitions in progress
        are in neither.
    """
    loader = CachingDynamicPartitionsLoader(instance)
    with partition_loading_context(None, loader):
        for name in asset_names:
            cached = get_and_update_asset_status_cache_value(instance, AssetKey(name), partitions, loader)
            if cached is None:
                yield name, frozenset(), frozenset()
                continue
            materialized, failed, in_progress = (
                frozenset(subset.get_partition_keys())
                for subset in (
                    cached.deserialize_materialized_partition_subsets(partitions),
                    cached.deserialize_failed_partition_subsets(partitions),
                    cached.deserialize_in_progress_partition_subsets(partitions),
                )
            )
            yield name, materialized - failed - in_progress, failed - in_progress


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


def mark_inputs_as_read(step: StepExecutionContext, newest_ids: Iterable[tuple[AssetKey, int]]) -> None:
    """Make Dagster treat inputs as read up to an event, although it read them when the step began.

    Without this, an observation that the step itself records would show its materializations as stale; no public call
    sets the version of an input in a run of several partitions.

    Args:
        step: The step.
        newest_ids: Inputs with the storage id of the newest event that counts as read.
    """
    cache: Any = step._data_version_cache
    for key, newest_id in newest_ids:
        cache.wipe_input_asset_version_info(key)
        version_info = cache.maybe_fetch_and_get_input_asset_version_info(key)
        cache.input_asset_version_info[key] = dataclasses.replace(version_info, storage_id=newest_id)


def run_events_file(instance: DagsterInstance, run_id: str) -> Path | None:
    """Path of the SQLite file with the events of a run, which Dagster empties but never deletes; None elsewhere."""
    from dagster._core.storage.event_log import SqliteEventLogStorage  # takes 0.5 s that only retention needs

    storage = instance.event_log_storage
    return Path(storage.path_for_shard(run_id)) if isinstance(storage, SqliteEventLogStorage) else None
