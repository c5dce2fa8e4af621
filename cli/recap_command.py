"""The command recap: a short video of all that happened."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from cli.options import PATH_TYPE, data_option, settings_option
from resources.config.settings import Settings
from resources.environment import choose_settings
from resources.errors import PipelineError, RecordingError

if TYPE_CHECKING:
    import duckdb

    from resources.clips.overlay import ClipPainter
    from resources.clips.recap import RecapRecording
    from resources.exports.annotations import RecordingAnnotations


@click.command()
@click.argument("recordings", nargs=-1, metavar="[RECORDING]...")
@click.option("--camera", help="All recordings of this camera; '' for those directly in the watched folder.")
@click.option("--day", help="Of the camera: only this day, as in 2026-03-01, in the camera's time zone.")
@click.option("--length", type=float, help="Length of the recap in seconds [default: at the speed of the recordings].")
@click.option("--boxes/--no-boxes", default=True, show_default=True, help="Draw the boxes of the tracks.")
@click.option("--out", type=PATH_TYPE, required=True, help="File to write (.mp4).")
@data_option
@settings_option
def recap(
    recordings: tuple[str, ...],
    camera: str | None,
    day: str | None,
    length: float | None,
    boxes: bool,
    out: Path,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Write a video of the stretches of RECORDINGs, or of a camera's day, in which there is something to see.

    Each frame has its wall clock; each stretch is a chapter. With --length the speed is such that all of it fits.
    """
    from cli.start_check import publish_for_query
    from resources.clips.clip_writer import DrawFrame, encode_frames
    from resources.clips.recap import RECAP_RATE_FPS, plan_recap, recap_chapters, recap_frames
    from resources.exports.annotations import read_annotations, select_recordings
    from resources.storage.results_database import open_results

    if not recordings and camera is None:
        raise PipelineError("recap: name recordings, or a camera with --camera.")
    if day is not None and camera is None:
        raise PipelineError("recap: --day is the day of a camera: name it with --camera.")
    if length is not None and length <= 0:
        raise PipelineError(f"recap: --length is {length:g} s, and must be more than 0.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    _check_output(out, loaded_settings)
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        rows = _in_order_of_time(results, select_recordings(results, recordings, camera))
        if day is not None:
            time_zone = loaded_settings.camera(camera or None).time_zone or loaded_settings.ingest.time_zone
            rows = _on_day(rows, day, time_zone)
        parts = plan_recap([_recap_recording(results, row) for row in rows], length)
        rows_by_id = {row["recording_id"]: row for row in rows}

        @contextmanager
        def open_recording(recording_id: str) -> Iterator[tuple[Path, DrawFrame]]:
            with _open_video(recording_id, loaded_settings) as video:
                row = rows_by_id[recording_id]
                recording = read_annotations(results, row, is_corrected=True, has_untracked=False)
                yield video, _painter(row, recording, loaded_settings, has_boxes=boxes).draw

        draft = out.with_name(f".{out.name}.partial")
        try:
            frames = recap_frames(parts, open_recording)
            count = encode_frames(frames, RECAP_RATE_FPS, draft, recap_chapters(parts))
            draft.rename(out)
        except OSError as error:
            raise PipelineError(f"The recap {out} cannot be written: {error.strerror or error}.") from error
        finally:
            draft.unlink(missing_ok=True)
    seconds = sum((part.last_frame - part.first_frame + 1) / float(part.recording.rate_fps) for part in parts)
    recording_count = len({part.recording.recording_id for part in parts})
    click.echo(
        f"{out}: {count / float(RECAP_RATE_FPS):.1f} s of {len(parts)} stretches with {seconds:.1f} s in all, from "
        f"{recording_count} of {len(rows)} recordings."
    )


def _check_output(out: Path, settings: Settings) -> None:
    """Check that a file can be written.

    Raises:
        PipelineError: It exists, is no MP4 file, or lies in a folder of the pipeline.
    """
    if out.suffix.lower() != ".mp4":
        raise PipelineError(f"The recap {out} is an MP4 file: end its name with .mp4.")
    if out.exists():
        raise PipelineError(f"The file {out} exists: name another one with --out.")
    for name, folder in (*(("watched", path) for path in settings.watched_folders), ("data", settings.data_folder)):
        if out.resolve().is_relative_to(folder.resolve()):
            raise PipelineError(f"The recap {out} would lie inside the {name} folder: choose another with --out.")
    if not out.parent.is_dir():
        raise PipelineError(f"The folder {out.parent} does not exist.")


def _in_order_of_time(results: "duckdb.DuckDBPyConnection", rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the start of each recording, and sort by it; recordings without one come last."""
    starts = dict(results.execute("SELECT recording_id, started_at_utc FROM recordings").fetchall())
    dated = [{**row, "started_at_utc": starts[row["recording_id"]]} for row in rows]
    return sorted(
        dated, key=lambda row: (row["started_at_utc"] is None, row["started_at_utc"] or 0, row["recording_id"])
    )


def _on_day(rows: list[dict[str, Any]], day: str, time_zone: str) -> list[dict[str, Any]]:
    """The recordings that start on a day.

    Raises:
        PipelineError: The day is none, or has no recording.
    """
    try:
        start = datetime.combine(date.fromisoformat(day), time(), ZoneInfo(time_zone))
    except ValueError as error:
        raise PipelineError(f"{day!r} is no day: give it as in 2026-03-01.") from error
    end = datetime.combine(start.date() + timedelta(days=1), time(), ZoneInfo(time_zone))
    chosen = [row for row in rows if row["started_at_utc"] and start <= row["started_at_utc"] < end]
    if not chosen:
        raise PipelineError(f"No recording of the camera starts on {day}.")
    return chosen


def _recap_recording(results: "duckdb.DuckDBPyConnection", row: dict[str, Any]) -> "RecapRecording":
    from resources.clips.recap import RecapRecording

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
    return RecapRecording(row["recording_id"], rate_fps, row["frame_count"], objects, events)


@contextmanager
def _open_video(recording_id: str, settings: Settings) -> Iterator[Path]:
    from cv_assets.media_status import find_normalized_video, read_normalized_row
    from resources.storage.delta_store import Store

    try:
        row = read_normalized_row(recording_id, Store(settings.data_folder))
        with find_normalized_video(row, settings.data_folder).reading() as video:
            yield video
    except RecordingError as error:
        raise PipelineError(f"{recording_id}: {error}") from error


def _painter(
    row: dict[str, Any], recording: "RecordingAnnotations", settings: Settings, *, has_boxes: bool
) -> "ClipPainter":
    from resources.clips.overlay import ClipPainter, Overlay

    camera = settings.camera(row["camera"])
    overlay = Overlay(has_boxes=has_boxes, has_clock=True)
    time_zone = camera.time_zone or settings.ingest.time_zone
    return ClipPainter(overlay, recording, {}, camera, row["started_at_utc"], time_zone)
