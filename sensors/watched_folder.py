"""Notices recordings: a file that has come to rest becomes a partition, and its ingest run is requested."""

import json
import time
from collections.abc import Mapping
from typing import Any

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from cv_assets.outstanding import observe, plan_runs
from cv_assets.stage import INGEST, recordings_partitions
from cv_assets.walk import ingest_job
from resources.errors import PipelineError
from resources.settings import Settings
from resources.storage import Store
from resources.watched_folder import FileState, SourceFile, SourceIndex, identify, list_recordings
from sensors.requests import run_request

MAX_FILES_A_TICK = 500

Waiting = Mapping[str, tuple[int, int, float]]
"""Files that may still be written: by path their size in bytes, mtime in ns, and when that was first seen."""


def settle(
    listed: Mapping[str, FileState], known: Mapping[str, SourceFile], waiting: Waiting, now: float, settle_s: float
) -> tuple[dict[str, FileState], dict[str, tuple[int, int, float]]]:
    """Part the new files into those that have come to rest and those that may still be written.

    Rest means the same size and mtime at two looks of ours at least `settle_s` apart, by our own clock: the file's
    clock may be wrong.

    Args:
        listed: All files there are.
        known: Files that already are recordings.
        waiting: What the last look left waiting.
        now: Seconds since 1970.
        settle_s: How long a file must rest.

    Returns:
        Settled files, and those that wait for the next look.
    """
    settled: dict[str, FileState] = {}
    still: dict[str, tuple[int, int, float]] = {}
    for path, state in listed.items():
        if path in known and known[path].file_state == state:
            continue
        size_bytes, mtime_ns, since = waiting.get(path, (-1, -1, now))
        if FileState(size_bytes, mtime_ns) != state:
            since = now
        if now - since >= settle_s and path in waiting and len(settled) < MAX_FILES_A_TICK:
            settled[path] = state
        else:
            still[path] = (state.size_bytes, state.mtime_ns, since)
    return settled, still


def _load_cursor(cursor: str | None) -> dict[str, tuple[int, int, float]]:
    held: dict[str, Any] = json.loads(cursor) if cursor else {}
    return {path: (values[0], values[1], values[2]) for path, values in held.items()}


@sensor(
    name="watched_folder",
    jobs=[ingest_job],
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Registers each recording that has come to rest in the watched folder and requests its ingest.",
)
def watched_folder_sensor(
    context: SensorEvaluationContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> SensorResult | SkipReason:
    """Look at the watched folder."""
    try:
        listed = list_recordings(settings.watched_folder, settings.intake)
    except PipelineError as error:
        return SkipReason(str(error))
    index = SourceIndex(store)
    known = index.load()
    settled, waiting = settle(listed, known, _load_cursor(context.cursor), time.time(), settings.intake.settle_s)
    found = identify(settings.watched_folder, settled, known)
    if found:
        known |= found
        index.save(known.values())
    have = set(context.instance.get_dynamic_partitions(recordings_partitions.name or ""))
    wanted = dict.fromkeys(file.recording_id for file in known.values() if file.state == "known")
    added = [recording_id for recording_id in wanted if recording_id and recording_id not in have]
    cursor = json.dumps(waiting)
    if not added:
        context.update_cursor(cursor)
        told = f"{len(waiting)} files are still being written" if waiting else "No new files"
        return SkipReason(f"{told}; {len(listed)} in {settings.watched_folder}.")
    new = set(added)
    planned = plan_runs(observe(context.instance, store, added), settings.batches)
    requests = [run_request(run) for run in planned if run.job_name == INGEST and new.issuperset(run.recording_ids)]
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[recordings_partitions.build_add_request(added)],
        cursor=cursor,
    )
