"""What is removed after some days: runs that nothing refers to any more, logs, and by setting videos and pictures.

What a recording's newest materializations are and what they were made from stays, so that nothing ever looks as if it
had not been made, or as if it were stale. Rows stay queryable.
"""

import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    OpExecutionContext,
    ResourceParam,
    RunRecord,
    RunsFilter,
    job,
    op,
)
from dagster._core.definitions.data_version import get_input_event_pointer_tag
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from cv_assets.outstanding import RecordingState, observe
from cv_assets.partitions import recordings_partitions
from cv_assets.walk import LAST_OF_STEP, WALK
from resources.run_coordinator import HOUSEKEEPING_TAG
from resources.schema import CROPS, RECORDINGS
from resources.settings import Settings
from resources.storage import Store
from resources.watched_folder import SourceIndex

_DAY_S = 86_400.0
_PAGE = 1000
_MAX_RUNS = 5000
_LEFTOVER_AFTER_S = _DAY_S  # nobody can still be writing it
VIDEO, PICTURES = "normalized_video", CROPS.name


@dataclass(frozen=True)
class Needed:
    """What must stay.

    Attributes:
        run_ids: Runs that hold a newest materialization, what it was made from, or the newest attempt at what failed.
        made_at: When an asset of a recording was made last, in seconds since 1970, by (asset, recording).
    """

    run_ids: frozenset[str]
    made_at: Mapping[tuple[str, str], float]


@dataclass
class Removed:
    """How much went."""

    runs: int = 0
    videos: int = 0
    pictures_of: int = 0
    leftovers: int = 0
    closed: int = 0

    @property
    def told(self) -> str:
        """One sentence."""
        return (
            f"Removed {self.runs} runs, the videos of {self.videos} recordings, the pictures of {self.pictures_of}, "
            f"and {self.leftovers} leftovers of unfinished work; closed {self.closed} recordings."
        )


def prune(instance: DagsterInstance, store: Store, settings: Settings, now: float | None = None) -> Removed:
    """Remove what is older than the settings say.

    May be stopped at any time, and run beside all other work.

    Args:
        instance: Dagster's instance.
        store: The tables.
        settings: The settings in force.
        now: Seconds since 1970; None means the clock.

    Raises:
        PipelineError: The data folder cannot be written.
    """
    now, wanted, removed = time.time() if now is None else now, settings.retention, Removed()
    needed = find_needed(instance)
    if wanted.runs_after_days is not None:
        for record in _ended(instance, now - wanted.runs_after_days * _DAY_S):
            if record.dagster_run.run_id not in needed.run_ids and removed.runs < _MAX_RUNS:
                _delete_run(instance, record.dagster_run.run_id)
                removed.runs += 1
    if wanted.logs_after_days is not None:
        for record in _ended(instance, now - wanted.logs_after_days * _DAY_S):
            _delete_logs(instance, record.dagster_run.run_id)
    states = {state.recording_id: state for state in observe(instance, store).states}
    resting = {recording_id for recording_id, state in states.items() if not state.is_in_flight}
    if wanted.media_after_days is not None:
        before = now - wanted.media_after_days * _DAY_S
        removed.videos = _remove_videos(store, _old(needed, VIDEO, before) & resting)
    if wanted.crops_after_days is not None:
        before = now - wanted.crops_after_days * _DAY_S
        removed.pictures_of = _remove_pictures(store, _old(needed, PICTURES, before) & resting)
    if wanted.close_after_days is not None:
        before, most = now - wanted.close_after_days * _DAY_S, settings.batches.max_attempts
        young = {recording_id for (_, recording_id), at in needed.made_at.items() if at >= before}
        done = {recording_id for recording_id, state in states.items() if state.is_done(most)}
        removed.closed = _close(instance, store, done - young)
    removed.leftovers = _remove_leftovers(store, states, now - _LEFTOVER_AFTER_S)
    for table in store.tables():
        store.vacuum(table)
    return removed


def find_needed(instance: DagsterInstance) -> Needed:
    """Look at every materialization and every failed attempt for what must stay."""
    specs = [spec for assets in WALK for spec in assets.specs]
    histories = {spec.key: _History.of(instance, spec.key) for spec in specs}
    run_ids: set[str] = set()
    for spec in specs:
        for recording_id, read in histories[spec.key].read.items():
            run_ids.add(histories[spec.key].made[recording_id][0].run_id)
            for key, number in read.items():
                made = histories[key].made.get(recording_id, []) if key in histories else []
                # The newest at the time, as cv_assets/staleness.py looks it up.
                run_ids.update(one.run_id for one in [m for m in made if m.number <= number][:1])
        tried = instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
            spec.key
        )
        run_ids.update(run_id for run_id, _ in tried.values())
    made_at = {
        (key.to_user_string(), recording_id): made[0].at
        for key, history in histories.items()
        for recording_id, made in history.made.items()
    }
    return Needed(frozenset(run_ids), made_at)


@dataclass(frozen=True)
class _Made:
    number: int
    run_id: str
    at: float


