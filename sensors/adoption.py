"""Adoption: registers the recordings and results of the tables in Dagster, after a move or a lost database.

The run planner reads the tables, so nothing is recomputed without it; Dagster's UI shows what is registered. A failed
attempt cannot be registered: Dagster's public API has no event for it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from dagster import AssetKey, AssetMaterialization, AssetObservation, AssetRecordsFilter, DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import NO_VERSION, cameras_of
from cv_assets.data_versions import NO_INPUT
from cv_assets.partitions import recordings_partitions
from cv_assets.recording_status import report_statuses
from cv_assets.stage_metadata import display_metadata
from resources.dagster_instance.dagster_names import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    input_data_version_tag,
    input_event_pointer_tag,
)
from resources.dagster_instance.event_log import observations
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.recording_tables import RECORDINGS, SOURCE_FILES
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.stage_runs import decode_input_versions, newest_stage_runs

_PAGE_SIZE = 1000
_PORTION_SIZE = 100  # recordings whose events are in memory at once
_NEVER_OBSERVED = 1
"""Storage id of an event before all events of a recording that has none yet."""

# A file under an old name with new content is another recording, so that some recordings have no file any more. Those
# that the recording of the complete file has replaced are no partitions, nor are archived ones.
_RECORDINGS_SQL = """
WITH with_file AS (
    SELECT recording_id, min(seen_at_utc) AS first_at, min(source_path) AS source_path
    FROM source_files WHERE state IN ('known', 'duplicate', 'unverified') GROUP BY recording_id
), without_file AS (
    SELECT recording_id, min(finished_at_utc) AS first_at, '' AS source_path
    FROM newest WHERE recording_id NOT IN (SELECT recording_id FROM source_files WHERE recording_id IS NOT NULL)
    GROUP BY recording_id HAVING count(*) FILTER (status = 'rejected') = 0
)
SELECT recording_id FROM (SELECT * FROM with_file UNION ALL SELECT * FROM without_file)
WHERE recording_id IS NOT NULL
    AND recording_id NOT IN (SELECT recording_id FROM source_files WHERE state = 'archived')
    AND recording_id NOT IN (SELECT replaces FROM source_files WHERE replaces IS NOT NULL)
