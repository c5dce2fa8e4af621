"""normalized_video: one MP4 per recording; frames: one row per frame of it (recording_id, frame_index).

Every later stage reads this video and never the source. Its frames know which source frame they show and when.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    MetadataValue,
    ResourceParam,
    multi_asset,
)

from cv_assets.cameras import VIDEO
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    INGEST,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    media_status,
    recording_asset,
    sheet_metadata,
    table_asset,
    table_checks,
)
from resources.errors import RecordingError, RejectedRecordingError
from resources.media.isolation import normalize_isolated
from resources.media.normalizing import NormalizedVideo, Progress
from resources.media.reading import stored_frame_count
from resources.pictures import clock, contact_sheet
from resources.schema import FRAMES, RECORDINGS
from resources.settings import Settings, current_settings, settings_version
from resources.storage import Store
from resources.wall_clock import on_the_wall
from resources.watched_folder import SourceIndex, file_of

NORMALIZED_VIDEO = "normalized_video"
STAGE = Stage(NORMALIZED_VIDEO, (FRAMES,), files=(NORMALIZED_VIDEO,), of_the_file=True)
LEDGER_CHECK = "frame_ledger"
_CODE_VERSION = settings_version("normalized_video 3", current_settings().video.made)
_SHEET_FRAMES, _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX = 12, 4, 160, (40, 160)
_TENTHS_BELOW_S = 2 * _SHEET_FRAMES  # so that neighbours have different times
_DURATION_TOLERANCE = 0.02  # headers round; what is missing beyond this share of the duration is missing


def frame_rows(recording_id: str, video: NormalizedVideo, started_at_utc: Any, started_at_source: Any) -> pa.Table:
    """The rows of `frames` for a normalized video.

    Args:
        recording_id: The recording.
        video: What normalization made.
        started_at_utc: Wall-clock time of the first frame, or None.
        started_at_source: Where that is known from, or None.
    """
    count, frames, measures = len(video.frames), video.frames, video.measures
    time_s = np.array(frames.time_s)
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, count),
            "frame_index": np.arange(count, dtype=np.int32),
            "source_frame_index": np.array(frames.source_frame_index, np.int32),
            "time_s": time_s,
            "captured_at_utc": on_the_wall(started_at_utc, time_s),
            "captured_at_source": pa.array([started_at_source] * count, pa.string()),
            "is_duplicated": np.array(frames.is_duplicated, bool),
            "gap_s": np.array(frames.gap_s, float),
            "brightness": np.array(measures.brightness, float),
            "sharpness": np.maximum(np.array(measures.sharpness, float), 0),
            "motion": np.array(measures.motion, float),
            "scene_score": np.array(measures.scene_score, float),
            "black_share": np.array(measures.black_share, float),
        }
    )


def content_columns(video: NormalizedVideo, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `recordings` that only reading every frame can fill.

    Args:
        video: What normalization found.
        row: The recording's row as far as its header tells.
    """
    ledger = video.ledger
    missing_s = [{"start_s": start_s, "end_s": end_s} for start_s, end_s in ledger.missing_s]
    claimed_s = row["duration_s_from_header"] or 0.0
    decoded_s = video.lead_s + video.duration_s
    is_short = (row["frame_count_from_header"] or 0) > ledger.packet_count or video.is_broken_off
    if is_short and not video.cut_off_count and claimed_s > decoded_s * (1 + _DURATION_TOLERANCE):
        # What was read of the missing end is a part of it.
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
        "cut_off_count": video.cut_off_count,
        "duplicated_count": video.duplicated_count,
        "rate_fps_num": video.rate_fps.numerator,
        "rate_fps_den": video.rate_fps.denominator,
        "rate_fps": float(video.rate_fps),
        "width_px": video.width_px,
        "height_px": video.height_px,
        "frame_count": len(video.frames),
        "made_by": video.made_by,
    }


def _found_columns(before: Mapping[str, Any], video: NormalizedVideo, video_path: str) -> dict[str, list[Any]]:
    """The columns of a recording's row that normalization decides.

    Its start is the one that the row tells, moved by what its header had wrong. It is not asked of the settings: they
    may be newer than the clock that all other tables were given.
    """
    found = content_columns(video, before) | {"video_path": video_path}
    status, error = media_status({**before, **found})
    found |= {"status": status, "error": error, "failed_stage": None}
    if before["started_at_source"] == "mtime":  # when the file was written is when the recording ended
        found["started_at_utc"] = before["mtime_utc"] - timedelta(seconds=video.duration_s)
    elif before["started_at_utc"] is not None:
        later_s = video.lead_s - (before["lead_s"] or 0.0)
        found["started_at_utc"] = before["started_at_utc"] + timedelta(seconds=later_s)
    return {name: [value] for name, value in found.items()}


