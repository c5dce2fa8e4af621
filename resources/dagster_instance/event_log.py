"""Observations of source assets in Dagster's event log."""

from collections.abc import Mapping
from dataclasses import dataclass

from dagster import AssetKey, AssetObservation, AssetRecordsFilter, DagsterInstance

from resources.dagster_instance.dagster_names import DATA_VERSION_TAG

_PAGE_SIZE = 1000
_MAX_PARTITIONS_IN_FILTER = 100  # for more recordings the events of all are read


@dataclass(frozen=True)
class AssetEvent:
    """One observation of a source asset.

    Attributes:
        storage_id: Id of the event in Dagster's event log.
        timestamp: Time at which the event was stored, in seconds since 1970.
        event: The observation.
        tags: Tags of the event, including its data version.
    """

    storage_id: int
    timestamp: float
    event: AssetObservation
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """Data version of the event."""
        return self.tags.get(DATA_VERSION_TAG)


def observations(instance: DagsterInstance, key: AssetKey, recording_ids: set[str]) -> dict[str, list[AssetEvent]]:
    """Observations of an asset by recording, newest first."""
    events: dict[str, list[AssetEvent]] = {}
    cursor: str | None = None
    partitions = sorted(recording_ids) if len(recording_ids) <= _MAX_PARTITIONS_IN_FILTER else None
    records_filter = AssetRecordsFilter(asset_key=key, asset_partitions=partitions)
    while recording_ids:
        page = instance.fetch_observations(records_filter, limit=_PAGE_SIZE, cursor=cursor)
        for record in page.records:
            event = record.asset_observation
            if event is not None and event.partition in recording_ids:
                asset_event = AssetEvent(record.storage_id, record.timestamp, event, event.tags or {})
                events.setdefault(event.partition, []).append(asset_event)
        cursor = page.cursor
        if not page.has_more:
            break
    return events
