"""Writes recaps of stored recordings: on demand by the command, and every night by the schedule."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np

from cv_assets.media_status import open_video
from resources.clips.clip_writer import DrawFrame, encode_frames
from resources.clips.motion_stretches import motion_stretches
from resources.clips.overlay import ClipPainter, Overlay
from resources.clips.recap import (
    RECAP_RATE_FPS,
    RecapPart,
    RecapRecording,
    plan_recap,
    recap_chapters,
    recap_frames,
    shortest_length_s,
)
from resources.config.settings import Settings
from resources.draft_file import draft_file
from resources.errors import PipelineError
from resources.exports.annotations import read_annotations, select_recordings
from resources.storage.delta_store import Store

_FIRST_YEAR, _LAST_YEAR = 1971, 2199


@dataclass(frozen=True)
class RecapOptions:
    """What a recap shows.

    Attributes:
        length_s: Its length; None plays all stretches at their own speed.
        is_length_flexible: A length that is too short to show every stretch is exceeded, instead of being refused.
        has_boxes: Boxes of the tracks are drawn.
        has_motion: Stretches in which something moves are shown, too, not only those with objects.
    """

    length_s: float | None = None
    is_length_flexible: bool = False
    has_boxes: bool = True
    has_motion: bool = True


@dataclass(frozen=True)
class RecapOutcome:
    """What was written.

    Attributes:
        length_s: Length of the recap.
        stretch_count: Number of stretches.
        stretches_s: Their length in all.
        recording_count: Number of recordings with stretches.
    """

    length_s: float
    stretch_count: int
    stretches_s: float
    recording_count: int

    def describe(self, file: Path, selected_count: int) -> str:
        """What was written, in a sentence.

        Args:
            file: The recap.
            selected_count: Number of recordings that were selected for it.
        """
        noun = "stretch" if self.stretch_count == 1 else "stretches"
        return (
            f"{file}: {self.length_s:.1f} s of {self.stretch_count} {noun} with {self.stretches_s:.1f} s in all, "
            f"from {self.recording_count} of {selected_count} recordings."
        )


def sort_by_time(results: duckdb.DuckDBPyConnection, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the start of each recording, and sort by it; recordings without one come last.

    Args:
        results: The published results.
        rows: The recordings, from `select_recordings`.
    """
    starts = dict(results.execute("SELECT recording_id, started_at_utc FROM recordings").fetchall())
    dated = [{**row, "started_at_utc": starts[row["recording_id"]]} for row in rows]
    return sorted(
        dated, key=lambda row: (row["started_at_utc"] is None, row["started_at_utc"] or 0, row["recording_id"])
    )


def select_by_day(
    results: duckdb.DuckDBPyConnection,
    recordings: Sequence[str],
    camera: str | None,
    day: str | None,
    settings: Settings,
) -> list[dict[str, Any]]:
    """Select recordings in order of time, by their names or by camera and day.

    Args:
        results: The published results.
        recordings: Ids of recordings, or unique beginnings of them; empty for all of the camera.
        camera: The camera; None without one.
        day: The day in the camera's time zone on which they start; None selects all days, and needs no camera.
        settings: The time zones.

    Raises:
        PipelineError: A recording or the camera is not known, the day is none, or no recording starts on it.
    """
    rows = sort_by_time(results, select_recordings(results, recordings, camera))
    if day is None:
        return rows
    start, end = day_edges(parse_day(day), settings.camera(camera or "").time_zone or settings.ingest.time_zone)
    rows = [row for row in rows if row["started_at_utc"] and start <= row["started_at_utc"] < end]
    if not rows:
        raise PipelineError(f"No recording of the camera starts on {day}.")
    return rows


def parse_day(text: str) -> date:
    """Parse a day.

    Raises:
        PipelineError: The text is none.
    """
    try:
        day = date.fromisoformat(text)
        if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
            raise ValueError(f"not between {_FIRST_YEAR} and {_LAST_YEAR}")
    except ValueError as error:
        raise PipelineError(f"{text!r} is no day: give it as in 2026-03-01.") from error
    return day


