"""normalized_video: one MP4 per recording; frames: one row per frame of it (recording_id, frame_index).

Every later stage reads this video and never the source. Its frames know which source frame they show and when.
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import AssetExecutionContext, AssetSpec, ResourceParam, multi_asset

from cv_assets.stage import (
    INGEST,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    media_status,
    recordings_partitions,
    table_asset,
    table_checks,
)
from resources.errors import RecordingError, RejectedRecordingError
from resources.media import NormalizedVideo, Progress, normalize, started_at
from resources.schema import FRAMES, RECORDINGS
from resources.settings import Settings, current_settings, settings_version
from resources.storage import Store
from resources.watched_folder import SourceIndex

NORMALIZED_VIDEO = "normalized_video"
STAGE = Stage(NORMALIZED_VIDEO, (FRAMES,), files=(NORMALIZED_VIDEO,))
_CODE_VERSION = settings_version("normalized_video 1", current_settings().video)


def frame_rows(recording_id: str, video: NormalizedVideo, started_at_utc: Any) -> pa.Table:
    """The rows of `frames` for a normalized video.

    Args:
        recording_id: The recording.
        video: What normalization made.
        started_at_utc: Wall-clock time of the first frame, or None.
    """
    count = len(video.frames)
    time_s = np.array(video.frames.time_s)
    if started_at_utc is None:
        captured = pa.nulls(count, FRAMES.arrow_schema.field("captured_at_utc").type)
    else:
        captured = pa.array([started_at_utc + timedelta(seconds=float(t)) for t in time_s])
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, count),
            "frame_index": np.arange(count, dtype=np.int32),
            "source_frame_index": np.array(video.frames.source_frame_index, np.int32),
            "time_s": time_s,
            "captured_at_utc": captured,
            "is_repeated": video.frames.is_repeated,
            "gap_s": np.array(video.frames.gap_s, float),
        }
    )


def content_columns(video: NormalizedVideo) -> dict[str, Any]:
    """The columns of `recordings` that only reading every frame can fill."""
    return {
        "time_source": video.time_source,
        "packet_count": video.packet_count,
        "discarded_count": video.discarded_count,
        "frame_count_from_content": video.decoded_count,
        "corrupt_count": video.corrupt_count,
        "duration_s_from_content": video.duration_s,
        "rate_fps_num": video.rate_fps.numerator,
        "rate_fps_den": video.rate_fps.denominator,
        "rate_fps": float(video.rate_fps),
        "width_px": video.width_px,
        "height_px": video.height_px,
        "frame_count": len(video.frames),
        "repeated_count": video.repeated_count,
        "decimated_count": video.decimated_count,
        "is_remuxed": video.is_remuxed,
    }


def normalize_recording(recording_id: str, store: Store, settings: Settings, progress: Progress) -> dict[str, Metadata]:
    """Write the video of one recording, its frames, and what was found in `recordings`.

    Raises:
        RejectedRecordingError: The file cannot be processed; its row says so too.
        RecordingError: There is no row of the recording yet.
    """
    found = store.read(RECORDINGS, [recording_id]).to_pylist()
    if not found:
        raise RecordingError("It has not been probed yet: materialize recordings first.")
    row = found[0]
    if row["status"] == "rejected":
        raise RejectedRecordingError(row["error"])
    source = SourceIndex(store).source_of(recording_id, settings.watched_folder)
    source_path = source.source_path if source else row["source_path"]
    target = store.media_folder / recording_id / "normalized.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial.mp4")
    try:
        video = normalize(settings.watched_folder / source_path, partial, settings.video, progress)
        partial.replace(target)
    except RejectedRecordingError as error:
        store.update(RECORDINGS, recording_id, {"status": "rejected", "error": str(error), "failed_stage": None})
        raise
    finally:
        partial.unlink(missing_ok=True)
    if row["started_at_source"] == "mtime":
        # The header's duration may lie; the content's does not.
        started, _ = started_at("", None, row["mtime_utc"], video.duration_s, settings.intake)
        row["started_at_utc"] = started
    row |= content_columns(video) | {"video_path": str(target.relative_to(store.data_folder))}
    status, error_sentence = media_status(row)
    row |= {"status": status, "error": error_sentence, "failed_stage": None}
    store.replace(FRAMES, [recording_id], frame_rows(recording_id, video, row["started_at_utc"]))
    store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema))
    shown = ("status", "time_source", "is_remuxed", "rate_fps", "width_px", "height_px", "video_path")
    return {
        FRAMES.name: count_metadata(len(video.frames)),
        NORMALIZED_VIDEO: {**{name: row[name] for name in shown}, "frame_count": len(video.frames)},
    }


@multi_asset(
    specs=[
        AssetSpec(
            NORMALIZED_VIDEO,
            deps=[RECORDINGS.name],
            description="One MP4 per recording: upright, square pixels, constant rate, playable in any browser.",
            group_name=INGEST,
            code_version=_CODE_VERSION,
            kinds={"ffmpeg", "mp4"},
            owners=["team:video-analytics"],
            metadata={"grain": "One file per recording.", "key": "recording_id"},
            partitions_def=recordings_partitions,
        ),
        table_asset(FRAMES, group=INGEST, code_version=_CODE_VERSION, deps=[RECORDINGS.name], kinds=("ffmpeg",)),
    ],
    check_specs=table_checks(FRAMES),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def normalized_video(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Normalize each recording and account for its frames."""
    yield from STAGE.each_recording(context, store, lambda r, told: normalize_recording(r, store, settings, told))
