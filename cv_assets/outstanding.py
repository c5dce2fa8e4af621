"""What remains to be done: the state of every recording, and the runs that would complete them.

The plan is made from what is there, not from events, so nothing is lost by a crash between two steps.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.events import DagsterEvent
from dagster._core.instance.types import CachingDynamicPartitionsLoader
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, DagsterRun
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from cv_assets.cameras import cameras_of
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import file_columns
from cv_assets.stage import (
    ANALYSIS,
    ATTEMPT_TAG,
    INGEST,
    STOPPED_TAG,
    failed_recordings,
    stop_told,
    work_at_death,
)
from cv_assets.staleness import stale_assets
from cv_assets.walk import LAST_OF_STAGE, LAST_OF_STEP, assets_of, made_from, made_with, with_downstream
from resources.schema import RECORDINGS
from resources.settings import BatchSettings, current_settings
from resources.storage import Store
from resources.watched_folder import SourceIndex

STOPPED_RETRY_AFTER_S = 120.0
UNBEGUN_RETRY_AFTER_S = 30.0
STALE_VARIABLE = "CV_ASSETS_RECOMPUTE_STALE"  # set for a pipeline that is to make anew what settings made stale
_WAITING_STATUSES = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
_WAITING_RUNS_PER_JOB = {INGEST: 2, ANALYSIS: 1}


@dataclass(frozen=True)
class RecordingState:
    """Where a recording stands.

    Attributes:
        recording_id: The recording.
        missing: Assets that are not materialized, or stale where these are wanted, too.
        failed: Those of them whose last attempt failed.
        attempts: How often they have been tried.
        retry_at: Time before which nothing is tried again, in seconds since 1970.
        is_in_flight: Whether an unfinished run contains the recording.
        is_rejected: Whether the file can never be processed.
        told: Its status in `recordings`; None while it has no row.
        waits_for: What a person must do before it is tried again; empty where nothing holds it up.
        footage_s: Length of the recording; 0 while unknown.
    """

    recording_id: str
    missing: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    attempts: int = 0
    retry_at: float = 0.0
    is_in_flight: bool = False
    is_rejected: bool = False
    told: str | None = None
    waits_for: str = ""
    footage_s: float = 0.0

    def is_done(self, max_attempts: int) -> bool:
        """Whether nothing more will be tried: complete, rejected, or failed for good."""
        if self.is_in_flight:
            return False
        return self.is_rejected or not self.missing or (bool(self.failed) and self.attempts >= max_attempts)


@dataclass(frozen=True)
class PlannedRun:
    """A run to request: some assets of a job for recordings that stand side by side in the partition order."""

    job_name: str
    asset_names: tuple[str, ...]
    recording_ids: tuple[str, ...]
    attempt: int = 1

    @property
    def tags(self) -> dict[str, str]:
        """Tags that make Dagster run exactly these recordings."""
        chosen = (
            {PARTITION_NAME_TAG: self.recording_ids[0]}
            if len(self.recording_ids) == 1
            else {
                ASSET_PARTITION_RANGE_START_TAG: self.recording_ids[0],
                ASSET_PARTITION_RANGE_END_TAG: self.recording_ids[-1],
            }
        )
        return chosen | ({ATTEMPT_TAG: str(self.attempt)} if self.attempt > 1 else {})


@dataclass(frozen=True)
class Outstanding:
    """Every recording's state in partition order, and how many runs of each job wait in the queue."""

    states: Sequence[RecordingState]
    waiting_runs: Mapping[str, int] = field(default_factory=dict)


