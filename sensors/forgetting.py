"""Forgetting: deletes everything that was computed from recordings, for good, and keeps their files from coming back.

Files in the watched folder are only read. May run while the pipeline works; after a kill the next call completes it.
"""

import difflib
import shutil
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, RunsFilter

from cv_assets.asset_graph import AssetGraph
from cv_assets.crash_marker import delete_crash_marker
from cv_assets.partitions import recordings_partitions
from resources.clips.synopsis_file import delete_synopsis
from resources.config.settings import Settings
from resources.dagster_instance.dagster_names import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from resources.errors import PipelineError
from resources.forgotten_files import (
    drop_recording_ids,
    find_forgotten,
    mark_forgotten,
    partly_forgotten,
)
from resources.privacy_copy_file import privacy_copy_path
from resources.schema.operations_tables import KEPT_RECORDINGS, NOTIFICATIONS, STAGE_RUNS
from resources.schema.recording_tables import RECORDINGS, SOURCE_FILES
from resources.schema.track_tables import TRACK_LINKS
from resources.source_index import SourceFile, SourceIndex
from resources.start_times import CLOCK_COLUMNS, recording_start
from resources.storage.delta_store import Store
from resources.storage.erasure import erase_old_files
from resources.storage.locks import exclusive_lock
from resources.storage.recording_rows import read_recording_rows
from resources.storage.results_database import publish, remove_old_publications
from resources.storage.stage_runs import StageRun, append_stage_runs, later_than, newest_stage_runs
from resources.storage.vector_index import remove_indexes
from sensors.adoption import register_materializations
from sensors.lost_results import add_missing_partitions
from sensors.recording_states import read_unfinished_runs
from sensors.retention import delete_run, kept_recordings
from sensors.retries import recordings_of_run

_PORTION_SIZE = 200  # recordings whose rows are deleted in one commit
_REQUESTER = "forget"
_PAGE_SIZE = 100  # materializations; their metadata contain pictures


def known_recordings(instance: DagsterInstance, store: Store) -> set[str]:
    """Ids of all recordings that have rows, a file or a partition."""
    in_tables = (
        store.read(table, columns=["recording_id"])["recording_id"].unique().to_pylist()
        for table in (RECORDINGS, STAGE_RUNS)
    )
    in_folder = (file.recording_id for file in SourceIndex(store).load().values())
    partitions = instance.get_dynamic_partitions(recordings_partitions.name or "")
    return {recording_id for ids in (*in_tables, in_folder, partitions) for recording_id in ids if recording_id}


def check_known(recording_ids: Sequence[str], known: Collection[str], store: Store) -> None:
    """Check that recordings are known.

    Raises:
        PipelineError: One is not: it was forgotten before, or the error has the nearest id.
    """
    files = SourceIndex(store).load()
    for recording_id in recording_ids:
        if recording_id not in known:
            if find_forgotten(files, recording_id):
                raise PipelineError(f"{recording_id}: the recording was forgotten before.")
            nearest = difflib.get_close_matches(recording_id, known, n=1)
            remedy = f"did you mean {nearest[0]}?" if nearest else "the column recording_id of recordings has all ids."
            raise PipelineError(f"{recording_id}: no recording has this id; {remedy}")


def check_camera(store: Store, camera: str) -> None:
    """Check that a camera has recordings.

    Raises:
        PipelineError: No recording is of this camera; the error names the cameras.
    """
    cameras = {file.camera or "" for file in SourceIndex(store).load().values()}
    cameras |= {name or "" for name in store.read(RECORDINGS, columns=["camera"])["camera"].unique().to_pylist()}
    if camera not in cameras:
        names = ", ".join(sorted(repr(name) for name in cameras)) or "none"
        raise PipelineError(f"--camera {camera!r}: no recording is of this camera; there are: {names}.")


