"""recordings: one row per source file (recording_id), with the claims of its header, before any frame is decoded.

The columns about the content are filled by normalized_video, the only stage that decodes every frame of the source. A
file that cannot be processed has a row too, with status `rejected` and the reason.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from cv_assets.media_status import media_status
from cv_assets.stage_asset import INGEST, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.settings import Settings, settings_version
from resources.errors import RecordingError, RejectedRecordingError
from resources.media.isolation import probe_in_subprocess
from resources.media.progress import ReportProgress
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceFile, SourceIndex
from resources.start_times import determine_start_time
from resources.storage.delta_store import Store
from resources.watched_files import resolve_source_path

NOT_PROBED = "The recording has not been probed: materialize recordings first."
_STAGE_NAME = "recordings"
_STATUS = ("status", "error", "failed_stage")
_METADATA = ("status", "error", "camera", "source_path", "size_bytes", "codec_name", "frame_count_from_header")


def file_columns(source: SourceFile) -> dict[str, Any]:
    """Build a recording's row from the path, size and mtime of its file; all other columns are None."""
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
    """Probe a file and build the row of its recording; columns that need more than header and first frame are None.

    Args:
        source: The file.
        settings: The watched folders and the limits of the probe.

    Raises:
        RecordingError: The file is missing, or is a link out of the watched folder.
    """
    row = file_columns(source)
    try:
        path = resolve_source_path(settings, source.source_path)
        header = probe_in_subprocess(path, settings.video_of(source.camera))
    except RejectedRecordingError as error:
        return row | {"status": "rejected", "error": str(error)}
    return row | {name: value for name, value in vars(header).items() if name in row}


def clock_columns(row: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Time of the first frame and the source of that time, as columns of `recordings`.

    Only the asset wall_clock may replace a known start: all wall-clock times are derived from it.

    Args:
        row: The recording's row of `recordings`.
        settings: Clocks of the cameras, and patterns of file names that contain the time.
    """
    lead_s = row["lead_s"] or 0.0
    content_s = row["duration_s_from_content"]
    started_at_utc, source = determine_start_time(
        row["source_path"],
        row["created_at_utc"],
        row["mtime_utc"],
        lead_s + content_s if content_s is not None else row["duration_s_from_header"] or 0.0,
        settings.ingest,
        settings.camera(row["camera"]),
    )
    return {"started_at_utc": started_at_utc + timedelta(seconds=lead_s), "started_at_source": source}


def _keep_content_columns(row: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """Keep the columns that later stages have filled: they stay valid, because a recording's content never changes."""
    if before is None or row["status"] == "rejected":
        return row
    content = {name: value for name, value in before.items() if row[name] is None and name not in _STATUS}
    if before["status"] == "failed" and before["failed_stage"] != _STAGE_NAME:
        return row | content | {name: before[name] for name in _STATUS}
    status, error = media_status(row | content)
    return row | content | {"status": status, "error": error}


def probe_and_store(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Probe the file of one recording and store its row.

    Raises:
        RecordingError: The file is missing, or no file with this content was ever in the watched folder.
    """
    source = SourceIndex(store).find_source_file(recording_id, settings.watched_folder)
    if source is None:
        raise RecordingError(
            f"The recording {recording_id} has no file in the source index of {settings.watched_folder}: copy its file "
            "into the watched folder again."
        )
    before = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    try:
        probed = probe_recording(source, settings)
    except RecordingError as error:
        if before is None:
            failure = {"status": "failed", "error": str(error), "failed_stage": _STAGE_NAME}
            _store_row(file_columns(source) | failure | {"recording_id": recording_id}, store)
        raise
    row = _keep_content_columns(probed | {"recording_id": recording_id}, before)
    if row["status"] != "rejected" and row["started_at_utc"] is None:
        row |= clock_columns(row, settings)
    _store_row(row, store)
    metadata = {name: row[name] for name in _METADATA if row[name] is not None}
    if duration_s := row["duration_s_from_content"] or row["duration_s_from_header"]:
        metadata["duration_s"] = duration_s
    return {RECORDINGS.name: count_metadata(1, **metadata)}


def _store_row(row: Mapping[str, Any], store: Store) -> None:
    rows = pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema)
    store.replace(RECORDINGS, [row["recording_id"]], rows)


@stage_asset(
    group=INGEST,
    tables=(RECORDINGS,),
    deps=(),
    code_version=lambda settings: settings_version("recordings 3", str(settings.video.max_pixels)),
    kinds=("ffmpeg",),
    runs_on_rejected=True,
)
def recordings(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Probe the file of each recording."""
    return probe_and_store(recording_id, run.store, run.settings)
