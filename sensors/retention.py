"""Retention: deletes old runs and logs and, if the settings say so, videos and crop images; archives old recordings.

The latest materializations of every recording and the events that they depend on stay, so asset status and staleness
are unaffected. Rows stay queryable.
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
    RunRecord,
    RunsFilter,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from resources.dagster_instance.dagster_names import FINISHED_STATUSES, input_event_pointer_tag
from resources.dagster_instance.private_api import run_events_file
from resources.schema.recording_tables import RECORDINGS
from resources.schema.track_tables import CROPS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from sensors.recording_states import RecordingState, RecordingStates, read_recording_states

_DAY_S = 86_400.0
_PAGE_SIZE = 1000
_MAX_RUNS = 5000
_LEFTOVER_AFTER_S = _DAY_S  # no live process can still be writing a file this old
_VIDEO_ASSET, _CROPS_ASSET = "normalized_video", CROPS.name


@dataclass(frozen=True)
class RequiredHistory:
    """The part of Dagster's history that must stay.

    Attributes:
        run_ids: Runs with a latest materialization, with one that it depends on, or with the latest failed attempt.
        materialized_at_s: Time of the latest materialization by (asset, recording), in seconds since 1970.
    """

    run_ids: frozenset[str]
    materialized_at_s: Mapping[tuple[str, str], float]

    def recordings_older_than(self, asset_name: str, before_s: float) -> set[str]:
        """Recordings whose latest materialization of an asset is older than a time."""
        return {
            recording_id
            for (name, recording_id), at_s in self.materialized_at_s.items()
            if name == asset_name and at_s < before_s
        }


@dataclass
class DeletionCounts:
    """How much one run of retention deleted.

    Attributes:
        runs: Deleted runs.
        videos: Deleted normalized videos.
        recordings_without_images: Recordings whose crop images were deleted.
        leftovers: Deleted leftover files and folders of crashed runs.
        archived: Archived recordings.
    """

    runs: int = 0
    videos: int = 0
    recordings_without_images: int = 0
    leftovers: int = 0
    archived: int = 0

    @property
    def sentence(self) -> str:
        """The counts in one sentence."""
        return (
            f"Deleted {self.runs} runs, the videos of {self.videos} recordings, the crop images of "
            f"{self.recordings_without_images} recordings and {self.leftovers} leftover files of crashed runs; "
            f"archived {self.archived} recordings."
        )


def delete_old_data(
    instance: DagsterInstance, store: Store, graph: AssetGraph, now: float | None = None
) -> DeletionCounts:
    """Delete all data older than the settings allow.

    May be stopped at any time, and may run while the pipeline works.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
        now: Seconds since 1970; None means the current time.

    Raises:
        PipelineError: The data folder cannot be written.
    """
    now, settings, counts = time.time() if now is None else now, graph.settings.retention, DeletionCounts()
    required = find_required_history(instance, graph)
    if settings.runs_after_days is not None:
        for record in _runs_ended_before(instance, now - settings.runs_after_days * _DAY_S):
            if record.dagster_run.run_id not in required.run_ids and counts.runs < _MAX_RUNS:
                _delete_run(instance, record.dagster_run.run_id)
                counts.runs += 1
    if settings.logs_after_days is not None:
        for record in _runs_ended_before(instance, now - settings.logs_after_days * _DAY_S):
            _delete_logs(instance, record.dagster_run.run_id)
    states = {state.recording_id: state for state in read_recording_states(instance, store, graph).states}
    idle = {recording_id for recording_id, state in states.items() if not state.is_in_flight}
    if settings.media_after_days is not None:
        before_s = now - settings.media_after_days * _DAY_S
        counts.videos = _delete_videos(store, required.recordings_older_than(_VIDEO_ASSET, before_s) & idle)
    if settings.crops_after_days is not None:
        before_s = now - settings.crops_after_days * _DAY_S
        old_ids = required.recordings_older_than(_CROPS_ASSET, before_s) & idle
        counts.recordings_without_images = _delete_crop_images(store, old_ids)
    if settings.archive_after_days is not None:
        before_s, max_attempts = now - settings.archive_after_days * _DAY_S, graph.settings.batches.max_attempts
        recent = {recording_id for (_, recording_id), at_s in required.materialized_at_s.items() if at_s >= before_s}
        done = {recording_id for recording_id, state in states.items() if state.is_done(max_attempts)}
        counts.archived = _archive_recordings(instance, store, done - recent)
    counts.leftovers = _delete_leftovers(store, graph, states, now - _LEFTOVER_AFTER_S)
    for table in store.tables():
        store.vacuum(table)
    return counts


def find_required_history(instance: DagsterInstance, graph: AssetGraph) -> RequiredHistory:
    """Find the runs that must stay, from every materialization and every failed attempt."""
    specs = [spec for assets in graph.assets for spec in assets.specs]
    histories = {spec.key: _History.read(instance, spec.key, {dep.asset_key for dep in spec.deps}) for spec in specs}
    run_ids: set[str] = set()
    for spec in specs:
        for recording_id, inputs in histories[spec.key].inputs.items():
            run_ids.add(histories[spec.key].events[recording_id][0].run_id)
            for key, storage_id in inputs.items():
                events = histories[key].events.get(recording_id, []) if key in histories else []
                # The newest event at that time, the same that sensors/staleness.py finds.
                run_ids.update(event.run_id for event in [e for e in events if e.storage_id <= storage_id][:1])
        failed_attempts = (
            instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
                spec.key
            )
        )
        run_ids.update(run_id for run_id, _ in failed_attempts.values())
    materialized_at_s = {
        (key.to_user_string(), recording_id): events[0].at_s
        for key, history in histories.items()
        for recording_id, events in history.events.items()
    }
    return RequiredHistory(frozenset(run_ids), materialized_at_s)


@dataclass(frozen=True)
class _Materialization:
    """One materialization: its event's storage id, its run, and its time in seconds since 1970."""

    storage_id: int
    run_id: str
    at_s: float


