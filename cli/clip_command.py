"""The command clip: cuts clips out of recordings, with boxes, trails, labels and clocks drawn on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import PATH_TYPE, context_option, data_option, settings_option
from cli.output_files import check_new_file, check_outside_pipeline
from resources.config.settings import Settings
from resources.environment import choose_settings
from resources.errors import PipelineError

if TYPE_CHECKING:
    from resources.clips.overlay import Overlay


@click.command()
@click.argument("recording")
@click.option("--track", "tracks", type=int, multiple=True, help="A clip of this track; may be given several times.")
@click.option("--event", "events", type=int, multiple=True, help="A clip of this event, from 1 in order of time.")
@click.option("--from", "start", help="Start: seconds, 1:02.5, or a wall-clock time (UTC without an offset).")
@click.option("--to", "end", help="End, as --from.")
@click.option(
    "--search",
    "query",
    metavar="QUERY",
    help="A clip of each object that is found: a class, a crop RECORDING:TRACK, a picture, or a description.",
)
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Most clips of --search.")
@context_option
@click.option("--boxes", is_flag=True, help="Draw the boxes of the tracks, as people have corrected them.")
@click.option("--trails", is_flag=True, help="Draw where they were in the two seconds before.")
@click.option("--labels", is_flag=True, help="Draw their classes and numbers.")
@click.option("--zones", is_flag=True, help="Draw the zones and lines of the camera.")
@click.option("--clock", is_flag=True, help="Draw the wall clock, in the time zone of the camera.")
@click.option("--blur", metavar="CLASS,face,plate", default="", help="Cover these classes, faces, and number plates.")
@click.option("--source", "is_from_source", is_flag=True, help="Take the recording's file, in its full resolution.")
@click.option("--sound", "has_sound", is_flag=True, help="With --source: with the sound of the file.")
@click.option("--out", type=PATH_TYPE, help="File to write; a folder for several clips [default: the current folder].")
@data_option
@settings_option
def clip(
    recording: str,
    tracks: tuple[int, ...],
    events: tuple[int, ...],
    start: str | None,
    end: str | None,
    query: str | None,
    limit: int,
    is_from_source: bool,
    has_sound: bool,
    out: Path | None,
    data: Path | None,
    settings: Path | None,
    **options: Any,
) -> None:
    """Cut clips out of RECORDING (its id, or a beginning of it): of tracks, of events, between two times, or all of it.

    Beside each clip, its events are written as captions (.srt, .vtt). Frames on which nothing is drawn are copied where
    the cut allows it; else the clip is encoded, and is exact to the frame all the same.
    """
    from cli.clip_search import search_tracks
    from cli.start_check import publish_for_query
    from cv_assets.recording_clips import RecordingClips, covered_names
    from resources.storage.results_database import open_results

    if (tracks or events) and (start or end):
        raise PipelineError("clip: give tracks and events, or --from and --to, not both.")
    if query is not None and (tracks or events or start or end):
        raise PipelineError("clip: give --search, or tracks, events and times, not both.")
    if has_sound and not is_from_source:
        raise PipelineError("clip: normalized videos have no sound: give --source with --sound.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        clips = RecordingClips(results, loaded_settings, recording)
        overlay = _overlay(options, tracks, covered_names(results, options["blur"]))
        if query is not None:
            tracks = search_tracks(results, loaded_settings, clips.annotations, query, limit)
        stretches = clips.stretches(tracks, events, start, end, options["context"])
        files = _clip_files(out, [clips.file_name(stretch) for stretch in stretches], loaded_settings)
        painter = clips.painter(overlay, stretches)
        for file, stretch in zip(files, stretches, strict=True):
            is_copied = clips.write(stretch, file, painter, is_from_source=is_from_source, has_sound=has_sound)
            how = "copied" if is_copied else "encoded"
            frames = f"frames {stretch.first_frame} to {stretch.last_frame}"
            click.echo(f"{file}: {frames}, {clips.duration_s(stretch):.2f} s, {how}.")


def _overlay(options: dict[str, Any], tracks: Sequence[int], unreadable: Sequence[str]) -> "Overlay":
    from resources.clips.overlay import Overlay

    flags = {f"has_{name}": options[name] for name in ("boxes", "trails", "labels", "zones", "clock")}
    return Overlay(**flags, track_id=tracks[0] if len(tracks) == 1 else None, unreadable=unreadable)


def _clip_files(out: Path | None, names: Sequence[str], settings: Settings) -> list[Path]:
    """The file of each clip.

    Raises:
        PipelineError: One file is named for several clips, or a file cannot be written.
    """
    if out is not None and out.suffix.lower() == ".mp4":
        if len(names) > 1:
            raise PipelineError(f"{out} is one file for {len(names)} clips: name a folder with --out.")
        files = [out]
    else:
        files = [(out or Path()) / name for name in names]
    try:
        for file in files:
            check_outside_pipeline("clip", file, settings)
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"The folder {file.parent} cannot be made: {error.strerror or error}.") from error
    for file in files:
        check_new_file("clip", file, settings, ".mp4", beside=[".srt", ".vtt"])
    return files
