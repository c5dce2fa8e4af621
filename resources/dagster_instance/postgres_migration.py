"""Moves Dagster's history between SQLite in the data folder and PostgreSQL, so that nothing is materialized again.

Only the part that decides what is materialized is copied: the partitions, the newest materialization of every asset and
recording with its versions and metadata, and the observations of the camera settings. Runs, ticks and logs are not
copied.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEvent,
    DagsterEventType,
    EventLogEntry,
)
from dagster._core.events import AssetObservationData, StepMaterializationData
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from resources.dagster_instance.dagster_names import input_event_pointer_tag
from resources.dagster_instance.event_log import (
    AssetEvent,
    AssetHistory,
    find_input_event,
    materializations,
    observations,
)
from resources.dagster_instance.instance_storage import postgres_storage
from resources.dagster_instance.postgres_database import (
    OWNER_KEY,
    POSTGRES_VARIABLE,
    database_url,
    folder_id,
    record_database,
)
from resources.errors import PipelineError

_EVENTS_PER_WRITE = 500
_IS_COPIED_KEY = "is_brought"  # in the stored JSON of the owner


def move_history_to_postgres(data_folder: Path, history: AssetHistory) -> int:
    """Assign the configured PostgreSQL database to this data folder, and copy the history from SQLite if not yet done.

    To be called only by the process that holds the data folder's lock, after the database was checked.

    Returns:
        Number of recordings copied; 0 where SQLite is configured or everything was copied before.
    """
    url = database_url()
    if url is None:
        return 0
    database = postgres_storage(url)
    owner = json.loads(database.run_storage.get_cursor_values({OWNER_KEY}).get(OWNER_KEY, "{}"))
    is_copied = bool(owner.get(_IS_COPIED_KEY))
    _set_owner(database, data_folder, is_copied)
    recording_count = 0
    if not is_copied:
        dagster_home = data_folder / "dagster"
        if (dagster_home / "history").exists():
            recording_count = copy_history(DagsterSqliteStorage.from_local(str(dagster_home)), database, history)
        _set_owner(database, data_folder, is_copied=True)
    record_database(data_folder, url)
    return recording_count


def move_history_to_sqlite(data_folder: Path, history: AssetHistory) -> int:
    """Copy the history from PostgreSQL back to SQLite in the data folder.

    To be called only by the process that holds the data folder's lock, after the database was checked.

    Returns:
        Number of recordings copied.

    Raises:
        PipelineError: No database is configured.
    """
    url = database_url()
    if url is None:
        raise PipelineError(f"{POSTGRES_VARIABLE} is not set: set it to the database that has the history.")
    database = postgres_storage(url)
    sqlite = DagsterSqliteStorage.from_local(str(data_folder / "dagster"))
    recording_count = copy_history(database, sqlite, history)
    _set_owner(database, data_folder, is_copied=False)
    record_database(data_folder, None)
    return recording_count


def _set_owner(database: DagsterStorage, data_folder: Path, is_copied: bool) -> None:
    owner = {"id": folder_id(data_folder), "path": str(data_folder), _IS_COPIED_KEY: is_copied}
    database.run_storage.set_cursor_values({OWNER_KEY: json.dumps(owner)})


def copy_history(source: DagsterStorage, target: DagsterStorage, history: AssetHistory) -> int:
    """Copy the events that the target lacks or has only in an older version; repeat it to complete a partial copy.

    Returns:
        Number of recordings with at least one copied event.
    """
    name = history.partitions_name
    recording_ids = source.event_log_storage.get_dynamic_partitions(name)
    if recording_ids:
        target.event_log_storage.add_dynamic_partitions(name, recording_ids)
    copier = _HistoryCopier(
        source.event_log_storage, target.event_log_storage, set(recording_ids), set(history.observed_keys)
    )
    for key in history.observed_keys:
        copier.copy_observations(key)
    for key in history.materialized_keys:
        copier.copy_newest_materializations(key)
    return len(copier.copied_recordings)


class _HistoryCopier:
    """Copies events from one event log to another, upstream assets first.

    Args:
        source: Event log from which the events are copied.
        target: Event log to which they are copied.
        recording_ids: Recordings to copy.
        observed_keys: The external assets.

    Attributes:
        copied_recordings: Recordings with at least one copied event.
    """

    def __init__(
        self, source: EventLogStorage, target: EventLogStorage, recording_ids: set[str], observed_keys: set[AssetKey]
    ) -> None:
        self.copied_recordings: set[str] = set()
        self._source, self._target = source, target
        self._recording_ids, self._observed_keys = recording_ids, observed_keys
        self._source_events: dict[AssetKey, dict[str, list[AssetEvent]]] = {}
        # Storage ids in the target, by recording and timestamp of the event.
        self._target_ids: dict[AssetKey, dict[tuple[str, float], int]] = {}
        self._first_target_id: dict[AssetKey, int] = {}

    def copy_observations(self, key: AssetKey) -> None:
        """Copy all observations of camera settings: a result may have been computed from one that is not the newest."""
        if not self._source.fetch_observations(key, limit=1).records:
            return
        if not self._target.fetch_observations(key, limit=1).records:
            self._target.store_event(_log_entry(AssetObservation(key), 0.0))
        self._source_events[key] = observations(self._source, key, self._recording_ids)
        target_events = observations(self._target, key, self._recording_ids)
        self._write(
            (recording_id, event, {})
            for recording_id, events in self._source_events[key].items()
            for event in events
            if recording_id not in target_events or target_events[recording_id][0].timestamp < event.timestamp
        )
        self._index_target(key, observations(self._target, key, self._recording_ids))
        self._first_target_id[key] = self._target.fetch_observations(key, limit=1, ascending=True).records[0].storage_id

    def copy_newest_materializations(self, key: AssetKey) -> None:
        """Copy the newest materialization of every recording; its input pointers get the storage ids of the target."""
        self._source_events[key] = materializations(self._source, key, self._recording_ids)
        target_events = materializations(self._target, key, self._recording_ids)
        newer_events = {
            recording_id: events[0]
            for recording_id, events in self._source_events[key].items()
            if recording_id not in target_events or target_events[recording_id][0].timestamp < events[0].timestamp
        }
        self._write(
            (recording_id, event, self._input_pointers(recording_id, event))
            for recording_id, event in newer_events.items()
        )
        self._index_target(
            key, materializations(self._target, key, self._recording_ids) if newer_events else target_events
        )

    def _write(self, events: Iterable[tuple[str, AssetEvent, Mapping[str, str]]]) -> None:
        # In the order in which they were stored, so that the newest event of an asset stays the newest.
        ordered_events = sorted(events, key=lambda item: item[1].storage_id)
        for start in range(0, len(ordered_events), _EVENTS_PER_WRITE):
            batch = ordered_events[start : start + _EVENTS_PER_WRITE]
            self._target.store_event_batch([_copied_entry(event, tags) for _, event, tags in batch])
        self.copied_recordings |= {recording_id for recording_id, _, _ in ordered_events}

    def _index_target(self, key: AssetKey, events_by_recording: Mapping[str, Sequence[AssetEvent]]) -> None:
        self._target_ids[key] = {
            (recording_id, event.timestamp): event.storage_id
            for recording_id, events in events_by_recording.items()
            for event in events
        }

    def _input_pointers(self, recording_id: str, event: AssetEvent) -> Mapping[str, str]:
        """Tags that point to the inputs of a materialization, with the storage ids of the target."""
        pointers = {}
        for key, events_by_recording in self._source_events.items():
            tag = input_event_pointer_tag(key)
            if tag not in event.tags:
                continue
            upstream, target_ids = events_by_recording.get(recording_id, []), self._target_ids[key]
            input_event = find_input_event(event.tags, key, upstream)
            if input_event and input_event.version == upstream[0].version:
                input_event = upstream[0]
            if input_event and (recording_id, input_event.timestamp) in target_ids:
                storage_id = target_ids[recording_id, input_event.timestamp]
            elif upstream and key not in self._observed_keys:
                # The input was materialized again since, and the event that was used is not copied.
                storage_id = target_ids[recording_id, upstream[0].timestamp] - 1
            else:
                storage_id = self._first_target_id.get(key, 0)
            pointers[tag] = str(storage_id)
        return pointers


def _copied_entry(asset_event: AssetEvent, tags: Mapping[str, str]) -> EventLogEntry:
    """Copy an event to a log entry, and update its tags with `tags`."""
    event = asset_event.event
    event_type = type(event)
    event_copy = event_type(
        event.asset_key,
        description=event.description,
        metadata=event.metadata,
        partition=event.partition,
        tags={**asset_event.tags, **tags},
    )
    return _log_entry(event_copy, asset_event.timestamp)


def _log_entry(event: AssetMaterialization | AssetObservation, timestamp: float) -> EventLogEntry:
    is_materialization = isinstance(event, AssetMaterialization)
    event_type = DagsterEventType.ASSET_MATERIALIZATION if is_materialization else DagsterEventType.ASSET_OBSERVATION
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level="debug",
        user_message="",
        run_id=RUNLESS_RUN_ID,
        timestamp=timestamp,
        job_name=RUNLESS_JOB_NAME,
        dagster_event=DagsterEvent(
            event_type_value=event_type.value,
            job_name=RUNLESS_JOB_NAME,
            event_specific_data=StepMaterializationData(event)
            if isinstance(event, AssetMaterialization)
            else AssetObservationData(event),
        ),
    )
