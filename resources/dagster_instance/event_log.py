"""Materializations and observations of assets in Dagster's event log, and the inputs of a materialization."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dagster import AssetKey, AssetMaterialization, AssetObservation, AssetRecordsFilter, EventRecordsResult

from resources.dagster_instance.dagster_names import DATA_VERSION_TAG, input_event_pointer_tag

_PAGE_SIZE = 1000
_MAX_PARTITIONS_IN_FILTER = 100  # for more recordings the events of all are read


@dataclass(frozen=True)
class AssetEvent:
    """One materialization, or one observation of an external asset.

    Attributes:
        storage_id: Id of the event in Dagster's event log.
        timestamp: Time at which the event was stored, in seconds since 1970.
        event: The materialization or observation.
        tags: Tags of the event, including its data version and those of its inputs.
    """

    storage_id: int
    timestamp: float
    event: AssetMaterialization | AssetObservation
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """Data version of the event."""
        return self.tags.get(DATA_VERSION_TAG)


class _EventLog(Protocol):
    """Dagster's instance, or its event log storage."""

    def fetch_materializations(
        self, records_filter: AssetKey | AssetRecordsFilter, limit: int, cursor: str | None = None
    ) -> EventRecordsResult: ...

    def fetch_observations(
        self, records_filter: AssetKey | AssetRecordsFilter, limit: int, cursor: str | None = None
    ) -> EventRecordsResult: ...


@dataclass(frozen=True)
class AssetHistory:
    """The part of Dagster's history that is copied between storages.

    Attributes:
        partitions_name: Name of the dynamic partitions.
        observed_keys: External assets whose observations are copied.
        materialized_keys: Assets whose newest materializations are copied, upstream first.
    """

    partitions_name: str
    observed_keys: Sequence[AssetKey]
    materialized_keys: Sequence[AssetKey]


def materializations(log: _EventLog, key: AssetKey, recording_ids: set[str]) -> dict[str, list[AssetEvent]]:
    """Materializations of an asset by recording, newest first."""
    return _events_by_recording(log.fetch_materializations, key, recording_ids)


def observations(log: _EventLog, key: AssetKey, recording_ids: set[str]) -> dict[str, list[AssetEvent]]:
    """Observations of an asset by recording, newest first."""
    return _events_by_recording(log.fetch_observations, key, recording_ids)


def _events_by_recording(
    fetch: Callable[..., EventRecordsResult], key: AssetKey, recording_ids: set[str]
) -> dict[str, list[AssetEvent]]:
    events: dict[str, list[AssetEvent]] = {}
    cursor: str | None = None
    partitions = sorted(recording_ids) if len(recording_ids) <= _MAX_PARTITIONS_IN_FILTER else None
    records_filter = AssetRecordsFilter(asset_key=key, asset_partitions=partitions)
    while recording_ids:
        page = fetch(records_filter, limit=_PAGE_SIZE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization or record.asset_observation
            if event is not None and event.partition in recording_ids:
                asset_event = AssetEvent(record.storage_id, record.timestamp, event, event.tags or {})
                events.setdefault(event.partition, []).append(asset_event)
        cursor = page.cursor
        if not page.has_more:
            break
    return events


def find_input_event(tags: Mapping[str, str], key: AssetKey, upstream: Sequence[AssetEvent]) -> AssetEvent | None:
    """Find the input event that a materialization was computed from.

    Args:
        tags: Tags of the materialization; one tag is the storage id of the newest event of the input at that time.
        key: The input.
        upstream: Events of the input, newest first.

    Returns:
        The newest event up to that storage id; None if there is none.
    """
    pointer = tags.get(input_event_pointer_tag(key), "")
    return next((event for event in upstream if pointer.isdigit() and event.storage_id <= int(pointer)), None)
