"""recordings: one row per source file (recording_id), with the claims of its header, before any frame is decoded.

What decoding every frame shows is in recording_contents, which normalized_video writes. A file that cannot be processed
has a row too, with its path, size and mtime alone; the reason is in stage_runs.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cv_assets.stage_asset import INGEST, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.settings import Settings, settings_version
from resources.errors import RecordingError, RejectedRecordingError
from resources.media.isolation import probe_in_subprocess
from resources.media.progress import ReportProgress
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.watched_files import resolve_source_path

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
        "mtime_utc": datetime.fromtimestamp(source.mtime_ns / 1e9, UTC),
    }


def probe_recording(source: SourceFile, settings: Settings) -> tuple[dict[str, Any], str | None]:
    """Probe a file and build the row of its recording.

    Args:
        source: The file.
        settings: The watched folders and the limits of the probe.

    Returns:
        The row, and the reason if the file is rejected; all columns of the header are then None.

    Raises:
        RecordingError: The file is missing, or is a link out of the watched folder.
    """
    row = file_columns(source)
    try:
        path = resolve_source_path(settings, source.source_path)
        header = probe_in_subprocess(path, settings.video_of(source.camera))
    except RejectedRecordingError as error:
        return row, str(error)
    return row | {name: value for name, value in vars(header).items() if name in row}, None


def probe_and_store(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Probe the file of one recording and store its row.

    Returns:
        Metadata by asset name; the status is `rejected` if the file can never be processed.

    Raises:
        RecordingError: The file is missing, or no file with this content was ever in the watched folder.
    """
    source = SourceIndex(store).find_source_file(recording_id, settings.watched_folder)
    if source is None:
        raise RecordingError(
            f"The recording {recording_id} has no file in the source index of {settings.watched_folder}: copy its file "
            "into the watched folder again."
        )
    row, rejection = probe_recording(source, settings)
    row["recording_id"] = recording_id
    store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema))
    metadata = {"status": "ok"} if rejection is None else {"status": "rejected", "error": rejection}
    metadata |= {name: row[name] for name in _METADATA if row[name] is not None}
    if duration_s := row["duration_s_from_header"]:
        metadata["duration_s"] = duration_s
    return {RECORDINGS.name: count_metadata(1, **metadata)}


@stage_asset(
    group=INGEST,
    tables=(RECORDINGS,),
    deps=(),
    code_version=lambda settings: settings_version("recordings 4", str(settings.video.max_pixels)),
    kinds=("ffmpeg",),
    runs_on_rejected=True,
)
def recordings(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Probe the file of each recording."""
    return probe_and_store(recording_id, run.store, run.settings)