@dataclass(frozen=True)
class _History:
    """An asset's materializations by recording, newest first, and the event numbers that the newest was made from."""

    made: dict[str, list[_Made]] = field(default_factory=dict)
    read: dict[str, dict[AssetKey, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, instance: DagsterInstance, key: AssetKey) -> "_History":
        found = cls()
        upstream = {dep.asset_key for assets in WALK for spec in assets.specs if spec.key == key for dep in spec.deps}
        run_ids: dict[str, str] = {}
        cursor: str | None = None
        while True:
            page = instance.fetch_materializations(AssetRecordsFilter(asset_key=key), limit=_PAGE, cursor=cursor)
            for record in page.records:
                event = record.asset_materialization
                if event is None or event.partition is None:
                    continue
                run_id = run_ids.setdefault(record.run_id, record.run_id)  # one text for all that share it
                found.made.setdefault(event.partition, []).append(_Made(record.storage_id, run_id, record.timestamp))
                if event.partition not in found.read:
                    tags = event.tags or {}
                    numbers = {one: tags.get(get_input_event_pointer_tag(one), "") for one in upstream}
                    found.read[event.partition] = {one: int(n) for one, n in numbers.items() if n.isdigit()}
            cursor = page.cursor
            if not page.has_more:
                return found


def _ended(instance: DagsterInstance, before: float) -> Iterator[RunRecord]:
    """Runs that ended before a time."""
    cursor: str | None = None
    while True:
        records = instance.get_run_records(RunsFilter(statuses=FINISHED_STATUSES), limit=_PAGE, cursor=cursor)
        for record in records:
            if (record.end_time or record.update_timestamp.timestamp()) < before:
                yield record
        if len(records) < _PAGE:
            return
        cursor = records[-1].dagster_run.run_id


def _delete_run(instance: DagsterInstance, run_id: str) -> None:
    _delete_logs(instance, run_id)
    instance.delete_run(run_id)
    from dagster._core.storage.event_log import SqliteEventLogStorage  # half a second that only this job needs

    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        # Its events lay in a file of their own, which Dagster empties and leaves.
        for ending in ("", "-wal", "-shm"):
            Path(f"{storage.path_for_shard(run_id)}{ending}").unlink(missing_ok=True)


def _delete_logs(instance: DagsterInstance, run_id: str) -> None:
    """Remove what the steps of a run wrote to their outputs; its events stay."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])


def _old(needed: Needed, asset_name: str, before: float) -> set[str]:
    """Recordings of which an asset was made before a time, and not since."""
    return {recording_id for (name, recording_id), at in needed.made_at.items() if name == asset_name and at < before}


def _remove_videos(store: Store, recording_ids: Collection[str]) -> int:
    """Remove normalized videos; those that are only references to their source stay."""
    rows = store.read(RECORDINGS, columns=["recording_id", "video_path"]).to_pylist()
    videos = {
        row["recording_id"]: store.data_folder / row["video_path"]
        for row in rows
        if row["recording_id"] in recording_ids and row["video_path"]
    }
    own = {recording_id: path for recording_id, path in videos.items() if path.is_relative_to(store.media_folder)}
    if own:
        # First the row, so that no row ever names a video that is gone; a file left by a kill is a leftover.
        store.update(RECORDINGS, list(own), {"video_path": None})
    for path in own.values():
        path.unlink(missing_ok=True)
    return len(own)


def _remove_pictures(store: Store, recording_ids: Collection[str]) -> int:
    """Remove the pictures of crops; their rows stay."""
    if not recording_ids:
        return 0
    having = store.scan(CROPS, sorted(recording_ids)).filter(pc.field("jpeg").is_valid())
    found = having.to_table(columns=["recording_id"])["recording_id"].unique().to_pylist()
    if found:
        # Read without the pictures, which are far larger than all the rest.
        rows = store.read(CROPS, found, [name for name in CROPS.arrow_schema.names if name != "jpeg"])
        store.replace(CROPS, found, rows.append_column("jpeg", pa.nulls(rows.num_rows, pa.binary())))
    return len(found)


def _close(instance: DagsterInstance, store: Store, recording_ids: Collection[str]) -> int:
    """Let Dagster forget recordings that are done: all their rows stay, but they are no partitions any more."""
    index = SourceIndex(store)
    files = index.load()
    holders = {path: file for path, file in files.items() if file.recording_id in recording_ids}
    if not holders:
        return 0
    # First the files, so that the watched folder does not make partitions of them again.
    closed = {path: replace(file, state="closed") for path, file in holders.items() if file.state == "known"}
    index.save((files | closed).values())
    known = set(instance.get_dynamic_partitions(recordings_partitions.name or "")) & set(recording_ids)
    for recording_id in known:
        instance.delete_dynamic_partition(recordings_partitions.name or "", recording_id)
    return len(known)


def _remove_leftovers(store: Store, states: Mapping[str, RecordingState], before: float) -> int:
    """Remove parts of work that is finished since, and files that no row names: kills leave them behind."""
    count = 0
    for folder in (store.data_folder / "unfinished").glob("*/*"):
        state = states.get(folder.name)
        is_wanted = state is not None and (state.is_in_flight or LAST_OF_STEP.get(folder.parent.name) in state.missing)
        if is_wanted or folder.stat().st_mtime >= before:
            continue
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)  # the note of a run that died
        count += 1
    rows = store.read(RECORDINGS, columns=["recording_id", "video_path"]).to_pylist()
    named = {store.data_folder / row["video_path"] for row in rows if row["video_path"]}
    for file in store.media_folder.glob("*/*"):
        state = states.get(file.parent.name)
        is_wanted = file in named or (state is not None and state.is_in_flight)
        if not is_wanted and file.is_file() and file.stat().st_mtime < before:
            file.unlink(missing_ok=True)
            count += 1
    return count


@op(description="Removes what is older than the settings say, at retention.")
def remove_old(context: OpExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]) -> None:
    """Remove what is old."""
    context.log.info(prune(context.instance, store, settings).told)


@job(
    name="retention",
    description="Removes runs that nothing refers to, logs and, by setting, videos and pictures. Rows stay.",
    tags=HOUSEKEEPING_TAG,
)
def retention_job() -> None:
    """One step."""
    remove_old()