def day_edges(day: date, time_zone: str) -> tuple[datetime, datetime]:
    """Start of a day and of the next one in a time zone."""
    zone = ZoneInfo(time_zone)
    return datetime.combine(day, time(), zone), datetime.combine(day + timedelta(days=1), time(), zone)


def plan_stored_recap(
    results: duckdb.DuckDBPyConnection, rows: Sequence[dict[str, Any]], options: RecapOptions
) -> list[RecapPart]:
    """Choose the frames of a recap of stored recordings.

    Args:
        results: The published results.
        rows: The recordings in order of time, from `sort_by_time`.
        options: What is shown.

    Raises:
        NothingToRecapError: There is no stretch.
        PipelineError: The length is too short.
    """
    recordings = [_recap_recording(results, row, has_motion=options.has_motion) for row in rows]
    length_s = options.length_s
    if length_s is not None and options.is_length_flexible:
        length_s = max(length_s, shortest_length_s(recordings))
    return plan_recap(recordings, length_s)


def write_recap(
    results: duckdb.DuckDBPyConnection,
    rows: Sequence[dict[str, Any]],
    settings: Settings,
    out: Path,
    options: RecapOptions,
) -> RecapOutcome:
    """Write a recap; the file appears once it is whole, and replaces one of that name.

    Args:
        results: The published results.
        rows: The recordings in order of time, from `sort_by_time`.
        settings: The data folder, and the cameras.
        out: The MP4 file.
        options: What is shown.

    Raises:
        NothingToRecapError: There is no stretch.
        PipelineError: A video or the file cannot be read or written, or the length is too short.
    """
    parts = plan_stored_recap(results, rows, options)
    rows_by_id = {row["recording_id"]: row for row in rows}
    store = Store(settings.data_folder)

    @contextmanager
    def open_recording(recording_id: str) -> Iterator[tuple[Path, DrawFrame]]:
        with open_video(recording_id, store) as video:
            yield video, _painter(results, rows_by_id[recording_id], settings, has_boxes=options.has_boxes).draw

    with draft_file("recap", out) as draft:
        count = encode_frames(recap_frames(parts, open_recording), RECAP_RATE_FPS, draft, recap_chapters(parts))
    stretches_s = sum((part.last_frame - part.first_frame + 1) / float(part.recording.rate_fps) for part in parts)
    recording_count = len({part.recording.recording_id for part in parts})
    return RecapOutcome(count / float(RECAP_RATE_FPS), len(parts), stretches_s, recording_count)


def _recap_recording(results: duckdb.DuckDBPyConnection, row: dict[str, Any], *, has_motion: bool) -> RecapRecording:
    values = {"id": row["recording_id"]}
    objects = results.execute(
        """SELECT first_frame_index, last_frame_index, concat(class_name, ' ', track_id) FROM tracks
        WHERE recording_id = $id
        ORDER BY ALL""",
        values,
    ).fetchall()
    events = results.execute(
        """SELECT frame_index, concat(class_name, ' ', track_id, ' ', event, ' ', coalesce(line_name, zone_name))
        FROM zone_events WHERE recording_id = $id ORDER BY ALL""",
        values,
    ).fetchall()
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    motion: list[tuple[int, int]] = []
    if has_motion:
        measures = results.execute(
            "SELECT motion FROM frames WHERE recording_id = $id ORDER BY frame_index", values
        ).fetchnumpy()
        motion = motion_stretches(np.asarray(measures["motion"]), float(rate_fps))
    return RecapRecording(row["recording_id"], rate_fps, row["frame_count"], objects, events, motion)


def _painter(
    results: duckdb.DuckDBPyConnection, row: dict[str, Any], settings: Settings, *, has_boxes: bool
) -> ClipPainter:
    recording = read_annotations(results, row, is_corrected=True, has_untracked=False)
    camera = settings.camera(row["camera"])
    time_zone = camera.time_zone or settings.ingest.time_zone
    overlay = Overlay(has_boxes=has_boxes, has_clock=True)
    return ClipPainter(overlay, recording, {}, camera, row["started_at_utc"], time_zone)
