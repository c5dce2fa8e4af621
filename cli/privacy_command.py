"""The command privacy-copy: copies a video with people, faces and number plates covered, and audits the copy."""

import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import PATH_TYPE, data_option, settings_option
from cli.output_files import check_new_file
from resources.environment import choose_settings
from resources.errors import PipelineError, RecordingError

if TYPE_CHECKING:
    from resources.clips.privacy_copy import CopyAudit

_DEFAULT_COVER = ("person", "face", "plate")
_LISTED = 20


@click.command("privacy-copy")
@click.argument("recording")
@click.option(
    "--cover",
    metavar="CLASS,face,plate",
    help="What is covered: classes, face, and plate [default: privacy_copy.cover, else person,face,plate].",
)
@click.option("--out", type=PATH_TYPE, required=True, help="File to write (.mp4).")
@data_option
@settings_option
def privacy_copy(recording: str, cover: str | None, out: Path, data: Path | None, settings: Path | None) -> None:
    """Write a copy of RECORDING (its id, or a beginning of it) on which people, faces and number plates are covered.

    The copy is audited: a fresh search must find no box, face or plate of the original on it, else no file is written.
    It has no sound.
    """
    from cli.start_check import publish_for_query
    from cv_assets.media_status import open_video, read_normalized_row
    from cv_assets.recording_clips import covered_names
    from resources.clips.privacy_copy import describe_visible, write_privacy_copy
    from resources.clips.stored_boxes import read_privacy_plan
    from resources.draft_file import draft_file
    from resources.exports.annotations import select_recordings
    from resources.inference.detector import Models
    from resources.storage.delta_store import Store
    from resources.storage.results_database import open_results

    loaded_settings = choose_settings(settings=settings, data_folder=data)
    check_new_file("privacy copy", out, loaded_settings, ".mp4")
    publish_for_query(loaded_settings)
    store = Store(loaded_settings.data_folder)
    with open_results(loaded_settings.data_folder) as results:
        (selected,) = select_recordings(results, [recording], None)
        if cover is None and not loaded_settings.privacy_copy.cover:
            names = covered_names(results, ",".join(_DEFAULT_COVER), must_exist=False)
        else:
            names = covered_names(results, cover or ",".join(loaded_settings.privacy_copy.cover))
    if not names:
        raise PipelineError("privacy-copy: --cover names nothing: give classes, face or plate.")
    recording_id = selected["recording_id"]
    started_s = time.monotonic()
    try:
        row = read_normalized_row(recording_id, store)
        plan = read_privacy_plan(store, recording_id, names, loaded_settings.rename_classes)
        rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
        size_px = (row["width_px"], row["height_px"])
        with draft_file("privacy copy", out) as draft, open_video(recording_id, store) as video:
            audit = write_privacy_copy(video, rate_fps, row["frame_count"], size_px, draft, plan, Models())
            if audit.visible_count:
                raise PipelineError(f"{recording_id}: {describe_visible(audit, float(rate_fps))}: no copy is written.")
    except RecordingError as error:
        raise PipelineError(f"{recording_id}: {error}") from error
    duration_s = audit.frame_count / float(rate_fps)
    click.echo(
        f"{out}: {audit.frame_count} frames, {duration_s:.2f} s, at {duration_s / (time.monotonic() - started_s):.2f} "
        f"times the speed of the recording; covered: {', '.join(names)}."
    )
    _print_audit(audit, float(rate_fps))


def _print_audit(audit: "CopyAudit", rate_fps: float) -> None:
    click.echo(
        f"Audit of the copy: {audit.visible_box_count} of {audit.box_count} boxes, {audit.visible_face_count} of "
        f"{audit.face_count} faces and {audit.visible_text_count} of {audit.text_count} texts of the original are seen."
    )
    for sighting in audit.still_seen[:_LISTED]:
        what = f"text {sighting.text}" if sighting.text else sighting.kind
        click.echo(f"Still seen at {sighting.frame_index / rate_fps:.2f} s, not on the original: {what}.")
    if len(audit.still_seen) > _LISTED:
        click.echo(f"And {len(audit.still_seen) - _LISTED} more.")
