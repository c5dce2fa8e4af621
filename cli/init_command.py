"""The command init: writes a commented settings file to start with, with the cameras found in a folder."""

import json
import shlex
from pathlib import Path

import click

from cli.options import PATH_TYPE
from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_NAME, load_settings
from resources.errors import PipelineError
from resources.watched_files import camera_of, list_watched_files

_HEADER = """\
# Settings of the pipeline; every key is optional. `cv-assets settings` prints all keys with their meaning and value.
# Commands that are started in the folder of this file use it; others are given it with --settings.

# Recordings are read from here; nothing is written into this folder. Its first folders are the cameras.
watched_folder: {watched_folder}
# Tables and videos are written here: some GB, apart from the recordings.
data_folder: data

detections:
  # A path, or the name of a model that Ultralytics publishes, which is downloaded into weights/ once. Where that is
  # not possible, the bundled detector takes the place of yolo26n.pt.
  weights: {weights}
  # Keep only these classes; without the key, all classes of the model.
  # class_names: [person, bicycle, car]

ingest:
  # Time zone of the times in file names, such as gate_2026-01-31_12-00-00.mp4.
  time_zone: UTC
"""
_CAMERA = """\
  {name}:  # {count} {noun}
    # Draw zones and lines: cv-assets zones {argument}
    # zones:
    #   - {{name: yard, points: [[0.1, 0.5], [0.6, 0.5], [0.6, 1], [0.1, 1]]}}
    # lines:
    #   - {{name: door, points: [[0.5, 1], [0.5, 0]]}}
    # Seconds added to the times of its clock; negative if the clock is fast.
    clock_offset_s: 0
"""


@click.command(name="init")
@click.argument("folder", type=PATH_TYPE)
def write_starter_settings(folder: Path) -> None:
    """Write a commented pipeline.yaml for the recordings in FOLDER into the current folder, with a key per camera.

    An existing pipeline.yaml is never overwritten.
    """
    file = Path.cwd() / SETTINGS_NAME
    watched_folder = folder.expanduser().absolute()
    if file.parent.resolve().is_relative_to(watched_folder.resolve()):
        raise PipelineError(
            f"The current folder {file.parent} is inside the folder of the recordings, and results must not be written "
            "there: change to another folder and call cv-assets init again."
        )
    text = starter_settings(watched_folder)
    try:
        with file.open("x", encoding="utf-8") as content:
            content.write(text)
    except FileExistsError as error:
        raise PipelineError(f"{file} exists and is not overwritten: move it away, or edit it.") from error
    except OSError as error:
        raise PipelineError(f"{file} cannot be written: {error.strerror or error}.") from error
    load_settings(file)
    click.echo(f"Wrote {file}. Next: cv-assets doctor, then cv-assets process {shlex.quote(str(folder))}.")


def starter_settings(watched_folder: Path) -> str:
    """Compose the text of a settings file for the cameras in a watched folder.

    Args:
        watched_folder: Absolute path of the folder.

    Raises:
        PipelineError: The folder cannot be read.
    """
    settings = Settings(watched_folder=watched_folder)
    counts: dict[str, int] = {}
    for path in list_watched_files(settings).files:
        camera = camera_of(path) or ""
        counts[camera] = counts.get(camera, 0) + 1
    header = _HEADER.format(
        watched_folder=json.dumps(str(watched_folder), ensure_ascii=False), weights=settings.detections.weights
    )
    cameras = [
        _CAMERA.format(
            name=json.dumps(name, ensure_ascii=False),
            argument=shlex.quote(name),
            count=count,
            noun="recording" if count == 1 else "recordings",
        )
        for name, count in sorted(counts.items())
    ]
    if not cameras:
        return f"{header}\n# The folder has no recordings yet.\n# cameras:\n#   gate: {{clock_offset_s: -90}}\n"
    return f"{header}\ncameras:\n{''.join(cameras)}"
