"""What a change of settings made stale: the UI's judgement for every recording and asset, and what follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance, EventRecordsResult
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG, get_input_event_pointer_tag

from cv_assets.walk import WALK

_PAGE = 1000


@dataclass(frozen=True)
class Stale:
    """An asset of a recording that would come out otherwise if it were made now, and why."""

    recording_id: str
    asset_name: str
    reason: str


def stale_assets(instance: DagsterInstance, recording_ids: Sequence[str]) -> list[Stale]:
    """Every asset of the given recordings that was made by other settings, or from what has been made anew since.

    What was never made is missing, not stale, and makes nothing stale.

    Returns:
        In the order of the walk: what an asset is made from comes before it.
    """
    wanted = set(recording_ids)
    specs = [spec for assets in WALK for spec in assets.specs if wanted]
    made = {spec.key: materializations(instance, spec.key, wanted) for spec in specs}
    found: list[Stale] = []
    is_stale: set[tuple[AssetKey, str]] = set()
    for spec in specs:
        for recording_id, history in made[spec.key].items():
            tags = history[0].tags
            reasons = ["its settings changed"] if tags.get(CODE_VERSION_TAG) != spec.code_version else []
            for key in (dep.asset_key for dep in spec.deps):
                upstream = made.get(key, {}).get(recording_id, [])
                if (key, recording_id) in is_stale:
                    reasons.append(f"{key.to_user_string()} is stale")
                elif upstream and upstream[0].version != version_read(tags, key, upstream):
                    reasons.append(f"{key.to_user_string()} was made anew")
            if reasons:
                is_stale.add((spec.key, recording_id))
                found.append(Stale(recording_id, spec.key.to_user_string(), ", ".join(reasons)))
    return found


@dataclass(frozen=True)
class Made:
    """One materialization.

    Attributes:
        number: Its place in Dagster's event log.
        timestamp: When it was made, in seconds since 1970.
        event: What was told of it.
        tags: Its tags, the versions among them.
    """

    number: int
    timestamp: float
    event: AssetMaterialization
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """Its data version."""
        return self.tags.get(DATA_VERSION_TAG)


def version_read(tags: Mapping[str, str], key: AssetKey, upstream: Sequence[Made]) -> str | None:
    """The version of an input that a materialization was made from: the newest at the time, which its tags number."""
    pointer = tags.get(get_input_event_pointer_tag(key), "")
    read = next((made for made in upstream if pointer.isdigit() and made.number <= int(pointer)), None)
    return read.version if read else None


class _EventLog(Protocol):
    """Dagster's instance, or its event log alone."""

    def fetch_materializations(
        self, records_filter: AssetKey | AssetRecordsFilter, limit: int, cursor: str | None = None
    ) -> EventRecordsResult: ...


def materializations(log: _EventLog, key: AssetKey, wanted: set[str]) -> dict[str, list[Made]]:
    """By recording, an asset's materializations, newest first."""
    found: dict[str, list[Made]] = {}
    cursor: str | None = None
    while True:
        page = log.fetch_materializations(AssetRecordsFilter(asset_key=key), limit=_PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            if event is not None and event.partition in wanted:
                made = Made(record.storage_id, record.timestamp, event, event.tags or {})
                found.setdefault(event.partition, []).append(made)
        cursor = page.cursor
        if not page.has_more:
            return found