ORDER BY first_at, source_path, recording_id
"""


class _Event(NamedTuple):
    """A materialization, or an observation of a camera's settings.

    Attributes:
        storage_id: Id of the event in Dagster's event log.
        tags: Tags of the event.
    """

    storage_id: int
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """Data version of the event."""
        return self.tags.get(DATA_VERSION_TAG)


_Events = Mapping[str, Sequence[_Event]]
"""Events of one asset by recording, newest first."""


def needs_adoption(instance: DagsterInstance, store: Store) -> bool:
    """Whether Dagster has no recordings although the tables have results: its storage is new, or was moved or lost."""
    name = recordings_partitions.name or ""
    has_partitions = instance.get_paginated_dynamic_partitions(name, limit=1, ascending=True).results
    return not has_partitions and store.row_count(STAGE_RUNS) > 0


def register_partitions(instance: DagsterInstance, store: Store) -> int:
    """Register the recordings of the tables as partitions, in the order in which their files were found.

    Returns:
        The number of partitions that were missing.
    """
    name = recordings_partitions.name or ""
    tables = {
        "source_files": store.read(
            SOURCE_FILES, columns=["recording_id", "state", "source_path", "seen_at_utc", "replaces"]
        ),
        "newest": newest_stage_runs(store, columns=["recording_id", "status", "finished_at_utc"]),
    }
    existing = set(instance.get_dynamic_partitions(name))
    recording_ids = select(_RECORDINGS_SQL, tables)["recording_id"].to_pylist()
    missing = [recording_id for recording_id in recording_ids if recording_id not in existing]
    if missing:
        instance.add_dynamic_partitions(name, missing)
    return len(missing)


def register_materializations(
    instance: DagsterInstance,
    store: Store,
    graph: AssetGraph,
    recording_ids: Sequence[str] | None = None,
    show_progress: Callable[[int, int], None] | None = None,
    metadata: Mapping[tuple[str, str], Mapping[str, Any]] = MappingProxyType({}),
) -> int:
    """Register the newest results of every stage as materializations, unless Dagster has them; may be interrupted.

    Versions and inputs are those of the table stage_runs, so that the UI shows the same assets as stale as
    `cv-assets stale`. Takes about 0.2 s for each recording that Dagster does not have.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
        recording_ids: The recordings; None means all partitions.
        show_progress: Called with the numbers of examined recordings and of all.
        metadata: Metadata by asset and recording; without it, a materialization gets that of its row in the table.

    Returns:
        The number of materializations that were missing.
    """
    if recording_ids is None:
        recording_ids = instance.get_dynamic_partitions(recordings_partitions.name or "")
    graph.observer.record(instance, graph.observer.aspects, {})  # Dagster's first events, which `_NEVER_OBSERVED` needs
    count = 0
    for start in range(0, len(recording_ids), _PORTION_SIZE):
        portion = recording_ids[start : start + _PORTION_SIZE]
        count += _register_portion(instance, store, graph, portion, metadata)
        if show_progress:
            show_progress(start + len(portion), len(recording_ids))
    return count


def _register_portion(
    instance: DagsterInstance,
    store: Store,
    graph: AssetGraph,
    recording_ids: Sequence[str],
    metadata: Mapping[tuple[str, str], Mapping[str, Any]],
) -> int:
    rows_by_stage: dict[str, dict[str, dict[str, Any]]] = {}
    for row in newest_stage_runs(store, recording_ids, only_materialized=True).to_pylist():
        row["inputs"] = decode_input_versions(row["input_versions"])
        rows_by_stage.setdefault(row["stage"], {})[row["recording_id"]] = row
    events_by_asset: dict[str, _Events] = dict(_observe_settings(instance, store, graph, recording_ids, rows_by_stage))
    count, without_status = 0, list[str]()
    for name, stage in graph.stage_of_asset.items():  # upstream first
        key, rows = AssetKey(name), rows_by_stage.get(stage, {})
        events = _read_materializations(instance, key, list(rows))
        missing = [
            recording_id
            for recording_id, row in rows.items()
            if not _is_registered(row, events.get(recording_id, ()), _events_of_inputs(row, events_by_asset))
        ]
        for recording_id in missing:
            row = rows[recording_id]
            events_of_inputs, known = _events_of_inputs(row, events_by_asset), metadata.get((name, recording_id))
            instance.report_runless_asset_event(_materialization(key, row, events_of_inputs, known))
        events_by_asset[name] = events | _read_materializations(instance, key, missing)
        count += len(missing)
        if name == RECORDINGS.name:
            without_status = missing
    report_statuses(instance, store, list(graph.stages), without_status)
    return count


def _read_materializations(
    instance: DagsterInstance, key: AssetKey, recording_ids: Sequence[str]
) -> dict[str, list[_Event]]:
    """Read the materializations of an asset by recording, newest first."""
    events: dict[str, list[_Event]] = {}
    cursor: str | None = None
    while recording_ids:
        page = instance.fetch_materializations(
            AssetRecordsFilter(asset_key=key, asset_partitions=recording_ids), limit=_PAGE_SIZE, cursor=cursor
        )
        for record in page.records:
            materialization = record.asset_materialization
            if materialization is not None and materialization.partition is not None:
                event = _Event(record.storage_id, materialization.tags or {})
                events.setdefault(materialization.partition, []).append(event)
        cursor = page.cursor
        if not page.has_more:
            break
    return events


def _read_observations(
    instance: DagsterInstance, key: AssetKey, recording_ids: Sequence[str]
) -> dict[str, list[_Event]]:
    """Read the observations of a camera's settings by recording, newest first."""
    return {
        recording_id: [_Event(event.storage_id, event.tags) for event in events]
        for recording_id, events in observations(instance, key, set(recording_ids)).items()
    }