def observe(instance: DagsterInstance, store: Store) -> Outstanding:
    """Look at every recording; where the environment asks for it, what is stale counts as missing.

    Args:
        instance: Dagster's instance.
        store: The tables.
    """
    recording_ids = list(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    names = list(dict.fromkeys(LAST_OF_STEP[name] for name in (*assets_of(INGEST), *assets_of(ANALYSIS))))
    statuses = _statuses(instance, names)
    in_flight, waiting = _in_flight(instance, recording_ids)
    columns = ["recording_id", "status", "duration_s_from_content", "duration_s_from_header", "video_path"]
    rows = {row["recording_id"]: row for row in store.read(RECORDINGS, columns=columns).to_pylist()}
    attempts = _attempts(instance, store, statuses)
    stale = _stale(instance, store, recording_ids, rows) if os.environ.get(STALE_VARIABLE) else {}
    states = []
    of_step = {name: frozenset(made_with(name)) for name in names}
    for recording_id in recording_ids:
        row = rows.get(recording_id, {})
        failed = frozenset(name for name in names if recording_id in statuses[name].failed)
        unmade = [of_step[name] for name in names if recording_id not in statuses[name].materialized]
        tried, retry_at, waits_for = attempts.get(recording_id, _UNTRIED) if failed else _UNTRIED
        states.append(
            RecordingState(
                recording_id,
                missing=frozenset[str]().union(*unmade, stale.get(recording_id, ())),
                failed=failed,
                attempts=tried,
                retry_at=retry_at,
                is_in_flight=recording_id in in_flight,
                is_rejected=row.get("status") == "rejected",
                told=row.get("status"),
                waits_for=waits_for,
                footage_s=row.get("duration_s_from_content") or row.get("duration_s_from_header") or 0.0,
            )
        )
    return Outstanding(states, waiting)


def occasion(instance: DagsterInstance, store: Store) -> object:
    """Something cheap that changes whenever there may be more to request, or nothing left to do.

    What happens inside a run changes nothing of that before the run ends: till then its recordings are in flight.
    """
    unfinished = instance.run_storage.get_run_ids(RunsFilter(statuses=NOT_FINISHED_STATUSES))
    if unfinished:
        waiting = instance.run_storage.get_run_ids(RunsFilter(statuses=_WAITING_STATUSES))
        return frozenset(unfinished), frozenset(waiting)
    return instance.event_log_storage.get_maximum_record_id(), store.commit_times()


@dataclass(frozen=True)
class _Status:
    """Recordings of an asset: those of which it is there, and those at which the last attempt failed."""

    materialized: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


def _statuses(instance: DagsterInstance, names: Sequence[str]) -> dict[str, _Status]:
    # As DagsterInstance.get_status_by_partition does, which would load all recordings twice for each asset.
    loader = CachingDynamicPartitionsLoader(instance)
    found = {}
    with partition_loading_context(None, loader):
        for name in names:
            cached = get_and_update_asset_status_cache_value(instance, AssetKey(name), recordings_partitions, loader)
            if cached is None:
                found[name] = _Status()
                continue
            made, failed, running = (
                frozenset(subset.get_partition_keys())
                for subset in (
                    cached.deserialize_materialized_partition_subsets(recordings_partitions),
                    cached.deserialize_failed_partition_subsets(recordings_partitions),
                    cached.deserialize_in_progress_partition_subsets(recordings_partitions),
                )
            )
            found[name] = _Status(made - failed - running, failed - running)
    return found


def without(outstanding: Outstanding, held: set[str]) -> Outstanding:
    """The same, as if nothing were missing of some assets: they cannot be made now."""
    if not held:
        return outstanding
    states = [replace(state, missing=state.missing - held, failed=state.failed - held) for state in outstanding.states]
    return replace(outstanding, states=states)


def plan_runs(outstanding: Outstanding, batches: BatchSettings, now: float | None = None) -> list[PlannedRun]:
    """The runs that would complete the recordings, ingest before analysis.

    A run takes recordings that lack the same assets and stand side by side, up to the bounds of a batch. What failed
    is tried again alone. While enough runs of a job wait in the queue no more are planned, so that a backlog grows
    into full batches.

    Args:
        outstanding: Every recording's state.
        batches: Bounds of a batch and of attempts.
        now: Seconds since 1970; None means the clock.
    """
    now = time.time() if now is None else now
    planned: list[PlannedRun] = []
    batch: list[RecordingState] = []
    wanted: tuple[str, tuple[str, ...]] | None = None

    def close() -> None:
        nonlocal batch
        if wanted and batch:
            attempt = batch[0].attempts + 1 if batch[0].failed else 1
            planned.append(PlannedRun(*wanted, tuple(state.recording_id for state in batch), attempt))
        batch = []

    for state in outstanding.states:
        wants = None if state.is_done(batches.max_attempts) or state.retry_at > now else _wanted(state)
        footage_minutes = sum(s.footage_s for s in [*batch, state]) / 60
        is_alone = bool(state.failed) and state.attempts > 0
        if (
            wants != wanted
            or is_alone
            or len(batch) >= batches.max_recordings
            or (batch and footage_minutes > batches.max_footage_minutes)
        ):
            close()
        wanted = wants
        if wants is not None:
            batch.append(state)
            if is_alone:
                close()
                wanted = None
    close()
    room = {job: most - outstanding.waiting_runs.get(job, 0) for job, most in _WAITING_RUNS_PER_JOB.items()}
    allowed = []
    for run in sorted(planned, key=lambda run: (run.job_name != INGEST, run.attempt)):
        if room[run.job_name] > 0:
            room[run.job_name] -= 1
            allowed.append(run)
    return allowed


def _wanted(state: RecordingState) -> tuple[str, tuple[str, ...]] | None:
    """Job and assets that the recording lacks; None while it is in flight."""
    if state.is_in_flight:
        return None
    for job_name in (INGEST, ANALYSIS):
        missing = state.missing & set(assets_of(job_name))
        if missing:
            return job_name, with_downstream(missing, job_name)
    return None


def recordings_of_run(run: DagsterRun, recording_ids: Sequence[str]) -> list[str]:
    """The recordings that a run contains.

    Args:
        run: The run.
        recording_ids: All recordings in partition order, which a range refers to.
    """
    if single := run.tags.get(PARTITION_NAME_TAG):
        return [single]
    start, end = run.tags.get(ASSET_PARTITION_RANGE_START_TAG), run.tags.get(ASSET_PARTITION_RANGE_END_TAG)
    if start in recording_ids and end in recording_ids:
        return list(recording_ids[recording_ids.index(start) : recording_ids.index(end) + 1])
    return []


def _in_flight(instance: DagsterInstance, recording_ids: Sequence[str]) -> tuple[set[str], dict[str, int]]:
    in_flight: set[str] = set()
    waiting: dict[str, int] = {}
    for run in instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES)):
        in_flight.update(recordings_of_run(run, recording_ids))
        if run.status in _WAITING_STATUSES:
            waiting[run.job_name] = waiting.get(run.job_name, 0) + 1
    return in_flight, waiting


