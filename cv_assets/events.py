"""What Dagster's event log tells of assets and recordings, and which of it an asset was made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dagster import AssetKey, AssetMaterialization, AssetObservation, AssetRecordsFilter, EventRecordsResult
from dagster._core.definitions.data_version import DATA_VERSION_TAG, get_input_event_pointer_tag

_PAGE = 1000
_ASKED_BY_NAME = 100  # of more recordings all events are read


@dataclass(frozen=True)
class Told:
    """One materialization, or one observation of an asset that is made elsewhere.

    Attributes:
        number: Its place in Dagster's event log.
        timestamp: When it was told, in seconds since 1970.
        event: What was told.
        tags: Its tags, the versions among them.
    """

    number: int
    timestamp: float
    event: AssetMaterialization | AssetObservation
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """Its data version."""
        return self.tags.get(DATA_VERSION_TAG)


class _EventLog(Protocol):
    """Dagster's instance, or its event log alone."""

    def fetch_materializations(
        self, records_filter: AssetKey | AssetRecordsFilter, limit: int, cursor: str | None = None
    ) -> EventRecordsResult: ...

    def fetch_observations(
        self, records_filter: AssetKey | AssetRecordsFilter, limit: int, cursor: str | None = None
    ) -> EventRecordsResult: ...


def materializations(log: _EventLog, key: AssetKey, wanted: set[str]) -> dict[str, list[Told]]:
    """By recording, an asset's materializations, newest first."""
    return _histories(log.fetch_materializations, key, wanted)


def observations(log: _EventLog, key: AssetKey, wanted: set[str]) -> dict[str, list[Told]]:
    """By recording, an asset's observations, newest first."""
    return _histories(log.fetch_observations, key, wanted)


def _histories(fetch: Callable[..., EventRecordsResult], key: AssetKey, wanted: set[str]) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = {}
    cursor: str | None = None
    named = sorted(wanted) if len(wanted) <= _ASKED_BY_NAME else None
    asked = AssetRecordsFilter(asset_key=key, asset_partitions=named)
    while wanted:
        page = fetch(asked, limit=_PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization or record.asset_observation
            if event is not None and event.partition in wanted:
                told = Told(record.storage_id, record.timestamp, event, event.tags or {})
                found.setdefault(event.partition, []).append(told)
        cursor = page.cursor
        if not page.has_more:
            break
    return found


def told_read(tags: Mapping[str, str], key: AssetKey, upstream: Sequence[Told]) -> Told | None:
    """What of an input a materialization was made from: the newest at the time, which its tags number."""
    pointer = tags.get(get_input_event_pointer_tag(key), "")
    return next((told for told in upstream if pointer.isdigit() and told.number <= int(pointer)), None)