def find_recordings(store: Store, settings: Settings, camera: str | None, before: datetime | None) -> list[str]:
    """Find the recordings of a camera, or those that began before a time, or both.

    Args:
        store: The tables.
        settings: The clocks of the cameras.
        camera: The camera, "" for the recordings directly in the watched folder; None means all cameras.
        before: A time; of a file without a start time, its mtime counts. None means any time.

    Returns:
        Ids of the recordings, in the order of their starts.
    """
    starts: dict[str, tuple[str | None, datetime]] = {}
    for file in SourceIndex(store).load().values():
        if file.recording_id:
            starts[file.recording_id] = file.camera, datetime.fromtimestamp(file.mtime_ns / 1e9, UTC)
    for recording_id, row in read_recording_rows(store, None, CLOCK_COLUMNS).items():
        start = recording_start(row, settings)
        starts[recording_id] = row["camera"], start[0] if start else row["mtime_utc"]
    selected = {
        recording_id: started_at
        for recording_id, (its_camera, started_at) in starts.items()
        if camera in (None, its_camera or "") and (before is None or started_at < before)
    }
    return sorted(selected, key=lambda recording_id: (selected[recording_id], recording_id))


def keep_recordings(store: Store, recording_ids: Sequence[str], reason: str | None) -> None:
    """Keep retention and forgetting from deleting some recordings.

    Args:
        store: The tables.
        recording_ids: The recordings.
        reason: Why, in a person's words; None leaves the reason of a recording that is kept already.
    """
    known = {row["recording_id"]: row for row in store.read(KEPT_RECORDINGS, recording_ids).to_pylist()}
    now = datetime.now(UTC)
    rows = [
        known[name]
        if name in known and reason is None
        else {"recording_id": name, "reason": reason, "kept_since_utc": now}
        for name in recording_ids
    ]
    store.replace(KEPT_RECORDINGS, recording_ids, pa.Table.from_pylist(rows, KEPT_RECORDINGS.arrow_schema))


def release_recordings(store: Store, recording_ids: Sequence[str]) -> None:
    """Allow retention and forgetting to delete some recordings again."""
    store.replace(KEPT_RECORDINGS, recording_ids, KEPT_RECORDINGS.empty)


def interrupted_recordings(store: Store) -> set[str]:
    """Recordings that an interrupted call has begun to delete."""
    return partly_forgotten(SourceIndex(store).load())