def _observe_settings(
    instance: DagsterInstance,
    store: Store,
    graph: AssetGraph,
    recording_ids: Sequence[str],
    rows_by_stage: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, _Events]:
    """Record the settings of single cameras that results were computed with, and then those in force.

    Returns:
        The observations by asset and recording.
    """
    cameras = cameras_of(store, recording_ids)
    rows = sorted(
        (row for rows in rows_by_stage.values() for row in rows.values()), key=lambda row: row["finished_at_utc"]
    )
    for key in graph.observer.aspects:
        name, events = key.to_user_string(), _read_observations(instance, key, recording_ids)
        current = graph.observer.current(key, cameras)
        recorded: set[tuple[str, str]] = set()
        for row in rows:
            recording_id, version = row["recording_id"], row["inputs"].get(name, NO_VERSION)
            known = events.get(recording_id, [])
            is_known = any(event.version == version for event in known) or (recording_id, version) in recorded
            is_current = version == current[recording_id].version
            if version == NO_VERSION or is_known or is_current or (known and known[0].version):
                continue
            instance.report_runless_asset_event(
                AssetObservation(key, partition=recording_id, tags=_version_tags(version))
            )
            recorded.add((recording_id, version))
    graph.observer.record(instance, graph.observer.aspects, cameras)
    return {key.to_user_string(): _read_observations(instance, key, recording_ids) for key in graph.observer.aspects}


def _materialization(
    key: AssetKey,
    row: Mapping[str, Any],
    events_of_inputs: Mapping[str, Sequence[_Event]],
    metadata: Mapping[str, Any] | None = None,
) -> AssetMaterialization:
    tags = {**_version_tags(row["data_version"]), CODE_VERSION_TAG: row["code_version"] or ""}
    for name, version in row["inputs"].items():
        tags[input_data_version_tag(AssetKey(name))] = version
        tags[input_event_pointer_tag(AssetKey(name))] = str(_event_pointer(events_of_inputs[name], version))
    if metadata is None:
        values = {"status": row["status"], "error": row["error"], "elapsed_s": row["elapsed_s"]}
        metadata = display_metadata({name: value for name, value in values.items() if value is not None})
    return AssetMaterialization(
        key,
        description="Registered from the table stage_runs.",
        partition=row["recording_id"],
        metadata=metadata,
        tags=tags,
    )


def _version_tags(data_version: str) -> dict[str, str]:
    return {DATA_VERSION_TAG: data_version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}


def _events_of_inputs(row: Mapping[str, Any], events_by_asset: Mapping[str, _Events]) -> dict[str, Sequence[_Event]]:
    """Events of each input of a materialization; an input that the asset graph no longer has has none."""
    return {name: events_by_asset.get(name, {}).get(row["recording_id"], ()) for name in row["inputs"]}


def _event_pointer(events: Sequence[_Event], version: str) -> int:
    """Storage id of the newest event of an input that has the version; an id before all events if none has."""
    match = next((event.storage_id for event in events if _version_of([event]) == version), None)
    return match or (max(events[-1].storage_id - 1, _NEVER_OBSERVED) if events else _NEVER_OBSERVED)


def _version_of(events: Sequence[_Event]) -> str:
    """Data version of the newest event."""
    return (events[0].version if events else None) or NO_INPUT


def _is_registered(
    row: Mapping[str, Any], events: Sequence[_Event], events_of_inputs: Mapping[str, Sequence[_Event]]
) -> bool:
    """Whether Dagster's newest materialization has the versions of a row, and is stale if the row is."""
    if not events or events[0].version != row["data_version"]:
        return False
    tags = events[0].tags
    return tags.get(CODE_VERSION_TAG) == row["code_version"] and all(
        _has_input_changed(tags.get(input_event_pointer_tag(AssetKey(name)), ""), events_of_inputs[name])
        == (bool(events_of_inputs[name]) and version != _version_of(events_of_inputs[name]))
        for name, version in row["inputs"].items()
    )


def _has_input_changed(event_pointer: str, events: Sequence[_Event]) -> bool:
    """Whether Dagster considers an input as changed: its newest event is later than the pointer, in another version."""
    if not event_pointer.isdigit() or int(event_pointer) == 0:
        return False
    read = [event for event in events if event.storage_id <= int(event_pointer)]
    return (read[0].version if read else None) != (events[0].version if events else None)
