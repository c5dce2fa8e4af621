"""Retention: deletes old runs and logs and, if the settings say so, videos and crop images; archives old recordings.

The runs of the newest attempts and results of every recording stay, and those of their inputs, so asset status and
staleness are unaffected. Rows of results stay queryable. Kept recordings stay as they are.
"""

import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from dagster import DagsterInstance, RunRecord, RunsFilter

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from resources.clips.synopsis_file import delete_synopsis
from resources.dagster_instance.dagster_names import FINISHED_STATUSES
from resources.privacy_copy_file import privacy_copy_path
from resources.schema.audit_tables import AUDIT_ANSWERS
from resources.schema.correction_tables import CORRECTIONS
from resources.schema.operations_tables import KEPT_RECORDINGS, STAGE_RUNS
from resources.schema.privacy_tables import PRIVACY_COPIES
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.schema.track_tables import CROPS
from resources.source_index import SourceIndex
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.stage_runs import decode_input_versions, newest_stage_runs
from sensors.recording_states import RecordingState, RecordingStates, read_recording_states

_DAY_S = 86_400.0
_PAGE_SIZE = 1000
_MAX_RUNS = 5000
_PORTION_SIZE = 2000  # recordings whose rows of stage_runs are deleted in one commit
_LEFTOVER_AFTER_S = _DAY_S  # no live process can still be writing a file this old
_VIDEO_STAGE, _CROPS_STAGE = "normalized_video", "crops"

# Dagster compares the newest materialization of an input with the one that was read. Without the latter it would show
# results as stale that were computed from an equal data version, so that its run must stay, too.
_IS_REQUIRED_SQL = """
WITH numbered AS (
    SELECT *,
        row_number() OVER (PARTITION BY recording_id, stage ORDER BY finished_at_utc DESC, attempt DESC) AS age,
        CASE WHEN data_version IS NOT NULL THEN row_number() OVER (
            PARTITION BY recording_id, stage, data_version IS NOT NULL ORDER BY finished_at_utc DESC, attempt DESC
        ) END AS result_age
    FROM stage_runs
), read_rows AS (
    SELECT input.row_id
    FROM numbered AS output
        JOIN inputs USING (input_versions)
        JOIN numbered AS input ON input.recording_id = output.recording_id AND input.stage = inputs.stage
            AND input.data_version = inputs.data_version
            AND input.finished_at_utc <= coalesce(output.started_at_utc, output.finished_at_utc)
    WHERE output.result_age = 1
    QUALIFY row_number() OVER (
        PARTITION BY output.row_id, inputs.stage ORDER BY input.finished_at_utc DESC, input.attempt DESC
    ) = 1
)
SELECT age = 1 OR coalesce(result_age = 1, FALSE) OR row_id IN (SELECT row_id FROM read_rows) AS is_required
FROM numbered ORDER BY row_id
"""


@dataclass(frozen=True)
class ResultTimes:
    """When the newest results of every recording and stage were stored.

    Attributes:
        rows: The columns `recording_id`, `stage` and `finished_at_utc`.
    """

    rows: pa.Table

    @classmethod
    def read(cls, store: Store) -> "ResultTimes":
        """Read the times from the table stage_runs."""
        return cls(
            newest_stage_runs(store, columns=("recording_id", "stage", "finished_at_utc"), only_materialized=True)
        )

    def recordings_older_than(self, stage_name: str, before_s: float) -> set[str]:
        """Recordings whose newest results of a stage are older than a time, in seconds since 1970."""
        is_old = pc.less(self.rows["finished_at_utc"], _timestamp(before_s))
        is_stage = pc.equal(self.rows["stage"], stage_name)
        return set(self.rows.filter(pc.and_(is_old, is_stage))["recording_id"].to_pylist())

    def recordings_since(self, start_s: float) -> set[str]:
        """Recordings of which any stage has results that are not older than a time, in seconds since 1970."""
        is_recent = pc.greater_equal(self.rows["finished_at_utc"], _timestamp(start_s))
        return set(self.rows.filter(is_recent)["recording_id"].to_pylist())


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
    if settings.runs_after_days is not None:
        counts.runs = _delete_runs(instance, store, graph, now - settings.runs_after_days * _DAY_S)
    if settings.logs_after_days is not None:
        for record in _runs_ended_before(instance, now - settings.logs_after_days * _DAY_S):
            _delete_logs(instance, record.dagster_run.run_id)
    times = ResultTimes.read(store)
    states = {state.recording_id: state for state in read_recording_states(instance, store, graph).states}
    kept = kept_recordings(store)
    idle = {recording_id for recording_id, state in states.items() if not state.is_in_flight} - kept
    if settings.media_after_days is not None:
        before_s = now - settings.media_after_days * _DAY_S
        counts.videos = _delete_videos(store, times.recordings_older_than(_VIDEO_STAGE, before_s) & idle)
    if settings.crops_after_days is not None:
        before_s = now - settings.crops_after_days * _DAY_S
        counts.recordings_without_images = _delete_crop_images(
            store, times.recordings_older_than(_CROPS_STAGE, before_s) & idle
        )
    if settings.archive_after_days is not None:
        recent = times.recordings_since(now - settings.archive_after_days * _DAY_S)
        max_attempts = graph.settings.batches.max_attempts
        done = {recording_id for recording_id, state in states.items() if state.is_done(max_attempts)}
        counts.archived = _archive_recordings(instance, store, done - recent - kept)
    counts.leftovers = _delete_leftovers(store, graph, states, now - _LEFTOVER_AFTER_S)
    for table in store.tables():
        store.vacuum(table)
    return counts