def forget_recordings(instance: DagsterInstance, store: Store, graph: AssetGraph, recording_ids: Sequence[str]) -> None:
    """Delete recordings: rows, videos, crops, partitions, and the runs in Dagster that processed them.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
        recording_ids: The recordings.

    Raises:
        PipelineError: A recording is kept, or an unfinished run contains one; or the data folder cannot be written.
    """
    partitions = list(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    if kept := sorted(kept_recordings(store) & set(recording_ids)):
        raise PipelineError(f"{kept[0]}: the recording is kept; cv-assets keep --undo {kept[0]} ends that.")
    _check_no_run_contains(instance, recording_ids, partitions)
    _mark_files(instance, store, recording_ids)
    # Once more, because until its partition was deleted, a run may have been requested for the recording.
    _check_no_run_contains(instance, recording_ids, partitions)
    for start in range(0, len(recording_ids), _PORTION_SIZE):
        portion = recording_ids[start : start + _PORTION_SIZE]
        _delete_history(instance, store, graph, portion)
        _unlink(instance, store, graph, portion)
        _delete_rows(store, portion)
        _delete_files(store, portion)
    publish(store, graph.settings)
    store.sync()
    for table in store.tables():
        if table.per_recording:
            erase_old_files(store, table, "recording_id", recording_ids)
    erase_old_files(store, TRACK_LINKS, "previous_recording_id", recording_ids)
    erase_old_files(store, NOTIFICATIONS, "subject", recording_ids)
    remove_old_publications(store.data_folder)
    remove_indexes(store.data_folder)
    _check_no_run_contains(instance, recording_ids, partitions)
    if written := sorted(_recordings_with_rows(store, recording_ids)):
        raise PipelineError(
            f"{written[0]}: a run has stored rows of the recording meanwhile: run the same command again."
        )
    index = SourceIndex(store)
    with index.lock():
        index.save(drop_recording_ids(index.load(), recording_ids).values())
    publish(store, graph.settings)
    store.sync()
    # Only the ids are left in these: nothing has to be completed if a kill prevents it.
    erase_old_files(store, SOURCE_FILES, "recording_id", recording_ids)
    remove_old_publications(store.data_folder)


def ingest_again(store: Store, name: str) -> list[str]:
    """Remove the marks of the files of a forgotten recording, so that they are ingested again.

    Args:
        store: The tables.
        name: The recording's id, or the path of one of its files.

    Returns:
        The paths of the files.

    Raises:
        PipelineError: No file of the recording is known, or it is only partly forgotten.
    """
    index = SourceIndex(store)
    with index.lock():
        files = index.load()
        forgotten = find_forgotten(files, name)
        if not forgotten:
            raise PipelineError(
                f"{name}: no forgotten file has this recording_id or path; source_files has them with state forgotten."
            )
        if ids := partly_forgotten(forgotten):
            raise PipelineError(
                f"{name}: the recording is only partly forgotten: run cv-assets forget {min(ids)} first."
            )
        index.save(file for path, file in files.items() if path not in forgotten)
    return list(forgotten)


def _check_no_run_contains(instance: DagsterInstance, recording_ids: Sequence[str], partitions: Sequence[str]) -> None:
    """Check that no unfinished run processes any of the recordings.

    Args:
        instance: Dagster's instance.
        recording_ids: The recordings.
        partitions: All recordings in partition order, including those whose partitions were deleted since.

    Raises:
        PipelineError: A run does.
    """
    ids = set(recording_ids)
    for run in read_unfinished_runs(instance):
        in_run = [recording_id for recording_id in recordings_of_run(run, partitions) if recording_id in ids]
        if in_run:
            raise PipelineError(
                f"{in_run[0]}: the run {run.run_id[:8]} contains the recording: cancel it in the UI or wait until it "
                "has ended, then run the same command again."
            )


def _mark_files(instance: DagsterInstance, store: Store, recording_ids: Sequence[str]) -> None:
    """Mark the files of the recordings, and delete their partitions, so that nothing ingests or processes them."""
    reason = f"Forgotten on {datetime.now(UTC):%Y-%m-%d}; cv-assets forget --undo allows to ingest the file again."
    names = ["recording_id", "camera", "source_path", "fingerprint", "size_bytes", "mtime_utc"]
    recordings = {
        row["recording_id"]: SourceFile(
            row["source_path"],
            row["size_bytes"],
            round(row["mtime_utc"].timestamp() * 1e6) * 1000,
            row["recording_id"],
            row["fingerprint"],
            "known",
            None,
            row["camera"],
        )
        for row in store.read(RECORDINGS, recording_ids, names).to_pylist()
    }
    index = SourceIndex(store)
    with index.lock():
        files = index.load()
        of_files = {file.recording_id: file for file in files.values() if file.recording_id in set(recording_ids)}
        index.save(mark_forgotten(files, [*(recordings | of_files).values()], reason).values())
        name = recordings_partitions.name or ""
        for recording_id in set(instance.get_dynamic_partitions(name)) & set(recording_ids):
            instance.delete_dynamic_partition(name, recording_id)


def _delete_history(instance: DagsterInstance, store: Store, graph: AssetGraph, recording_ids: Sequence[str]) -> None:
    """Delete the runs that processed the recordings, whose events contain pictures of them.

    Other recordings of these runs get their materializations again.
    """
    attempts = store.read(STAGE_RUNS, columns=["recording_id", "run_id"])
    is_of_recording = pc.is_in(attempts["recording_id"], pa.array(recording_ids, pa.string()))
    run_ids = set(attempts.filter(is_of_recording)["run_id"].unique().to_pylist())
    for tag in (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG):
        run_ids.update(instance.get_run_ids(RunsFilter(tags={tag: list(recording_ids)})))
    run_ids.discard("")
    is_in_run = pc.is_in(attempts["run_id"], pa.array(sorted(run_ids), pa.string()))
    in_runs = set(attempts.filter(is_in_run)["recording_id"].unique().to_pylist())
    others = sorted(in_runs & set(instance.get_dynamic_partitions(recordings_partitions.name or "")))
    metadata = _read_metadata(instance, graph, others)
    for run_id in instance.get_run_ids(RunsFilter(run_ids=sorted(run_ids))) if run_ids else ():
        delete_run(instance, store, run_id)
    for run_id in run_ids:
        delete_crash_marker(store, run_id)
    register_materializations(instance, store, graph, others, metadata=metadata)


def _read_metadata(
    instance: DagsterInstance, graph: AssetGraph, recording_ids: Sequence[str]
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Read the metadata of the newest materializations, by asset and recording."""
    metadata: dict[tuple[str, str], Mapping[str, Any]] = {}
    for name in graph.stage_of_asset if recording_ids else ():
        records_filter = AssetRecordsFilter(asset_key=AssetKey(name), asset_partitions=list(recording_ids))
        cursor: str | None = None
        while True:
            page = instance.fetch_materializations(records_filter, limit=_PAGE_SIZE, cursor=cursor)  # newest first
            for record in page.records:
                event = record.asset_materialization
                if event is not None and event.partition is not None:
                    metadata.setdefault((name, event.partition), event.metadata)
            cursor = page.cursor
            if not page.has_more:
                break
    return metadata


def _unlink(instance: DagsterInstance, store: Store, graph: AssetGraph, recording_ids: Sequence[str]) -> None:
    """Delete the links of other recordings to these, and have what depends on the links computed again."""
    ids = pa.array(recording_ids, pa.string())
    links = store.read(TRACK_LINKS, columns=["recording_id", "previous_recording_id"])
    linked = set(links.filter(pc.is_in(links["previous_recording_id"], ids))["recording_id"].to_pylist())
    others = sorted(linked - set(recording_ids))
    if not others:
        return
    stage = graph.stage_of_asset[TRACK_LINKS.name]
    columns = ("recording_id", "stage", "finished_at_utc")
    newest = {
        row["recording_id"]: row["finished_at_utc"]
        for row in newest_stage_runs(store, others, columns=columns).to_pylist()
        if row["stage"] == stage
    }
    append_stage_runs(
        store,
        [StageRun(name, stage, 1, "interrupted", "", later_than(newest.get(name)), _REQUESTER) for name in others],
    )
    add_missing_partitions(instance, others)
    store.filter_rows(TRACK_LINKS, others, lambda rows: pc.invert(pc.is_in(rows["previous_recording_id"], ids)))


def _delete_rows(store: Store, recording_ids: Sequence[str]) -> None:
    """Delete the rows of the recordings from all tables.

    Those of stage_runs first: without them no check of the tables misses the other rows.
    """
    for table in sorted(store.tables(), key=lambda table: table is not STAGE_RUNS):
        if table.per_recording and store.scan(table, recording_ids).count_rows():
            store.replace(table, recording_ids, table.empty)
    ids = pa.array(recording_ids, pa.string())
    with exclusive_lock(store.data_folder, "notifications"):
        store.filter_rows(NOTIFICATIONS, None, lambda rows: pc.invert(pc.is_in(rows["subject"], ids)))


def _recordings_with_rows(store: Store, recording_ids: Sequence[str]) -> set[str]:
    """Those of the recordings that have rows."""
    ids: set[str] = set()
    for table in store.tables():
        if table.per_recording:
            rows = store.scan(table, recording_ids).to_table(["recording_id"])
            ids.update(rows["recording_id"].unique().to_pylist())
    return ids


def _delete_files(store: Store, recording_ids: Sequence[str]) -> None:
    """Delete the normalized videos, the privacy copies, the synopses and the checkpoints of the recordings."""
    for recording_id in recording_ids:
        shutil.rmtree(store.media_folder / recording_id, ignore_errors=True)
        privacy_copy_path(store.data_folder, recording_id).unlink(missing_ok=True)
        delete_synopsis(store.data_folder, recording_id)
        for folder in (store.data_folder / "unfinished").glob("*"):
            shutil.rmtree(folder / recording_id, ignore_errors=True)
