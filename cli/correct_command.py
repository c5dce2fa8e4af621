"""The command correct: stores corrections of tracks, from the command line or from a file."""

import csv
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.options import PATH_TYPE, data_option, name_of_user, settings_option
from resources.config.settings import Settings
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors

_EDGES = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
_NAMES = {"track": "track_id", "other": "other_track_id", "time": "time_s", "start": "start_s", "end": "end_s"}


@click.command()
@click.argument("action", required=False, metavar="[ACTION]")
@click.argument("subject", required=False, metavar="[RECORDING]")
@click.option(
    "--file",
    "file",
    type=PATH_TYPE,
    help="Read a CSV or JSON file of corrections, or edited tracks of CVAT, COCO or MOT.",
)
@click.option("--recording", help="The recording of a CVAT or MOT file, if its task or folder has another name.")
@click.option("--track", type=int, help="Number of the track.")
@click.option("--other", type=int, help="Number of the second track, of merge and swap.")
@click.option("--time", type=float, help="Seconds from the start, of split, swap and move.")
@click.option("--start", type=float, help="Seconds at which the checked stretch begins.")
@click.option("--end", type=float, help="Seconds at which the checked stretch ends.")
@click.option("--class", "class_name", help="New class, of relabel.")
@click.option("--attribute", help="Name of an attribute.")
@click.option("--value", help="Value of the attribute.")
@click.option("--box", type=float, nargs=4, help="New edges of the box, of move: left, top, right, bottom, in pixels.")
@click.option("--by", help="Who corrects [default: the name of the user].")
@click.option("--note", help="A remark.")
@data_option
@settings_option
def correct(
    action: str | None,
    subject: str | None,
    file: Path | None,
    recording: str | None,
    by: str | None,
    data: Path | None,
    settings: Path | None,
    box: tuple[float, float, float, float] | None,
    **options: Any,
) -> None:
    """Correct tracks; the pipeline counts again what depends on them, without a model.

    ACTION is accept, reject, relabel, merge, split, swap, move, attribute or check of a RECORDING; or undo, with the id
    of a correction instead of a recording. Corrections survive a rerun of the model or the tracker.
    """
    from resources.corrections.correction_requests import CorrectionRequest, number_requests, store_corrections
    from resources.storage.locks import is_pipeline_running
    from resources.storage.results_database import publish

    if (file is None) == (action is None):
        raise PipelineError("correct: name an action and a recording, or a file with --file.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    if not (data_folder / "tables").is_dir():
        raise PipelineError(f"The data folder {data_folder} has no results yet: name another one with --data.")
    if file is not None:
        tracks = _read_tracks(file, recording, loaded_settings)
        rows = _read_file(file) if tracks is None else tracks
        requests = number_requests(
            [CorrectionRequest(f"{file}, row {number}", row) for number, row in enumerate(rows, 1)]
        )
    else:
        values = {_NAMES.get(name, name): value for name, value in options.items()}
        values |= dict(zip(_EDGES, box or (), strict=False))
        values |= {"action": action, "undone_id" if action == "undo" else "recording_id": subject}
        written = {column: f"--{option}" for option, column in _NAMES.items()} | dict.fromkeys(_EDGES, "--box")
        written |= {"class_name": "--class", "attribute": "--attribute", "value": "--value"}
        written |= {"recording_id": "a recording", "undone_id": "the id of a correction"}
        requests = [CorrectionRequest(f"correct {action}", values, options=written)]
    prepare_data_folder(loaded_settings)
    store = Store(data_folder)
    with disk_errors(data_folder):
        stored = store_corrections(store, requests, by or name_of_user())
        publish(store, loaded_settings)
    for correction in stored if file is None else ():
        click.echo(f"{correction.correction_id}  {correction.recording_id}  {correction.action}")
    before = len(requests) - len(stored)
    click.echo(
        f"Stored {len(stored)} correction{'s' * (len(stored) != 1)}"
        + (f"; {before} were stored before." if before else ".")
    )
    if stored:
        applied_by = "The running pipeline applies" if is_pipeline_running(data_folder) else "cv-assets process applies"
        click.echo(f"{applied_by} them; v_corrections lists what does not fit.")


def _read_tracks(file: Path, recording_id: str | None, settings: Settings) -> list[dict[str, Any]] | None:
    """Compare the tracks of a file of another tool with those of its recordings; prints what cannot be corrected.

    Returns:
        The corrections; None if the file has corrections, not tracks.

    Raises:
        PipelineError: The file is damaged, or has tracks of a recording that does not exist.
    """
    from cli.start_check import publish_for_query
    from resources.exports.annotations import read_annotations, select_recordings
    from resources.exports.corrected_files import find_corrections, read_annotation_file
    from resources.storage.results_database import open_results

    tracks = read_annotation_file(file, recording_id)
    if tracks is None:
        return None
    publish_for_query(settings)
    rows: list[dict[str, Any]] = []
    with open_results(settings.data_folder) as results:
        for name, content in tracks.items():
            (row,) = select_recordings(results, [name], None)
            recording = read_annotations(results, row, is_corrected=True, has_untracked=False)
            corrections = find_corrections(recording, content)
            rows += map(dict, corrections.rows)
            for sentence in corrections.left_out:
                click.echo(f"{row['recording_id']}: {sentence}; no correction expresses this.", err=True)
    return rows


def _read_file(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file, or the objects of a JSON file.

    Raises:
        PipelineError: The file cannot be read, is neither, or has a column that does not exist.
    """
    from resources.corrections.correction_requests import FIELDS

    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if file.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise PipelineError(f"The file {file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, csv.Error) as error:
        raise PipelineError(f"The file {file} is neither CSV nor JSON (.json): {error}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise PipelineError(f"The file {file} must have a list of objects with action and recording_id.")
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in FIELDS:
            nearest = difflib.get_close_matches(str(name), FIELDS, n=1)
            remedy = f"did you mean {nearest[0]}?" if nearest else f"there are: {', '.join(FIELDS)}."
            raise PipelineError(f"The file {file} has the column {name!r}, which does not exist; {remedy}")
    if not rows:
        raise PipelineError(f"The file {file} has no rows.")
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]