def kept_recordings(store: Store) -> set[str]:
    """Recordings that must not be deleted."""
    return set(store.read(KEPT_RECORDINGS, columns=["recording_id"])["recording_id"].to_pylist())


def is_required(rows: pa.Table, stage_of_asset: Mapping[str, str]) -> pa.ChunkedArray:
    """Which attempts must stay: the newest of each stage, the newest with results, and the inputs of these results.

    Args:
        rows: All rows of `stage_runs` of some recordings.
        stage_of_asset: The stage of each asset.

    Returns:
        A boolean for each row.
    """
    inputs = [
        {"input_versions": text, "stage": stage_of_asset[name], "data_version": version}
        for text in rows["input_versions"].unique().to_pylist()
        for name, version in decode_input_versions(text).items()
        if name in stage_of_asset  # the others are settings of cameras
    ]
    tables = {
        "stage_runs": rows.append_column("row_id", pa.array(range(rows.num_rows), pa.int64())),
        "inputs": pa.Table.from_pylist(
            inputs, pa.schema([(name, pa.string()) for name in ("input_versions", "stage", "data_version")])
        ),
    }
    return select(_IS_REQUIRED_SQL, tables)["is_required"]


def _delete_runs(instance: DagsterInstance, store: Store, graph: AssetGraph, before_s: float) -> int:
    """Delete the runs and attempts that ended before a time and are not required; returns the number of runs."""

    def is_kept(rows: pa.Table) -> pa.ChunkedArray:
        is_recent = pc.greater_equal(rows["finished_at_utc"], _timestamp(before_s))
        return pc.or_(is_recent, is_required(rows, graph.stage_of_asset))

    attempts = store.read(STAGE_RUNS)
    is_kept_attempt = is_kept(attempts)
    kept_run_ids = set(attempts.filter(is_kept_attempt)["run_id"].unique().to_pylist())
    run_count = 0
    for record in list(_runs_ended_before(instance, before_s)):  # a page after a deleted run would be empty
        if record.dagster_run.run_id not in kept_run_ids and run_count < _MAX_RUNS:
            delete_run(instance, store, record.dagster_run.run_id)
            run_count += 1
    recording_ids = sorted(attempts.filter(pc.invert(is_kept_attempt))["recording_id"].unique().to_pylist())
    for start in range(0, len(recording_ids), _PORTION_SIZE):
        store.filter_rows(STAGE_RUNS, recording_ids[start : start + _PORTION_SIZE], is_kept)
    return run_count


def _timestamp(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)


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


def delete_run(instance: DagsterInstance, store: Store, run_id: str) -> None:
    """Delete a finished run with its events and logs."""
    _delete_logs(instance, run_id)
    instance.delete_run(run_id)
    # With SQLite, a run has a file of its own, which Dagster empties but never deletes.
    for suffix in ("", "-wal", "-shm"):
        (store.data_folder / "dagster" / "history" / "runs" / f"{run_id}.db{suffix}").unlink(missing_ok=True)


def _delete_logs(instance: DagsterInstance, run_id: str) -> None:
    """Delete the captured stdout and stderr of a run's steps; its events stay."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])


def _delete_videos(store: Store, recording_ids: Collection[str]) -> int:
    """Delete videos, except references to the source file, privacy copies and synopses; returns how many videos."""
    rows = store.read(RECORDING_CONTENTS, columns=["recording_id", "video_path"]).to_pylist()
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
        store.update(RECORDING_CONTENTS, list(own_videos), {"video_path": None})
    copies = store.read(PRIVACY_COPIES, sorted(recording_ids), ["recording_id", "copy_path"]).to_pylist()
    copied = [row["recording_id"] for row in copies if row["copy_path"]]
    if copied:
        store.update(PRIVACY_COPIES, copied, {"copy_path": None})
    for path in (*own_videos.values(), *(privacy_copy_path(store.data_folder, name) for name in copied)):
        path.unlink(missing_ok=True)
    for recording_id in own_videos:
        delete_synopsis(store.data_folder, recording_id)
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
    with index.lock():  # the watched-folder sensor adds no partition again
        files = index.load()
        sources = {path: file for path, file in files.items() if file.recording_id in recording_ids}
        if not sources:
            return 0
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
    rows = store.read(RECORDING_CONTENTS, columns=["recording_id", "video_path"]).to_pylist()
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
    its objects would be counted twice. Their rows in `recordings` and `stage_runs` stay, with the reason of the
    rejection.

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
    columns = ("recording_id", "camera", "source_path", "fingerprint", "size_bytes", "mtime_utc")
    rows = store.read(RECORDINGS, replaced, columns).to_pylist()
    for table in store.tables():
        if table.per_recording and table not in (STAGE_RUNS, CORRECTIONS, AUDIT_ANSWERS):
            remaining = pa.Table.from_pylist(rows if table is RECORDINGS else [], table.arrow_schema)
            store.replace(table, replaced, remaining)
    for recording_id in replaced:
        shutil.rmtree(store.media_folder / recording_id, ignore_errors=True)
        privacy_copy_path(store.data_folder, recording_id).unlink(missing_ok=True)
        delete_synopsis(store.data_folder, recording_id)
        instance.delete_dynamic_partition(recordings_partitions.name or "", recording_id)
    return replaced
