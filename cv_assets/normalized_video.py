"""normalized_video: one MP4 per recording; frames: one row per frame of it (recording_id, frame_index).

Every later stage reads this video, and only crops read the source, by setting. `frames` has the source frame of each
frame, and its time; `recording_contents` has what decoding every frame of the source has shown.
"""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import AssetCheckResult, AssetCheckSeverity, MetadataValue

from cv_assets.camera_settings import CAMERA_VIDEO
from cv_assets.camera_views import view_columns
from cv_assets.media_status import media_status
from cv_assets.recordings import NOT_PROBED
from cv_assets.stage_asset import INGEST, FileAsset, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata, sheet_metadata
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.errors import RecordingError
from resources.media.frame_reader import read_frame_count
from resources.media.isolation import normalize_in_subprocess
from resources.media.normalized_file import NormalizedVideo
from resources.media.progress import ReportProgress
from resources.previews.contact_sheet import contact_sheet
from resources.previews.timeline_chart import format_clock
from resources.recording_files import RecordingFile, find_recording_file
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows

NORMALIZED_VIDEO = "normalized_video"
LEDGER_CHECK = "frame_ledger"
_SHEET_FRAMES, _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX = 12, 4, 160, (40, 160)
_TENTHS_BELOW_S = 2 * _SHEET_FRAMES  # in shorter videos, neighbouring frames of the sheet need tenths of a second
_DURATION_TOLERANCE = 0.02  # headers round their duration: only a larger share of it counts as missing

_METADATA = (
    *("time_source", "normalized_by", "rate_fps", "width_px", "height_px", "video_path"),
    *("corrupt_count", "discarded_count", "decimated_count", "duplicated_count"),
)


def frame_rows(recording_id: str, video: NormalizedVideo) -> pa.Table:
    """Build the rows of `frames` for a normalized video.

    Args:
        recording_id: The recording.
        video: The result of normalization.
    """
    count, frames, measures = len(video.frames), video.frames, video.measures
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, count),
            "frame_index": np.arange(count, dtype=np.int32),
            "source_frame_index": np.array(frames.source_frame_index, np.int32),
            "time_s": np.array(frames.time_s, float),
            "is_duplicated": np.array(frames.is_duplicated, bool),
            "gap_s": np.array(frames.gap_s, float),
            "brightness": np.array(measures.brightness, float),
            "sharpness": np.maximum(np.array(measures.sharpness, float), 0),
            "motion": np.array(measures.motion, float),
            "scene_score": np.array(measures.scene_score, float),
            "black_share": np.array(measures.black_share, float),
            "camera_x_px": np.array(measures.camera_x, float) * video.width_px,
            "camera_y_px": np.array(measures.camera_y, float) * video.height_px,
        }
    )


