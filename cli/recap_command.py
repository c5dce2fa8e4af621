"""The command recap: a short video of all that happened."""

from pathlib import Path

import click

from cli.options import PATH_TYPE, data_option, settings_option
from cli.output_files import check_new_file
from resources.environment import choose_settings
from resources.errors import PipelineError


@click.command()
@click.argument("recordings", nargs=-1, metavar="[RECORDING]...")
@click.option("--camera", help="All recordings of this camera; '' for those directly in the watched folder.")
@click.option("--day", help="Of the camera: only this day, as in 2026-03-01, in the camera's time zone.")
@click.option("--length", type=float, help="Length of the recap in seconds [default: at the speed of the recordings].")
@click.option("--boxes/--no-boxes", default=True, show_default=True, help="Draw the boxes of the tracks.")
@click.option("--motion/--no-motion", default=True, show_default=True, help="Also show what moves and is no object.")
@click.option("--out", type=PATH_TYPE, required=True, help="File to write (.mp4).")
@data_option
@settings_option
def recap(
    recordings: tuple[str, ...],
    camera: str | None,
    day: str | None,
    length: float | None,
    boxes: bool,
    motion: bool,
    out: Path,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Write a video of the stretches of RECORDINGs, or of a camera's day, in which there is something to see.

    Each frame has its wall clock; each stretch is a chapter. With --length the speed is such that all of it fits.
    """
    from cli.start_check import publish_for_query
    from cv_assets.recap_writing import RecapOptions, select_by_day, write_recap
    from resources.storage.results_database import open_results

    if not recordings and camera is None:
        raise PipelineError("recap: name recordings, or a camera with --camera.")
    if day is not None and camera is None:
        raise PipelineError("recap: --day is the day of a camera: name it with --camera.")
    if length is not None and not length > 0:
        raise PipelineError(f"recap: --length is {length:g} s, and must be more than 0.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    check_new_file("recap", out, loaded_settings, ".mp4")
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        rows = select_by_day(results, recordings, camera, day, loaded_settings)
        options = RecapOptions(length, has_boxes=boxes, has_motion=motion)
        outcome = write_recap(results, rows, loaded_settings, out, options)
    click.echo(outcome.describe(out, len(rows)))
