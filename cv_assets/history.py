"""Dagster's history on the move: between SQLite in the data folder and PostgreSQL, so that nothing is made again.

What is taken along is what decides whether work is done: the partitions, of every asset and recording the newest
materialization with its versions and metadata, and what was noted of cameras. Runs, ticks and logs stay where they
were.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dagster import AssetKey, AssetMaterialization, AssetObservation
from dagster._core.definitions.data_version import get_input_event_pointer_tag
from dagster._core.events import AssetObservationData, DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from cv_assets.cameras import ASPECTS
from cv_assets.events import Told, materializations, observations, told_read
from cv_assets.partitions import recordings_partitions
from cv_assets.walk import WALK
from resources.dagster_storage import postgres_storage
from resources.errors import PipelineError
from resources.postgres import OWNER_KEY, POSTGRES_VARIABLE, database_url, folder_id, note_choice

_EVENTS_A_WRITE = 500


def bring_history(data_folder: Path) -> int:
    """Make the chosen PostgreSQL database this data folder's own, with the history that lay in SQLite until now.

    Only to be called by the one process that holds the data folder's lock, after the database was checked.

    Returns:
        How many recordings were taken along; 0 where SQLite is chosen or all was there.
    """
    url = database_url()
    if url is None:
        return 0
    database = postgres_storage(url)
    owner = json.loads(database.run_storage.get_cursor_values({OWNER_KEY}).get(OWNER_KEY, "{}"))
    _own(database, data_folder, is_brought=bool(owner.get("is_brought")))
    taken = 0
    if not owner.get("is_brought"):
        home = data_folder / "dagster"
        if (home / "history").exists():
            taken = copy_history(DagsterSqliteStorage.from_local(str(home)), database)
        _own(database, data_folder, is_brought=True)
    note_choice(data_folder, url)
    return taken


def leave_postgres(data_folder: Path) -> int:
    """Take the history back from PostgreSQL into SQLite in the data folder.

    Only to be called by the one process that holds the data folder's lock, after the database was checked.

    Returns:
        How many recordings were taken back.

    Raises:
        PipelineError: No database is chosen.
    """
    url = database_url()
    if url is None:
        raise PipelineError(f"{POSTGRES_VARIABLE} is not set: set it to the database that the history is to leave.")
    database = postgres_storage(url)
    taken = copy_history(database, DagsterSqliteStorage.from_local(str(data_folder / "dagster")))
    _own(database, data_folder, is_brought=False)
    note_choice(data_folder, None)
    return taken


def _own(database: DagsterStorage, data_folder: Path, is_brought: bool) -> None:
    owner = {"id": folder_id(data_folder), "path": str(data_folder), "is_brought": is_brought}
    database.run_storage.set_cursor_values({OWNER_KEY: json.dumps(owner)})


def copy_history(source: DagsterStorage, target: DagsterStorage) -> int:
    """Copy what the target lacks or has older; doing it again after an interruption completes it.

    Returns:
        How many recordings something was copied of.
    """
    name = recordings_partitions.name or ""
    recording_ids = source.event_log_storage.get_dynamic_partitions(name)
    if recording_ids:
        target.event_log_storage.add_dynamic_partitions(name, recording_ids)
    copying = _Copying(source.event_log_storage, target.event_log_storage, set(recording_ids))
    for key in ASPECTS:
        copying.copy_notes(key)
    for assets in WALK:
        for spec in assets.specs:
            copying.copy_newest(spec.key)
    return len(copying.copied)


class _Copying:
    """One copying, upstream assets first.

    Attributes:
        copied: Recordings something was copied of.
    """

    def __init__(self, source: EventLogStorage, target: EventLogStorage, wanted: set[str]) -> None:
        self.copied: set[str] = set()
        self._source, self._target, self._wanted = source, target, wanted
        self._histories: dict[AssetKey, dict[str, list[Told]]] = {}
        self._numbers: dict[AssetKey, dict[tuple[str, float], int]] = {}
        self._first: dict[AssetKey, int] = {}

    def copy_notes(self, key: AssetKey) -> None:
        """Copy all that was noted of cameras: what something was made from may not be the newest."""
        if not self._source.fetch_observations(key, limit=1).records:
            return
        if not self._target.fetch_observations(key, limit=1).records:
            self._target.store_event(_entry(AssetObservation(key), 0.0))
        self._histories[key] = observations(self._source, key, self._wanted)
        have = observations(self._target, key, self._wanted)
        self._write(
            (recording_id, told, {})
            for recording_id, history in self._histories[key].items()
            for told in history
            if recording_id not in have or have[recording_id][0].timestamp < told.timestamp
        )
        self._remember(key, observations(self._target, key, self._wanted))
        self._first[key] = self._target.fetch_observations(key, limit=1, ascending=True).records[0].storage_id

    def copy_newest(self, key: AssetKey) -> None:
        """Copy the newest materialization of every recording, with the numbers of its inputs there."""
        self._histories[key] = materializations(self._source, key, self._wanted)
        have = materializations(self._target, key, self._wanted)
        newer = {
            recording_id: history[0]
            for recording_id, history in self._histories[key].items()
            if recording_id not in have or have[recording_id][0].timestamp < history[0].timestamp
        }
        self._write(
            (recording_id, newest, self._pointers(recording_id, newest)) for recording_id, newest in newer.items()
        )
        self._remember(key, materializations(self._target, key, self._wanted) if newer else have)

    def _write(self, chosen: Iterable[tuple[str, Told, Mapping[str, str]]]) -> None:
        # In the order of their making: the newest of an asset stays the newest.
        ordered = sorted(chosen, key=lambda one: one[1].number)
        for start in range(0, len(ordered), _EVENTS_A_WRITE):
            batch = ordered[start : start + _EVENTS_A_WRITE]
            self._target.store_event_batch([_moved(told, tags) for _, told, tags in batch])
        self.copied |= {recording_id for recording_id, _, _ in ordered}

    def _remember(self, key: AssetKey, have: Mapping[str, Sequence[Told]]) -> None:
        self._numbers[key] = {
            (recording_id, told.timestamp): told.number for recording_id, history in have.items() for told in history
        }

    def _pointers(self, recording_id: str, newest: Told) -> Mapping[str, str]:
        """The tags that number a materialization's inputs, with the target's numbers."""
        pointers = {}
        for key, histories in self._histories.items():
            tag = get_input_event_pointer_tag(key)
            if tag not in newest.tags:
                continue
            upstream, numbers = histories.get(recording_id, []), self._numbers[key]
            read = told_read(newest.tags, key, upstream)
            if read and read.version == upstream[0].version:
                read = upstream[0]
            if read and (recording_id, read.timestamp) in numbers:
                number = numbers[recording_id, read.timestamp]
            elif upstream and key not in ASPECTS:
                # It was made anew since, and of what it was made from nothing was taken along.
                number = numbers[recording_id, upstream[0].timestamp] - 1
            else:
                number = self._first.get(key, 0)
            pointers[tag] = str(number)
        return pointers


def _moved(told: Told, tags: Mapping[str, str]) -> EventLogEntry:
    event = told.event
    kind = type(event)
    moved = kind(
        event.asset_key,
        description=event.description,
        metadata=event.metadata,
        partition=event.partition,
        tags={**told.tags, **tags},
    )
    return _entry(moved, told.timestamp)


def _entry(event: AssetMaterialization | AssetObservation, timestamp: float) -> EventLogEntry:
    is_made = isinstance(event, AssetMaterialization)
    kind = DagsterEventType.ASSET_MATERIALIZATION if is_made else DagsterEventType.ASSET_OBSERVATION
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level="debug",
        user_message="",
        run_id=RUNLESS_RUN_ID,
        timestamp=timestamp,
        job_name=RUNLESS_JOB_NAME,
        dagster_event=DagsterEvent(
            event_type_value=kind.value,
            job_name=RUNLESS_JOB_NAME,
            event_specific_data=StepMaterializationData(event)
            if isinstance(event, AssetMaterialization)
            else AssetObservationData(event),
        ),
    )
