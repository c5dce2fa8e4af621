"""The command clip: cuts clips out of recordings, with boxes, trails, labels and clocks drawn on them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import PATH_TYPE, data_option, settings_option
from resources.config.settings import Settings
from resources.environment import choose_settings
from resources.errors import PipelineError, RecordingError

if TYPE_CHECKING:
    import duckdb

    from resources.clips.clip_selection import Stretch
    from resources.clips.overlay import ClipPainter, Overlay
    from resources.exports.annotations import RecordingAnnotations


@click.command()
@click.argument("recording")
@click.option("--track", "tracks", type=int, multiple=True, help="A clip of this track; may be given several times.")
@click.option("--event", "events", type=int, multiple=True, help="A clip of this event, from 1 in order of time.")
@click.option("--from", "start", help="Start: seconds, 1:02.5, or a wall-clock time (UTC without an offset).")
@click.option("--to", "end", help="End, as --from.")
@click.option("--context", type=float, default=3.0, show_default=True, help="Seconds before and after it.")
@click.option("--boxes", is_flag=True, help="Draw the boxes of the tracks, as people have corrected them.")
@click.option("--trails", is_flag=True, help="Draw where they were in the two seconds before.")
@click.option("--labels", is_flag=True, help="Draw their classes and numbers.")
@click.option("--zones", is_flag=True, help="Draw the zones and lines of the camera.")
@click.option("--clock", is_flag=True, help="Draw the wall clock, in the time zone of the camera.")
@click.option("--blur", metavar="CLASS[,CLASS]", default="", help="Cover the objects of these classes.")
@click.option("--out", type=PATH_TYPE, help="File to write; a folder for several clips [default: the current folder].")
@data_option
@settings_option
def clip(
    recording: str,
    tracks: tuple[int, ...],
    events: tuple[int, ...],
    start: str | None,
    end: str | None,
    out: Path | None,
    data: Path | None,
    settings: Path | None,
    **options: Any,
) -> None:
    """Cut clips out of RECORDING (its id, or a beginning of it): of tracks, of events, between two times, or all of it.

    Beside each clip, its events are written as captions (.srt, .vtt). Frames on which nothing is drawn are copied where
    the cut allows it; else the clip is encoded, and is exact to the frame all the same.
    """
    from cli.start_check import publish_for_query
    from resources.clips.clip_selection import parse_time, stretch_between, stretch_of_event, stretch_of_track
    from resources.exports.annotations import read_annotations, select_recordings
    from resources.start_times import recording_start
    from resources.storage.delta_store import Store
    from resources.storage.recording_rows import read_recording_rows
    from resources.storage.results_database import open_results

    if (tracks or events) and (start or end):
        raise PipelineError("clip: give tracks and events, or --from and --to, not both.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        (selected,) = select_recordings(results, [recording], None)
        annotations = read_annotations(results, selected, is_corrected=True, has_untracked=False)
        row = read_recording_rows(Store(loaded_settings.data_folder), [annotations.recording_id])[
            annotations.recording_id
        ]
        clock = recording_start(row, loaded_settings)
        context_s = options["context"]
        stretches = [stretch_of_track(annotations, number, context_s) for number in tracks]
        stretches += [stretch_of_event(results, annotations, number, context_s) for number in events]
        if not stretches:
            times_s = [None if text is None else parse_time(text, clock and clock[0]) for text in (start, end)]
            stretches = [stretch_between(annotations, *times_s)]
        files = _clip_files(out, annotations, stretches, loaded_settings)
        overlay = _overlay(options, tracks)
        painter = None
        if not overlay.is_empty:
            painter = _painter(results, selected, annotations, overlay, loaded_settings, clock and clock[0])
        for file, stretch in zip(files, stretches, strict=True):
            is_copied = _write(results, row, annotations, stretch, file, painter, loaded_settings)
            duration_s = (stretch.last_frame - stretch.first_frame + 1) / annotations.rate_fps
            how = "copied" if is_copied else "encoded"
            click.echo(
                f"{file}: frames {stretch.first_frame} to {stretch.last_frame}, {float(duration_s):.2f} s, {how}."
            )


def _overlay(options: dict[str, Any], tracks: Sequence[int]) -> "Overlay":
    from resources.clips.overlay import Overlay

    flags = {f"has_{name}": options[name] for name in ("boxes", "trails", "labels", "zones", "clock")}
    unreadable = [name.strip() for name in options["blur"].split(",") if name.strip()]
    return Overlay(**flags, track_id=tracks[0] if len(tracks) == 1 else None, unreadable=unreadable)


def _clip_files(
    out: Path | None, recording: "RecordingAnnotations", stretches: "Sequence[Stretch]", settings: Settings
) -> list[Path]:
    """The file of each clip.

    Raises:
        PipelineError: A file exists, or would lie in a folder of the pipeline.
    """
    if out is not None and out.suffix.lower() == ".mp4":
        if len(stretches) > 1:
            raise PipelineError(f"{out} is one file for {len(stretches)} clips: name a folder with --out.")
        files = [out]
    else:
        names = [re.sub(r"[^\w.-]+", "-", f"{recording.recording_id}-{stretch.name}") for stretch in stretches]
        files = [(out or Path()) / f"{name}.mp4" for name in names]
    for name, folder in (*(("watched", path) for path in settings.watched_folders), ("data", settings.data_folder)):
        if any(file.resolve().is_relative_to(folder.resolve()) for file in files):
            raise PipelineError(f"The clip {files[0]} would lie inside the {name} folder: choose another with --out.")
    for file in files:
        if file.exists():
            raise PipelineError(f"The file {file} exists: name another one with --out.")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PipelineError(f"The folder {file.parent} cannot be made: {error.strerror or error}.") from error
    return files


def _painter(
    results: "duckdb.DuckDBPyConnection",
    selected: dict[str, Any],
    annotations: "RecordingAnnotations",
    overlay: "Overlay",
    settings: Settings,
    started_at_utc: Any,
) -> "ClipPainter":
    """Prepare what is drawn.

    Raises:
        PipelineError: A class to cover is not among the objects of the recording.
    """
    from resources.clips.overlay import ClipPainter
    from resources.clips.redaction import redacted_areas
    from resources.exports.annotations import list_classes, read_annotations

    camera = settings.camera(selected["camera"])
    areas = {}
    if overlay.unreadable:
        known = list_classes(results, None, is_corrected=False, has_untracked=True)
        for name in overlay.unreadable:
            if name not in known:
                raise PipelineError(f"No object has the class {name!r}; there are: {', '.join(known) or 'none'}.")
        # Detections that are in no track are covered, too, and tracks as they are with and without corrections.
        detected = read_annotations(results, selected, is_corrected=False, has_untracked=True)
        tracked = read_annotations(results, selected, is_corrected=False, has_untracked=False)
        boxes = [box for box in detected.boxes if box.track_id is None]
        areas = dict(
            redacted_areas(
                [*boxes, *tracked.boxes], overlay.unreadable, len(annotations.times_s), float(annotations.rate_fps)
            )
        )
        corrected = redacted_areas(
            annotations.boxes, overlay.unreadable, len(annotations.times_s), float(annotations.rate_fps)
        )
        for frame, of_frame in corrected.items():
            areas.setdefault(frame, []).extend(of_frame)
    time_zone = camera.time_zone or settings.ingest.time_zone
    return ClipPainter(overlay, annotations, areas, camera, started_at_utc, time_zone)


def _write(
    results: "duckdb.DuckDBPyConnection",
    row: dict[str, Any],
    annotations: "RecordingAnnotations",
    stretch: "Stretch",
    file: Path,
    painter: "ClipPainter | None",
    settings: Settings,
) -> bool:
    """Write a clip and its captions; the file appears once it is whole. Returns whether it was copied."""
    from cv_assets.media_status import find_normalized_video
    from resources.clips.clip_selection import format_srt, format_vtt, read_captions
    from resources.clips.clip_writer import write_clip

    captions, chapters = read_captions(results, annotations, stretch)
    draft = file.with_name(f".{file.name}.partial")
    frames = range(stretch.first_frame, stretch.last_frame + 1)
    try:
        with find_normalized_video(row, settings.data_folder).reading() as video:
            draw = painter.draw if painter else None
            is_copied = write_clip(video, frames, annotations.rate_fps, draft, draw, chapters)
        if captions:
            file.with_suffix(".srt").write_text(format_srt(captions), encoding="utf-8")
            file.with_suffix(".vtt").write_text(format_vtt(captions), encoding="utf-8")
        draft.rename(file)
    except RecordingError as error:
        raise PipelineError(f"{annotations.recording_id}: {error}") from error
    except OSError as error:
        raise PipelineError(f"The clip {file} cannot be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return is_copied
