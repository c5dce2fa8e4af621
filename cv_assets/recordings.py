"""recordings: one row per source file (recording_id): what the file claims, before its pictures are read.

The columns about the content are filled by normalized_video, the one stage that decodes every frame. A file that cannot
be processed has its row too, with status rejected and the reason.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    INGEST,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    media_status,
    table_asset,
    table_checks,
)
from resources.errors import RecordingError, RejectedRecordingError
from resources.media.isolation import probe_isolated
from resources.schema import RECORDINGS
from resources.settings import Settings, current_settings, settings_version
from resources.storage import Store
from resources.wall_clock import started_at
from resources.watched_folder import SourceFile, SourceIndex, file_of

STAGE = Stage("recordings", (RECORDINGS,), of_the_file=True)


def file_columns(source: SourceFile) -> dict[str, Any]:
    """The row of a recording as far as its file's entry in the folder tells; all other columns are None."""
    row: dict[str, Any] = dict.fromkeys(RECORDINGS.arrow_schema.names)
    return row | {
        "recording_id": source.recording_id,
        "status": "ok",
        "camera": source.camera,
        "source_path": source.source_path,
        "fingerprint": source.fingerprint,
        "size_bytes": source.size_bytes,
        "mtime_utc": datetime.fromtimestamp(source.mtime_ns / 1e9, UTC),
    }


def probe_recording(source: SourceFile, settings: Settings) -> dict[str, Any]:
    """The row of a recording as far as its header and first picture tell; content and wall clock are None.

    Args:
        source: The file.
        settings: The watched folders, limits of the probe and the patterns of file names.

    Raises:
        RecordingError: The file is gone, or leads out of the folder.
    """
    row = file_columns(source)
    try:
        found = probe_isolated(file_of(settings, source.source_path), settings.video_of(source.camera))
    except RejectedRecordingError as error:
        return row | {"status": "rejected", "error": str(error)}
    return row | {name: value for name, value in vars(found).items() if name in row}


def clock_columns(row: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """When the first frame was taken, as far as it is known how long the recording is and what its start lacks.

    Only the asset wall_clock may change what is known already: all times on the wall clock count from it.

    Args:
        row: The recording's row of `recordings`.
        settings: The cameras' clocks and the patterns of file names.
    """
    lead_s = row["lead_s"] or 0.0
    content_s = row["duration_s_from_content"]
    started, known_from = started_at(
        row["source_path"],
        row["created_at_utc"],
        row["mtime_utc"],
        lead_s + content_s if content_s is not None else row["duration_s_from_header"] or 0.0,
        settings.intake,
        settings.camera(row["camera"]),
    )
    return {"started_at_utc": started + timedelta(seconds=lead_s), "started_at_source": known_from}


def _keep_content_columns(row: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """Carry over what later stages found: the content is the same, so it still holds."""
    if before is None or row["status"] == "rejected":
        return row
    told = ("status", "error", "failed_stage")
    kept = {name: value for name, value in before.items() if row[name] is None and name not in told}
    if before["status"] == "failed" and before["failed_stage"] != STAGE.name:
        return row | kept | {name: before[name] for name in told}
    status, error = media_status(row | kept)
    return row | kept | {"status": status, "error": error}


def ingest_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Write the row of one recording.

    Raises:
        RecordingError: No file with this content was ever seen in the watched folder.
    """
    source = SourceIndex(store).source_of(recording_id, settings.watched_folder)
    if source is None:
        raise RecordingError(
            f"No file of the watched folder {settings.watched_folder} is known as {recording_id}: drop it there again."
        )
    before = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    try:
        probed = probe_recording(source, settings)
    except RecordingError as error:
        if before is None:
            told = {"status": "failed", "error": str(error), "failed_stage": STAGE.name}
            row = file_columns(source) | told | {"recording_id": recording_id}
            store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema))
        raise
    row = _keep_content_columns(probed | {"recording_id": recording_id}, before)
    if row["status"] != "rejected" and row["started_at_utc"] is None:
        row |= clock_columns(row, settings)
    store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema))
    shown = ("status", "error", "camera", "source_path", "size_bytes", "codec_name", "frame_count_from_header")
    told = {name: row[name] for name in shown if row[name] is not None}
    if footage_s := row["duration_s_from_content"] or row["duration_s_from_header"]:
        told["duration_s"] = footage_s
    return {RECORDINGS.name: count_metadata(1, **told)}


@multi_asset(
    specs=[
        table_asset(
            RECORDINGS,
            group=INGEST,
            code_version=settings_version("recordings 3", str(current_settings().video.max_pixels)),
            kinds=("ffmpeg",),
        ),
    ],
    check_specs=table_checks(RECORDINGS),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def recordings(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Probe the file of each recording."""
    yield from STAGE.each_recording(context, store, lambda r, _: ingest_recording(r, store, settings))
