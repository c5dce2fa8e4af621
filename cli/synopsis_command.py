"""The command synopsis: objects of different times, shown together over the background of a fixed camera."""

from pathlib import Path

import click

from cli.options import PATH_TYPE, data_option, settings_option
from cli.output_files import check_new_file
from resources.config.settings import Settings
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError

_MAX_LENGTH_S = 3600


@click.command()
@click.argument("recordings", nargs=-1, metavar="[RECORDING]...")
@click.option("--camera", help="All recordings of this camera; '' for those directly in the watched folder.")
@click.option("--day", help="Of the camera: only this day, as in 2026-03-01, in the camera's time zone.")
@click.option("--length", type=float, help="Length in seconds [default: such that people can follow the objects].")
@click.option("--out", type=PATH_TYPE, help="File to write (.mp4) [default: that of the recording's page].")
@data_option
@settings_option
def synopsis(
    recordings: tuple[str, ...],
    camera: str | None,
    day: str | None,
    length: float | None,
    out: Path | None,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Write a video in which objects of different times are shown together, each with its time.

    A JSON file beside it says where each object is. Without --out, a single RECORDING has its synopsis on the page
    /recordings/RECORDING/synopsis, where a click on an object opens its moment. The camera must stand still.
    """
    from cli.start_check import publish_for_query
    from cv_assets.recap_writing import select_by_day
    from cv_assets.synopsis_writing import write_synopsis
    from resources.storage.results_database import open_results

    if not recordings and camera is None:
        raise PipelineError("synopsis: name recordings, or a camera with --camera.")
    if day is not None and camera is None:
        raise PipelineError("synopsis: --day is the day of a camera: name it with --camera.")
    if length is not None and not 1 <= length <= _MAX_LENGTH_S:
        raise PipelineError(f"synopsis: --length is {length:g} s, and must be between 1 and {_MAX_LENGTH_S}.")
    if out is None and len(recordings) != 1:
        raise PipelineError("synopsis: the page of a recording has a synopsis of that alone: name a file with --out.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    if out is not None:
        check_new_file("synopsis", out, loaded_settings, ".mp4", beside=[".json"])
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        rows = select_by_day(results, recordings, camera, day, loaded_settings)
        if len({row["camera"] for row in rows}) > 1:
            raise PipelineError("synopsis: the recordings are of several cameras: name those of one.")
        file = out or _file_of_page(loaded_settings, rows[0]["recording_id"])
        outcome = write_synopsis(results, rows, loaded_settings, file, length)
    still = f", and {outcome.background_count} in the background that stand still" if outcome.background_count else ""
    objects = f"{outcome.object_count} object{'s' * (outcome.object_count != 1)}"
    click.echo(
        f"{file}: {outcome.length_s:.1f} s with {objects} of {outcome.recorded_s:.1f} s{still}; "
        f"{100 * outcome.overlap_share:.0f} % of their area is covered by others."
    )
    if out is None:
        click.echo(f"cv-assets serve shows it at /recordings/{rows[0]['recording_id']}/synopsis.")


def _file_of_page(settings: Settings, recording_id: str) -> Path:
    from resources.clips.synopsis_file import synopsis_file

    prepare_data_folder(settings)
    file = synopsis_file(settings.data_folder, recording_id)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"The folder {file.parent} cannot be made: {error.strerror or error}.") from error
    return file
