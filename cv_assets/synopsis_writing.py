"""Writes a synopsis of stored recordings of one fixed camera: the video, and where each object is in it."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np

from cv_assets.media_status import open_video
from resources.clips.clip_writer import encode_frames
from resources.clips.recap import RECAP_RATE_FPS, NothingToRecapError
from resources.clips.synopsis_frames import SynopsisPictures, background_counts, median_background, synopsis_frames
from resources.clips.synopsis_plan import (
    SynopsisObject,
    build_object,
    default_length_s,
    is_in_background,
    overlap_share,
    place_objects,
)
from resources.config.settings import Settings
from resources.draft_file import draft_file
from resources.errors import PipelineError
from resources.exports.annotations import RecordingAnnotations, read_annotations
from resources.media.frame_reader import sample_images
from resources.storage.delta_store import Store

_MAX_MOVED_SHARE = 0.02  # of the frame's width
_FORMAT = "cv-assets synopsis 1"


@dataclass(frozen=True)
class SynopsisOutcome:
    """What was written.

    Attributes:
        length_s: Length of the synopsis.
        object_count: Number of objects that it shows.
        background_count: Number of objects that stand still, and are part of the background.
        overlap_share: Share of the objects' area that other objects cover.
        recorded_s: Length of the recordings.
    """

    length_s: float
    object_count: int
    background_count: int
    overlap_share: float
    recorded_s: float


def write_synopsis(
    results: duckdb.DuckDBPyConnection,
    rows: Sequence[dict[str, Any]],
    settings: Settings,
    out: Path,
    length_s: float | None,
) -> SynopsisOutcome:
    """Write a synopsis, and a JSON file of the same name beside it; both appear once they are whole.

    Args:
        results: The published results.
        rows: The recordings of one camera in order of time, from `sort_by_time`.
        settings: The data folder, and the cameras.
        out: The MP4 file.
        length_s: Its length; None chooses one in which a person can follow the objects.

    Raises:
        NothingToRecapError: There is no object to show.
        PipelineError: The camera moves, a video or the file cannot be read or written.
    """
    _check_same_view(results, rows)
    recordings = [read_annotations(results, row, is_corrected=True, has_untracked=False) for row in rows]
    objects, background_count = _choose_objects(recordings, length_s)
    if not objects:
        raise NothingToRecapError("No recording has an object that moves: there is nothing to show.")
    count = round((length_s or default_length_s(objects)) * float(RECAP_RATE_FPS))
    size_px = (recordings[0].width_px, recordings[0].height_px)
    placed = place_objects(objects, count, size_px)
    labels = _labels(placed, rows, recordings, settings)
    _write(out, placed, recordings, Store(settings.data_folder), labels, count)
    recorded_s = sum(len(recording.times_s) / float(recording.rate_fps) for recording in recordings)
    shown_s = count / float(RECAP_RATE_FPS)
    return SynopsisOutcome(shown_s, len(placed), background_count, overlap_share(placed), recorded_s)


def _check_same_view(results: duckdb.DuckDBPyConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Check that the camera stands still, and that its frames have one size.

    Raises:
        PipelineError: The camera moves, or there are frames of several sizes.
    """
    for row in rows:
        (moved_px,) = results.execute(
            "SELECT max(greatest(abs(camera_x_px), abs(camera_y_px))) FROM frames WHERE recording_id = ?",
            [row["recording_id"]],
        ).fetchall()[0]
        if (moved_px or 0) > _MAX_MOVED_SHARE * row["width_px"]:
            raise PipelineError(
                f"{row['recording_id']}: the camera moves (by {moved_px:.0f} px), and a synopsis needs one that stands "
                "still: write a recap instead."
            )
        if (row["width_px"], row["height_px"]) != (rows[0]["width_px"], rows[0]["height_px"]):
            raise PipelineError(
                f"{row['recording_id']}: the frames have another size than those of {rows[0]['recording_id']}, and a "
                "synopsis needs one view: name recordings of one size."
            )


def _choose_objects(
    recordings: Sequence[RecordingAnnotations], length_s: float | None
) -> tuple[list[SynopsisObject], int]:
    """The objects in order of time, and how many are part of the background."""
    objects, background_count = [], 0
    for recording in recordings:
        tracks = sorted(recording.tracks().items(), key=lambda track: track[1][0].frame_index)
        for number, boxes in tracks:
            if is_in_background(boxes, len(recording.times_s)):
                background_count += 1
            else:
                rate_fps = float(recording.rate_fps)
                objects.append(build_object(recording.recording_id, number, boxes, rate_fps, length_s))
    return objects, background_count


def _labels(
    objects: Sequence[SynopsisObject],
    rows: Sequence[dict[str, Any]],
    recordings: Sequence[RecordingAnnotations],
    settings: Settings,
) -> dict[int, list[str]]:
    """The time of each object in each of its frames: of the clock, or since the start of a recording without one."""
    starts = {row["recording_id"]: row["started_at_utc"] for row in rows}
    times_s = {recording.recording_id: recording.times_s for recording in recordings}
    zone = ZoneInfo(settings.camera(rows[0]["camera"]).time_zone or settings.ingest.time_zone)
    labels = {}
    for number, item in enumerate(objects):
        start, texts = starts[item.recording_id], []
        for time_s in times_s[item.recording_id][item.frame_indices].tolist():
            if start is None:
                texts.append(f"{int(time_s) // 60}:{int(time_s) % 60:02d}")
            else:
                texts.append(f"{(start + timedelta(seconds=time_s)).astimezone(zone):%H:%M:%S}")
        labels[number] = texts
    return labels


def _write(
    out: Path,
    objects: Sequence[SynopsisObject],
    recordings: Sequence[RecordingAnnotations],
    store: Store,
    labels: dict[int, list[str]],
    frame_count: int,
) -> None:
    size_px = (recordings[0].width_px, recordings[0].height_px)
    places = out.with_suffix(".json")
    with draft_file("synopsis", places) as places_draft, draft_file("synopsis", out) as draft:
        with tempfile.TemporaryFile(dir=out.parent) as file:
            pictures = SynopsisPictures(objects, size_px, file)
            images: list[np.ndarray] = []
            for recording, image_count in zip(recordings, background_counts(len(recordings)), strict=True):
                rate_fps = recording.rate_fps
                with open_video(recording.recording_id, store) as video:
                    pictures.cut(recording.recording_id, video, rate_fps)
                    images += sample_images(video, image_count, len(recording.times_s), rate_fps) if image_count else ()
            background = median_background(images)
            encode_frames(synopsis_frames(objects, background, pictures, labels, frame_count), RECAP_RATE_FPS, draft)
        times_s = {recording.recording_id: recording.times_s for recording in recordings}
        content = {
            "format": _FORMAT,
            "width_px": size_px[0],
            "height_px": size_px[1],
            "rate_fps": float(RECAP_RATE_FPS),
            "frame_count": frame_count,
            "objects": [
                {
                    "recording_id": item.recording_id,
                    "track_id": item.track_id,
                    "class_name": item.class_name,
                    "start_frame": item.start_frame,
                    "label": labels[number][0],
                    "times_s": times_s[item.recording_id][item.frame_indices].round(3).tolist(),
                    "boxes": item.boxes.round(1).tolist(),
                }
                for number, item in enumerate(objects)
            ],
        }
        places_draft.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
        places.unlink(missing_ok=True)  # no page shows the places of an earlier video