def ledger_faults(row: Mapping[str, Any], frames: pa.Table, video: Path) -> list[str]:
    """What of a recording's account does not add up, a sentence each; an empty list when all is explained.

    Args:
        row: Its row of `recordings`.
        frames: Its rows of `frames`, with source_frame_index and is_duplicated.
        video: Its normalized video.
    """
    emitted = frames.num_rows - sum(frames["is_duplicated"].to_pylist())
    explained = row["frame_count_from_content"] + sum(
        row[name] for name in ("corrupt_count", "discarded_count", "hidden_count")
    )
    sums = {
        "packets and extra frames = decoded + corrupt + discarded + hidden": (
            row["packet_count"] + row["extra_count"],
            explained,
        ),
        "decoded frames = emitted + decimated + cut off": (
            row["frame_count_from_content"],
            emitted + row["decimated_count"] + row["cut_off_count"],
        ),
        "emitted frames each show another frame of the source": (
            emitted,
            len(set(frames["source_frame_index"].to_pylist())),
        ),
        "rows of frames = frames in the file": (frames.num_rows, stored_frame_count(video)),
    }
    if row["cut_off_count"] == 0:  # a time range ends the reading early
        sums["packets decoded = packets in the container"] = (row["packet_count"], row["container_packet_count"])
    return [
        f"{row['recording_id']}: {rule}, but {left} is not {right}."
        for rule, (left, right) in sums.items()
        if left != right
    ]


def ledger_check(store: Store, recording_ids: Sequence[str]) -> AssetCheckResult:
    """Whether every packet and frame of the recordings is accounted for."""
    rows = store.read(RECORDINGS, recording_ids).to_pylist()
    columns = ["recording_id", "source_frame_index", "is_duplicated"]
    faults = []
    for row in rows:
        frames = store.read(FRAMES, [row["recording_id"]], columns)
        faults += ledger_faults(row, frames, store.data_folder / row["video_path"])
    return AssetCheckResult(
        asset_key=NORMALIZED_VIDEO,
        check_name=LEDGER_CHECK,
        passed=not faults,
        severity=AssetCheckSeverity.ERROR,
        metadata={"checked_recording_count": len(rows), "unexplained": faults},
    )


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
    known = SourceIndex(store).source_of(recording_id, settings.watched_folder)
    source = file_of(settings, known.source_path if known else row["source_path"])
    target = store.media_folder / recording_id / "normalized.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial.mp4")
    try:
        video = normalize_isolated(source, partial, settings.video_of(row["camera"]), progress)
        store.may_write()
        if video.made_by == "reference":
            target.unlink(missing_ok=True)
        else:
            partial.replace(target)
    except RejectedRecordingError as error:
        store.update(RECORDINGS, recording_id, {"status": "rejected", "error": str(error), "failed_stage": None})
        raise
    finally:
        partial.unlink(missing_ok=True)
    video_path = str(source) if video.made_by == "reference" else str(target.relative_to(store.data_folder))
    # Not the row as it was before all this work: its clock may have been put right meanwhile.
    store.change(RECORDINGS, [recording_id], lambda rows: _found_columns(rows.to_pylist()[0], video, video_path))
    row = store.read(RECORDINGS, [recording_id]).to_pylist()[0]
    store.replace(
        FRAMES, [recording_id], frame_rows(recording_id, video, row["started_at_utc"], row["started_at_source"])
    )
    shown = (
        *("status", "time_source", "made_by", "rate_fps", "width_px", "height_px", "video_path"),
        *("corrupt_count", "discarded_count", "decimated_count", "duplicated_count"),
    )
    told = {name: row[name] for name in shown} | {"frame_count": len(video.frames), "duration_s": video.duration_s}
    means = ("brightness", "sharpness", "motion")
    return {
        FRAMES.name: count_metadata(
            len(video.frames), **{f"mean_{name}": float(np.mean(getattr(video.measures, name))) for name in means}
        ),
        NORMALIZED_VIDEO: {**told, "contact_sheet": frames_sheet(video)},
    }


def frames_sheet(video: NormalizedVideo) -> MetadataValue:
    """Pictures spread over a normalized video, each with its time."""
    kept = video.measures.glimpses.kept
    places = np.unique(np.linspace(0, len(kept) - 1, _SHEET_FRAMES).round().astype(int))
    tenths = video.duration_s < _TENTHS_BELOW_S
    cells = [(kept[place][1], clock(video.frames.time_s[kept[place][0]], tenths)) for place in places]
    height_px = int(np.clip(_CELL_WIDTH_PX * video.height_px / video.width_px, *_CELL_HEIGHT_PX))
    sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_WIDTH_PX, height_px)
    return sheet_metadata(sheet, f"{len(cells)} frames of the recording and their times")


@multi_asset(
    specs=[
        recording_asset(
            NORMALIZED_VIDEO,
            group=INGEST,
            code_version=_CODE_VERSION,
            deps=[RECORDINGS.name, VIDEO.name],
            kinds=("ffmpeg", "mp4"),
            description="One MP4 per recording: upright, square pixels, constant rate, playable in any browser.",
            grain="One file per recording.",
            key="recording_id",
        ),
        table_asset(
            FRAMES,
            group=INGEST,
            code_version=_CODE_VERSION,
            deps=[RECORDINGS.name, VIDEO.name],
            kinds=("ffmpeg",),
        ),
    ],
    check_specs=[
        *table_checks(FRAMES),
        AssetCheckSpec(
            LEDGER_CHECK,
            asset=NORMALIZED_VIDEO,
            description="Every packet read and every frame decoded is accounted for; nothing is unexplained.",
        ),
    ],
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def normalized_video(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Normalize each recording and account for its frames."""
    yield from STAGE.each_recording(
        context,
        store,
        lambda r, told: normalize_recording(r, store, settings, told),
        lambda done: ledger_check(store, done),
    )