def _stale(
    instance: DagsterInstance, store: Store, recording_ids: Sequence[str], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, set[str]]:
    """By recording, the stale assets that can be made anew.

    Where a video is lacking that retention has removed it is made again first, from its file; where that is gone, too,
    what would need the video stays as it is: old results are better than none.
    """
    stale: dict[str, set[str]] = {}
    for one in stale_assets(instance, cameras_of(store, recording_ids)):
        stale.setdefault(one.recording_id, set()).add(one.asset_name)
    folder, index = current_settings().watched_folder, SourceIndex(store)
    of_video = set(with_downstream(frozenset(made_from(NORMALIZED_VIDEO)), ANALYSIS))
    for recording_id, names in stale.items():
        path = rows.get(recording_id, {}).get("video_path")
        if not names & of_video or (path is not None and (store.data_folder / path).exists()):
            continue
        if any((folder / source_path).is_file() for source_path in index.load([recording_id])):
            names |= made_with(NORMALIZED_VIDEO)
        else:
            names -= of_video
    return stale


_Tried = tuple[int, float, str]
"""Attempts so far, when the next may be made, in seconds since 1970, and what it waits for."""
_UNTRIED: _Tried = (0, 0.0, "")


def _attempts(instance: DagsterInstance, store: Store, statuses: Mapping[str, _Status]) -> dict[str, _Tried]:
    """What was tried of each failed recording."""
    attempts: dict[str, _Tried] = {}
    runs: dict[str, _FailedRun] = {}
    for name, status in statuses.items():
        if not status.failed:
            continue
        tried = instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
            AssetKey(name)
        )
        for recording_id in status.failed:
            run_id = tried.get(recording_id, ("", 0))[0]
            if run_id not in runs:
                runs[run_id] = _FailedRun.of(instance, store, run_id)
            if runs[run_id].is_overcome(recording_id, statuses):
                continue
            attempts[recording_id] = max(attempts.get(recording_id, _UNTRIED), runs[run_id].counted(recording_id))
    return attempts