def content_columns(video: NormalizedVideo, row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of `recording_contents` that normalization knows once it has decoded every frame.

    Args:
        video: The result of normalization.
        row: The recording's row of `recordings`.
    """
    ledger = video.ledger
    missing_s = [{"start_s": start_s, "end_s": end_s} for start_s, end_s in ledger.missing_s]
    claimed_s = row["duration_s_from_header"] or 0.0
    decoded_s = video.lead_s + video.duration_s
    # Some writers of AVI count one frame more than they write.
    claimed_count = (row["frame_count_from_header"] or 0) - (row["container_name"] == "avi")
    is_short = claimed_count > ledger.packet_count or video.is_truncated
    if is_short and not video.out_of_range_count and claimed_s > decoded_s * (1 + _DURATION_TOLERANCE):
        # Packets that were read but did not decode at the end belong to the same missing stretch.
        if missing_s and missing_s[-1]["end_s"] > video.duration_s:
            missing_s[-1]["end_s"] = claimed_s - video.lead_s
        else:
            missing_s.append({"start_s": video.duration_s, "end_s": claimed_s - video.lead_s})
    return {
        "time_source": video.time_source,
        "rate_fps_num_from_content": video.source_rate_fps.numerator,
        "rate_fps_den_from_content": video.source_rate_fps.denominator,
        "rate_fps_from_content": float(video.source_rate_fps),
        "is_variable_rate": video.is_variable_rate,
        "start_time_s_from_content": video.start_time_s,
        "lead_s": video.lead_s,
        "packet_count": ledger.packet_count,
        "container_packet_count": video.container_packet_count,
        "discarded_count": ledger.discarded_count,
        "corrupt_count": ledger.corrupt_count,
        "hidden_count": ledger.hidden_count,
        "extra_count": ledger.extra_count,
        "damaged_count": ledger.damaged_count,
        "missing_s": missing_s,
        "frame_count_from_content": ledger.decoded_count,
        "duration_s_from_content": video.duration_s,
        "decimated_count": video.decimated_count,
        "out_of_range_count": video.out_of_range_count,
        "duplicated_count": video.duplicated_count,
        "rate_fps_num": video.rate_fps.numerator,
        "rate_fps_den": video.rate_fps.denominator,
        "rate_fps": float(video.rate_fps),
        "width_px": video.width_px,
        "height_px": video.height_px,
        "region": list(video.region),
        "frame_count": len(video.frames),
        "normalized_by": video.normalized_by,
    }


def ledger_faults(row: Mapping[str, Any], frames: pa.Table, video: Path | None) -> list[str]:
    """Describe each sum of packets or frames of a recording that does not add up; empty if all do.

    Args:
        row: The recording's row of `recording_contents`.
        frames: Its rows of `frames`, with source_frame_index and is_duplicated.
        video: Path of its normalized video; None if that is the source itself, whose packets are counted already.
    """
    emitted_count = frames.num_rows - sum(frames["is_duplicated"].to_pylist())
    outcome_count = row["frame_count_from_content"] + sum(
        row[name] for name in ("corrupt_count", "discarded_count", "hidden_count")
    )
    sums = {
        "packets and extra frames = decoded + corrupt + discarded + hidden": (
            row["packet_count"] + row["extra_count"],
            outcome_count,
        ),
        "decoded frames = emitted + decimated + out of range": (
            row["frame_count_from_content"],
            emitted_count + row["decimated_count"] + row["out_of_range_count"],
        ),
        "emitted frames = different source frames": (
            emitted_count,
            len(set(frames["source_frame_index"].to_pylist())),
        ),
    }
    if video is not None:
        sums["rows of frames = frames in the file"] = (frames.num_rows, read_frame_count(video))
    if row["out_of_range_count"] == 0:  # with a time range, decoding stops before the end of the container
        sums["packets decoded = packets in the container"] = (row["packet_count"], row["container_packet_count"])
    return [
        f"{row['recording_id']}: {rule}, but {left} is not {right}."
        for rule, (left, right) in sums.items()
        if left != right
    ]


def ledger_check(store: Store, recording_ids: Sequence[str]) -> AssetCheckResult:
    """Check that every packet and frame of some recordings is accounted for."""
    rows = store.read(RECORDING_CONTENTS, recording_ids).to_pylist()
    columns = ["recording_id", "source_frame_index", "is_duplicated"]
    faults = []
    for row in rows:
        frames = store.read(FRAMES, [row["recording_id"]], columns)
        is_reference = row["normalized_by"] == "reference"
        faults += ledger_faults(row, frames, None if is_reference else store.data_folder / row["video_path"])
    return AssetCheckResult(
        asset_key=NORMALIZED_VIDEO,
        check_name=LEDGER_CHECK,
        passed=not faults,
        severity=AssetCheckSeverity.ERROR,
        metadata={"checked_recording_count": len(rows), "unexplained": faults},
    )


def normalize_recording(
    recording_id: str, store: Store, settings: Settings, progress: ReportProgress
) -> dict[str, Metadata]:
    """Normalize one recording; store its video, its frames and what its content is.

    Returns:
        Metadata by asset name; the status is `partial` if a part of the file does not decode.

    Raises:
        RejectedRecordingError: The file cannot be processed.
        RecordingError: The recording has not been probed, or no file has its content.
    """
    row = read_recording_rows(store, [recording_id]).get(recording_id)
    if row is None:
        raise RecordingError(NOT_PROBED)
    source = find_recording_file(recording_id, store, settings)
    video, path = _write_video(recording_id, source, row["camera"], store, settings, progress)
    content = {"recording_id": recording_id, **content_columns(video, row), "video_path": path}
    images = [image for _, image in video.measures.sampled_frames.thumbnails]
    content |= view_columns(images, {**row, **content}, store, settings)
    contents = pa.Table.from_pylist([content], schema=RECORDING_CONTENTS.arrow_schema)
    store.replace(FRAMES, [recording_id], frame_rows(recording_id, video))
    # Later stages consider a recording with a row of contents as normalized, so this row is the last.
    store.replace(RECORDING_CONTENTS, [recording_id], contents)
    status, error = media_status(content)
    metadata: dict[str, Any] = {"status": status} if error is None else {"status": status, "error": error}
    metadata |= {name: content[name] for name in _METADATA}
    metadata |= {"frame_count": len(video.frames), "duration_s": video.duration_s, "contact_sheet": frames_sheet(video)}
    means = ("brightness", "sharpness", "motion")
    return {
        NORMALIZED_VIDEO: metadata,
        FRAMES.name: count_metadata(
            len(video.frames), **{f"mean_{name}": float(np.mean(getattr(video.measures, name))) for name in means}
        ),
        RECORDING_CONTENTS.name: count_metadata(1),
    }


def _write_video(
    recording_id: str,
    source: RecordingFile,
    camera: str | None,
    store: Store,
    settings: Settings,
    progress: ReportProgress,
) -> tuple[NormalizedVideo, str]:
    """Write the normalized video of a source file, unless the source itself can be referenced.

    Returns:
        The result of normalization, and the path of the video relative to the data folder; the absolute path of the
        source if it is referenced.
    """
    target = store.media_folder / recording_id / "normalized.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial.mp4")
    try:
        with source.reading() as source_path:
            video = normalize_in_subprocess(source_path, partial, settings.video_of(camera), progress)
        store.check_fence()
        if video.normalized_by == "reference":
            target.unlink(missing_ok=True)
            return video, str(source.path)
        partial.replace(target)
        return video, str(target.relative_to(store.data_folder))
    finally:
        partial.unlink(missing_ok=True)


def frames_sheet(video: NormalizedVideo) -> MetadataValue:
    """Contact sheet of frames spread over a normalized video, each with its time."""
    thumbnails = video.measures.sampled_frames.thumbnails
    positions = np.unique(np.linspace(0, len(thumbnails) - 1, _SHEET_FRAMES).round().astype(int))
    with_tenths = video.duration_s < _TENTHS_BELOW_S
    cells = [
        (image, format_clock(video.frames.time_s[frame_index], with_tenths))
        for frame_index, image in (thumbnails[position] for position in positions)
    ]
    height_px = int(np.clip(_CELL_WIDTH_PX * video.height_px / video.width_px, *_CELL_HEIGHT_PX))
    sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_WIDTH_PX, height_px)
    return sheet_metadata(sheet, f"{len(cells)} of {len(video.frames)} frames, with their times")


@stage_asset(
    group=INGEST,
    files=(
        FileAsset(
            NORMALIZED_VIDEO,
            description="One MP4 per recording: upright, square pixels, constant rate, playable in any browser.",
            grain="One file per recording.",
            kinds=("ffmpeg", "mp4"),
            checks={LEDGER_CHECK: "Every packet read and every frame decoded is accounted for."},
        ),
    ),
    tables=(FRAMES, RECORDING_CONTENTS),
    deps=(RECORDINGS.name, CAMERA_VIDEO.name),
    version=lambda settings: StageVersion.build("normalized_video 4", {"video": settings.video.output_settings}),
    kinds=("ffmpeg",),
    runs_on_rejected=True,
    check=ledger_check,
)
def normalized_video(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
    """Normalize each recording and account for its packets and frames."""
    return normalize_recording(recording_id, run.store, run.settings, progress)
