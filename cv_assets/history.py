"""Dagster's history on the move: between SQLite in the data folder and PostgreSQL, so that nothing is made again.

What is taken along is what decides whether work is done: the partitions, and of every asset and recording the newest
materialization with its versions and metadata. Runs, ticks and logs stay where they were.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dagster import AssetKey, AssetMaterialization
from dagster._core.definitions.data_version import get_input_event_pointer_tag
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from cv_assets.stage import recordings_partitions
from cv_assets.staleness import Made, materializations, version_read
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
    wanted = set(recording_ids)
    made = {spec.key: materializations(source.event_log_storage, spec.key, wanted) for a in WALK for spec in a.specs}
    copied: set[str] = set()
    numbers: dict[AssetKey, dict[str, int]] = {}
    for key, histories in made.items():
        have = materializations(target.event_log_storage, key, wanted)
        newer = {
            recording_id: history[0]
            for recording_id, history in histories.items()
            if recording_id not in have or have[recording_id][0].timestamp < history[0].timestamp
        }
        events = [
            _event(newest, _pointers(newest, recording_id, made, numbers))
            # In the order of their making: the newest of an asset stays the newest.
            for recording_id, newest in sorted(newer.items(), key=lambda item: item[1].number)
        ]
        for start in range(0, len(events), _EVENTS_A_WRITE):
            target.event_log_storage.store_event_batch(events[start : start + _EVENTS_A_WRITE])
        copied |= set(newer)
        have = materializations(target.event_log_storage, key, wanted) if newer else have
        numbers[key] = {recording_id: history[0].number for recording_id, history in have.items()}
    return len(copied)


def _pointers(
    newest: Made,
    recording_id: str,
    made: dict[AssetKey, dict[str, list[Made]]],
    numbers: dict[AssetKey, dict[str, int]],
) -> Iterator[tuple[str, str]]:
    """The tags that number a materialization's inputs, with the target's numbers; 0 for one made anew since."""
    for key in made:
        tag = get_input_event_pointer_tag(key)
        if tag in newest.tags:
            upstream = made[key].get(recording_id, [])
            is_current = bool(upstream) and version_read(newest.tags, key, upstream) == upstream[0].version
            yield tag, str(numbers[key][recording_id] if is_current else 0)


def _event(newest: Made, pointers: Iterator[tuple[str, str]]) -> EventLogEntry:
    event = newest.event
    moved = AssetMaterialization(
        event.asset_key,
        description=event.description,
        metadata=event.metadata,
        partition=event.partition,
        tags={**newest.tags, **dict(pointers)},
    )
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level="debug",
        user_message="",
        run_id=RUNLESS_RUN_ID,
        timestamp=newest.timestamp,
        job_name=RUNLESS_JOB_NAME,
        dagster_event=DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=RUNLESS_JOB_NAME,
            event_specific_data=StepMaterializationData(moved),
        ),
    )
