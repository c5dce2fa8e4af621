"""recordings: one row per recording (recording_id): its file, the hash of its content, and the claims of its header.

What decoding every frame shows is in recording_contents, which normalized_video writes. A file that cannot be processed
has a row too, with the columns of the file alone; the reason is in stage_runs.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cv_assets.media_status import is_intact
from cv_assets.stage_asset import INGEST, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.errors import RecordingError, RejectedRecordingError
from resources.media.isolation import probe_in_subprocess
from resources.media.progress import ReportProgress
from resources.recording_files import RecordingFile, RecordingFiles, mtime_utc
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceFile
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows
from resources.storage.stage_runs import newest_stage_runs

NOT_PROBED = "The recording has not been probed: materialize recordings first."
_METADATA = ("camera", "source_path", "size_bytes", "codec_name", "frame_count_from_header")


def file_columns(source: SourceFile) -> dict[str, Any]:
    """Build a recording's row from the path, size and mtime of its file; all other columns are None."""
    row: dict[str, Any] = dict.fromkeys(RECORDINGS.arrow_schema.names)
    return row | {
        "recording_id": source.recording_id,
        "camera": source.camera,
        "source_path": source.source_path,
        "fingerprint": source.fingerprint,
        "size_bytes": source.size_bytes,
        "mtime_utc": mtime_utc(source.mtime_ns),
        "mtime_ns": source.mtime_ns,
    }


def probe_recording(file: RecordingFile, settings: Settings) -> tuple[dict[str, Any], str | None]:
    """Probe a file and build the row of its recording.

    Args:
        file: The file.
        settings: The limits of the probe.

    Returns:
        The row, and the reason if the file is rejected; all columns of the header are then None.

    Raises:
        RecordingError: The file is missing, or changed while it was read.
    """
    row = file_columns(file.source)
    try:
        with file.reading() as path:
            header = probe_in_subprocess(path, settings.video_of(file.source.camera))
    except RejectedRecordingError as error:
        return row, str(error)
    return row | {name: value for name, value in vars(header).items() if name in row}, None


def probe_and_store(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Probe the file of one recording and store its row; compare the files that may have the same content.

    Each of these files is read whole once. A recording that was probed before keeps its row then: the sensor
    `watched_folder` makes a file with other content a recording of its own.

    Returns:
        Metadata by asset name; the status is `rejected` if the file can never be processed.

    Raises:
        RecordingError: No file has the content of the recording.
    """
    files = RecordingFiles(recording_id, store, settings)
    stored = _read_stored_attempt(recording_id, store) if files.header else None
    has_compared = files.read_hashes(
        adopts_unverified=files.header is None or is_intact(read_recording_rows(store, [recording_id])[recording_id])
    )
    is_current = stored is not None and stored["code_version"] == _version(settings).code_version
    file = None if has_compared and is_current else files.find()
    if file is not None:
        row, rejection = probe_recording(file, settings)
        row |= {"recording_id": recording_id, "content_hash": files.content_hash}
        store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema))
        status, error = ("ok", None) if rejection is None else ("rejected", rejection)
    elif has_compared and files.header and stored:
        row, status, error = files.header, stored["status"], stored["error"]
        if row["content_hash"] != files.content_hash:
            store.update(RECORDINGS, recording_id, {"content_hash": files.content_hash})
    else:
        raise RecordingError(files.problem())
    if has_compared:
        files.store_hashes()  # last: the sensor compares them with the hash in the recording's row
    metadata = {"status": status} if error is None else {"status": status, "error": error}
    metadata |= {name: row[name] for name in _METADATA if row[name] is not None}
    if duration_s := row["duration_s_from_header"]:
        metadata["duration_s"] = duration_s
    return {RECORDINGS.name: count_metadata(1, **metadata)}


def _read_stored_attempt(recording_id: str, store: Store) -> dict[str, Any] | None:
    """Read the attempt that stored the recording's row."""
    columns = ("recording_id", "stage", "status", "error", "code_version")
    rows = newest_stage_runs(store, [recording_id], columns=columns, only_materialized=True).to_pylist()
    return next((row for row in rows if row["stage"] == RECORDINGS.name), None)


def _version(settings: Settings) -> StageVersion:
    return StageVersion.build("recordings 4", {"video.max_pixels": settings.video.max_pixels})


@stage_asset(
    group=INGEST,
    tables=(RECORDINGS,),
    deps=(),
    version=_version,
    kinds=("ffmpeg",),
    runs_on_rejected=True,
)
def recordings(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Hash and probe the file of each recording."""
    return probe_and_store(recording_id, run.store, run.settings)