@dataclass(frozen=True)
class _History:
    """The materializations of one asset.

    Attributes:
        events: Materializations by recording, newest first.
        inputs: By recording, the storage ids of the inputs of the newest one, by upstream asset.
    """

    events: dict[str, list[_Materialization]] = field(default_factory=dict)
    inputs: dict[str, dict[AssetKey, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, instance: DagsterInstance, key: AssetKey, upstream: Collection[AssetKey]) -> "_History":
        history = cls()
        run_ids: dict[str, str] = {}
        cursor: str | None = None
        while True:
            page = instance.fetch_materializations(AssetRecordsFilter(asset_key=key), limit=_PAGE_SIZE, cursor=cursor)
            for record in page.records:
                event = record.asset_materialization
                if event is None or event.partition is None:
                    continue
                run_id = run_ids.setdefault(record.run_id, record.run_id)  # all events of a run share one string
                materialization = _Materialization(record.storage_id, run_id, record.timestamp)
                history.events.setdefault(event.partition, []).append(materialization)
                if event.partition not in history.inputs:
                    tags = event.tags or {}
                    pointers = {dep: tags.get(input_event_pointer_tag(dep), "") for dep in upstream}
                    history.inputs[event.partition] = {
                        dep: int(pointer) for dep, pointer in pointers.items() if pointer.isdigit()
                    }
            cursor = page.cursor
            if not page.has_more:
                return history


def _runs_ended_before(instance: DagsterInstance, before_s: float) -> Iterator[RunRecord]:
    cursor: str | None = None
    while True:
        records = instance.get_run_records(RunsFilter(statuses=FINISHED_STATUSES), limit=_PAGE_SIZE, cursor=cursor)
        for record in records:
            if (record.end_time or record.update_timestamp.timestamp()) < before_s:
                yield record
        if len(records) < _PAGE_SIZE:
            return
        cursor = records[-1].dagster_run.run_id


def _delete_run(instance: DagsterInstance, run_id: str) -> None:
    _delete_logs(instance, run_id)
    instance.delete_run(run_id)
    if events_file := run_events_file(instance, run_id):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{events_file}{suffix}").unlink(missing_ok=True)


def _delete_logs(instance: DagsterInstance, run_id: str) -> None:
    """Delete the captured stdout and stderr of a run's steps; its events stay."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])


def _delete_videos(store: Store, recording_ids: Collection[str]) -> int:
    """Delete normalized videos, except those that are references to the source file; returns how many."""
    rows = store.read(RECORDINGS, columns=["recording_id", "video_path"]).to_pylist()
    videos = {
        row["recording_id"]: store.data_folder / row["video_path"]
        for row in rows
        if row["recording_id"] in recording_ids and row["video_path"]
    }
    own_videos = {
        recording_id: path for recording_id, path in videos.items() if path.is_relative_to(store.media_folder)
    }
    if own_videos:
        # The rows first, so that no row ever names a missing video; after a kill the files are leftovers.
        store.update(RECORDINGS, list(own_videos), {"video_path": None})
    for path in own_videos.values():
        path.unlink(missing_ok=True)
    return len(own_videos)


def _delete_crop_images(store: Store, recording_ids: Collection[str]) -> int:
    """Delete the images of crops, and keep their rows; returns how many recordings had any."""
    if not recording_ids:
        return 0
    with_images = store.scan(CROPS, sorted(recording_ids)).filter(pc.field("jpeg").is_valid())
    affected = with_images.to_table(columns=["recording_id"])["recording_id"].unique().to_pylist()
    if affected:
        # Read without the images, which are far larger than all other columns.
        rows = store.read(CROPS, affected, [name for name in CROPS.arrow_schema.names if name != "jpeg"])
        store.replace(CROPS, affected, rows.append_column("jpeg", pa.nulls(rows.num_rows, pa.binary())))
    return len(affected)


def _archive_recordings(instance: DagsterInstance, store: Store, recording_ids: Collection[str]) -> int:
    """Delete the partitions of recordings, and keep all their rows; returns how many."""
    index = SourceIndex(store)
    files = index.load()
    sources = {path: file for path, file in files.items() if file.recording_id in recording_ids}
    if not sources:
        return 0
    # The files first, so that the watched-folder sensor does not add the partitions again.
    archived = {path: replace(file, state="archived") for path, file in sources.items() if file.state == "known"}
    index.save((files | archived).values())
    partitions = set(instance.get_dynamic_partitions(recordings_partitions.name or "")) & set(recording_ids)
    for recording_id in partitions:
        instance.delete_dynamic_partition(recordings_partitions.name or "", recording_id)
    return len(partitions)


def _delete_leftovers(store: Store, graph: AssetGraph, states: Mapping[str, RecordingState], before_s: float) -> int:
    """Delete checkpoints of finished work and media files that no row names: crashed runs leave them."""
    count = 0
    for entry in (store.data_folder / "unfinished").glob("*/*"):
        state = states.get(entry.name)
        is_needed = state is not None and (
            state.is_in_flight or graph.last_of_step.get(entry.parent.name) in state.missing
        )
        if is_needed or entry.stat().st_mtime >= before_s:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)  # the crash marker of a run
        count += 1
    rows = store.read(RECORDINGS, columns=["recording_id", "video_path"]).to_pylist()
    referenced = {store.data_folder / row["video_path"] for row in rows if row["video_path"]}
    for file in store.media_folder.glob("*/*"):
        state = states.get(file.parent.name)
        is_needed = file in referenced or (state is not None and state.is_in_flight)
        if not is_needed and file.is_file() and file.stat().st_mtime < before_s:
            file.unlink(missing_ok=True)
            count += 1
    return count


def remove_replaced_recordings(instance: DagsterInstance, store: Store, states: RecordingStates) -> list[str]:
    """Remove the results of rejected recordings that no longer have a file.

    They were ingested while their file was still growing. The recording of the complete file replaces them: with both,
    its objects would be counted twice. Their rows in `recordings` stay, with the reason of the rejection.

    Args:
        instance: Dagster's instance.
        store: The tables.
        states: The states of all recordings.

    Returns:
        The recordings that were removed now.
    """
    rejected = [state.recording_id for state in states.states if state.is_rejected and not state.is_in_flight]
    if not rejected:
        return []
    with_file = {file.recording_id for file in SourceIndex(store).load(rejected).values()}
    replaced = sorted(set(rejected) - with_file)
    if not replaced:
        return []
    rows = store.read(RECORDINGS, replaced).to_pylist()
    columns = ("recording_id", "status", "error", "camera", "source_path", "fingerprint", "size_bytes", "mtime_utc")
    identity_rows = [{name: row[name] for name in columns} for row in rows]
    for table in store.tables():
        if table.per_recording:
            remaining = pa.Table.from_pylist(identity_rows if table is RECORDINGS else [], table.arrow_schema)
            store.replace(table, replaced, remaining)
    for recording_id in replaced:
        shutil.rmtree(store.media_folder / recording_id, ignore_errors=True)
        instance.delete_dynamic_partition(recordings_partitions.name or "", recording_id)
    return replaced
