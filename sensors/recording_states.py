"""The state of every recording: missing and failed assets, attempts, and whether an unfinished run contains it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance, DagsterRun, RunsFilter

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import cameras_of
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.partitions import recordings_partitions
from cv_assets.stage_asset import ANALYSIS, INGEST
from resources.dagster_instance.dagster_names import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    QUEUED_STATUSES,
    UNFINISHED_STATUSES,
)
from resources.dagster_instance.private_api import read_partition_statuses
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from sensors.retries import NO_ATTEMPTS, AssetStatus, count_attempts
from sensors.staleness import stale_assets

STALE_VARIABLE = "CV_ASSETS_RECOMPUTE_STALE"  # set for a pipeline that recomputes stale assets


@dataclass(frozen=True)
class RecordingState:
    """The state of one recording.

    Attributes:
        recording_id: The recording.
        missing: Assets that are not materialized; stale ones, too, where the pipeline recomputes them.
        failed: The missing assets whose last attempt failed.
        attempt_count: Number of attempts at the failed assets.
        retry_at_s: Time before which the recording is not retried, in seconds since 1970.
        is_in_flight: Whether an unfinished run contains the recording.
        is_rejected: Whether its file can never be processed.
        status: Its status in `recordings`; None while it has no row.
        hold_reason: What a person must fix before a retry can succeed; empty if nothing holds the recording.
        duration_s: Duration of the recording; 0 while unknown.
    """

    recording_id: str
    missing: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    attempt_count: int = 0
    retry_at_s: float = 0.0
    is_in_flight: bool = False
    is_rejected: bool = False
    status: str | None = None
    hold_reason: str = ""
    duration_s: float = 0.0

    def is_done(self, max_attempts: int) -> bool:
        """Whether no further run will be requested: complete, rejected, or failed on the last attempt."""
        if self.is_in_flight:
            return False
        return self.is_rejected or not self.missing or (bool(self.failed) and self.attempt_count >= max_attempts)


@dataclass(frozen=True)
class RecordingStates:
    """The states of all recordings.

    Attributes:
        states: In partition order.
        queued_run_counts: Number of runs in the queue by job.
    """

    states: Sequence[RecordingState]
    queued_run_counts: Mapping[str, int] = field(default_factory=dict)


def read_recording_states(instance: DagsterInstance, store: Store, graph: AssetGraph) -> RecordingStates:
    """Read the state of every recording; if CV_ASSETS_RECOMPUTE_STALE is set, stale assets count as missing.

    Args:
        instance: Dagster's instance.
        store: The tables.
        graph: The asset graph of the settings in force.
    """
    recording_ids = list(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    asset_names = (*graph.assets_of(INGEST), *graph.assets_of(ANALYSIS))
    last_assets = list(dict.fromkeys(graph.last_of_step[name] for name in asset_names))
    statuses = _read_asset_statuses(instance, last_assets)
    in_flight, queued_run_counts = _read_unfinished_runs(instance, recording_ids)
    columns = ["recording_id", "status", "duration_s_from_content", "duration_s_from_header", "video_path"]
    rows = {row["recording_id"]: row for row in store.read(RECORDINGS, columns=columns).to_pylist()}
    attempts = count_attempts(instance, store, graph, statuses)
    stale = _stale_assets(instance, store, graph, recording_ids, rows) if os.environ.get(STALE_VARIABLE) else {}
    states = []
    same_step = {name: graph.same_step(name) for name in last_assets}
    for recording_id in recording_ids:
        row = rows.get(recording_id, {})
        failed = frozenset(name for name in last_assets if recording_id in statuses[name].failed)
        missing = [same_step[name] for name in last_assets if recording_id not in statuses[name].materialized]
        recording_attempts = attempts.get(recording_id, NO_ATTEMPTS) if failed else NO_ATTEMPTS
        states.append(
            RecordingState(
                recording_id,
                missing=frozenset[str]().union(*missing, stale.get(recording_id, ())),
                failed=failed,
                attempt_count=recording_attempts.attempt_count,
                retry_at_s=recording_attempts.retry_at_s,
                is_in_flight=recording_id in in_flight,
                is_rejected=row.get("status") == "rejected",
                status=row.get("status"),
                hold_reason=recording_attempts.hold_reason,
                duration_s=row.get("duration_s_from_content") or row.get("duration_s_from_header") or 0.0,
            )
        )
    return RecordingStates(states, queued_run_counts)


def change_token(instance: DagsterInstance, store: Store) -> object:
    """Cheap fingerprint of run and table state: sensors skip while it is unchanged.

    Events inside a run do not change it before the run ends: until then its recordings are in flight.
    """
    unfinished = instance.run_storage.get_run_ids(RunsFilter(statuses=UNFINISHED_STATUSES))
    if unfinished:
        queued = instance.run_storage.get_run_ids(RunsFilter(statuses=QUEUED_STATUSES))
        return frozenset(unfinished), frozenset(queued)
    return instance.event_log_storage.get_maximum_record_id(), store.commit_times()


def _read_asset_statuses(instance: DagsterInstance, names: Sequence[str]) -> dict[str, AssetStatus]:
    return {
        name: AssetStatus(materialized, failed)
        for name, materialized, failed in read_partition_statuses(instance, names, recordings_partitions)
    }


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


def _read_unfinished_runs(instance: DagsterInstance, recording_ids: Sequence[str]) -> tuple[set[str], dict[str, int]]:
    """Read which recordings are in flight, and how many runs of each job are queued."""
    in_flight: set[str] = set()
    queued_run_counts: dict[str, int] = {}
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED_STATUSES)):
        in_flight.update(recordings_of_run(run, recording_ids))
        if run.status in QUEUED_STATUSES:
            queued_run_counts[run.job_name] = queued_run_counts.get(run.job_name, 0) + 1
    return in_flight, queued_run_counts


def _stale_assets(
    instance: DagsterInstance,
    store: Store,
    graph: AssetGraph,
    recording_ids: Sequence[str],
    rows: Mapping[str, Mapping[str, Any]],
) -> dict[str, set[str]]:
    """By recording, the stale assets that can be recomputed.

    If retention has deleted the normalized video, the video is recomputed first from the source file. If that file is
    missing, too, the assets that need the video stay stale and keep their results.
    """
    stale: dict[str, set[str]] = {}
    for asset in stale_assets(instance, cameras_of(store, recording_ids), graph):
        stale.setdefault(asset.recording_id, set()).add(asset.asset_name)
    folder, index = graph.settings.watched_folder, SourceIndex(store)
    needs_video = set(graph.with_downstream(graph.direct_downstream(NORMALIZED_VIDEO), ANALYSIS))
    for recording_id, names in stale.items():
        video_path = rows.get(recording_id, {}).get("video_path")
        if not names & needs_video or (video_path is not None and (store.data_folder / video_path).exists()):
            continue
        if any((folder / source_path).is_file() for source_path in index.load([recording_id])):
            names |= graph.same_step(NORMALIZED_VIDEO)
        else:
            names -= needs_video
    return stale