@dataclass(frozen=True)
class _FailedRun:
    """A run that did not complete its recordings.

    Attributes:
        attempt: Which attempt it was.
        retry_at: Time before which nothing of it is tried again, in seconds since 1970.
        is_attempt: Whether it was one: not where a person had to act or the pipeline was stopped.
        failed: The recordings that failed, or at which it died without a word: to the others of its batch it was no
            attempt. None where nobody can tell, so that it was one to all.
        stages: Those at which it failed or died; none where nobody can tell.
        waits_for: What a person must do before it is tried again.
    """

    attempt: int = 1
    retry_at: float = 0.0
    is_attempt: bool = True
    failed: frozenset[str] | None = None
    stages: frozenset[str] = frozenset()
    waits_for: str = ""

    @classmethod
    def of(cls, instance: DagsterInstance, store: Store, run_id: str) -> "_FailedRun":
        records = instance.get_run_records(RunsFilter(run_ids=[run_id])) if run_id else []
        if not records:
            return cls()
        run = records[0].dagster_run
        attempt = int(run.tags.get(ATTEMPT_TAG, "1"))
        if stopped := run.tags.get(STOPPED_TAG):
            # A person had to act (weights, disk), or the power went. While the same pipeline runs on there is no
            # reason to hurry, and after a new start there is none to wait.
            if stopped != "true":
                return cls(attempt, is_attempt=False)
            told = [stop_told(event) for event in _step_failures(instance, run_id)]
            wait_until = (records[0].end_time or 0.0) + STOPPED_RETRY_AFTER_S
            return cls(attempt, wait_until, is_attempt=False, waits_for=next(filter(None, told), ""))
        if died_at := work_at_death(store, run_id):
            stage, recording_id = died_at
            return cls(attempt, failed=frozenset({recording_id}), stages=frozenset({stage}))
        events = _step_failures(instance, run_id)
        if not events:
            # It was killed before it had begun a recording: not at once again, should it have done so by itself.
            return cls(attempt, (records[0].end_time or 0.0) + UNBEGUN_RETRY_AFTER_S, is_attempt=False)
        named, stages = [failed_recordings(event) for event in events], {event.step_key for event in events}
        failed = None if None in named else frozenset().union(*filter(None, named))
        return cls(attempt, failed=failed, stages=frozenset(filter(None, stages)))

    def is_overcome(self, recording_id: str, statuses: Mapping[str, "_Status"]) -> bool:
        """Whether what failed in it has been made since, as when a person materializes just that.

        Dagster counts what was to follow as failed, too, and goes on doing so; it was never tried.
        """
        assets = {LAST_OF_STAGE.get(stage) for stage in self.stages}
        return bool(assets) and not any(
            recording_id in status.failed for name, status in statuses.items() if name in assets
        )

    def counted(self, recording_id: str) -> _Tried:
        """What was tried of a recording."""
        is_attempt = self.is_attempt and (self.failed is None or recording_id in self.failed)
        return self.attempt if is_attempt else self.attempt - 1, self.retry_at, self.waits_for


def _step_failures(instance: DagsterInstance, run_id: str) -> list[DagsterEvent]:
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records
    return [record.event_log_entry.get_dagster_event() for record in records]


def set_aside(store: Store, outstanding: Outstanding, max_attempts: int) -> list[str]:
    """Say in its row of `recordings` that a recording is given up whose runs died before they could say why.

    Returns:
        The recordings of which it was said now.
    """
    named = []
    for state in outstanding.states:
        is_given_up = state.failed and state.attempts >= max_attempts and state.is_done(max_attempts)
        if not is_given_up or state.told in ("failed", "rejected"):
            continue
        stage = next(stage for stage, last in LAST_OF_STAGE.items() if last in state.failed)
        times = f"{state.attempts} times" if state.attempts > 1 else "once"
        told = {
            "status": "failed",
            "error": f"Its run died {times} while {stage} worked on it (killed, out of memory, or a crash in native "
            "code): it is set aside. Materialize it to try again; the run's log is in the UI.",
            "failed_stage": stage,
        }
        if state.told is not None:
            store.update(RECORDINGS, state.recording_id, told)
        else:
            source = next(iter(SourceIndex(store).load([state.recording_id]).values()))
            row = file_columns(source) | told
            store.replace(RECORDINGS, [state.recording_id], pa.Table.from_pylist([row], RECORDINGS.arrow_schema))
        named.append(state.recording_id)
    return named


def remove_replaced(instance: DagsterInstance, store: Store, outstanding: Outstanding) -> list[str]:
    """Remove what was made of recordings that are rejected and that no file holds any more.

    Such are those that were taken up while their file was still growing: counted beside the whole file, they would be
    counted twice. Their rows in `recordings` stay and say so.

    Returns:
        The recordings that are removed now.
    """
    rejected = [state.recording_id for state in outstanding.states if state.is_rejected and not state.is_in_flight]
    if not rejected:
        return []
    held = {file.recording_id for file in SourceIndex(store).load(rejected).values()}
    replaced = sorted(set(rejected) - held)
    if not replaced:
        return []
    rows = store.read(RECORDINGS, replaced).to_pylist()
    kept = ("recording_id", "status", "error", "camera", "source_path", "fingerprint", "size_bytes", "mtime_utc")
    bare = [{name: row[name] for name in kept} for row in rows]
    for table in store.tables():
        if table.per_recording:
            left = pa.Table.from_pylist(bare if table is RECORDINGS else [], table.arrow_schema)
            store.replace(table, replaced, left)
    for recording_id in replaced:
        shutil.rmtree(store.media_folder / recording_id, ignore_errors=True)
        instance.delete_dynamic_partition(recordings_partitions.name or "", recording_id)
    return replaced
