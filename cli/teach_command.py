"""The command teach: trains a crop model on a few examples."""

import re
from pathlib import Path

import click

from cli.options import PATH_TYPE, QueryError, data_option, settings_option
from resources.environment import choose_settings
from resources.errors import PipelineError

_GOOD_ACCURACY = 0.9


@click.command()
@click.argument("name")
@click.option("--positive", multiple=True, required=True, help="An example; see below. Give it several times.")
@click.option("--negative", multiple=True, required=True, help="An example of anything else.")
@click.option("--output", type=PATH_TYPE, help="File to write [default: NAME.probe.json in the current folder].")
@data_option
@settings_option
def teach(
    name: str,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    output: Path | None,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Train the crop model NAME on examples, such as 20 tracks with a helmet and 20 without.

    An example is a crop (RECORDING:TRACK, or RECORDING:TRACK:RANK), a file with one crop per line, or a folder of
    pictures, also one that cv-assets crops wrote. The model is a linear probe on stored embeddings: it needs seconds.
    Its file and the printed lines for the settings make it an asset.
    """
    from cli.probe_teaching import teach_probe
    from cli.start_check import publish_for_query

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", name):
        raise QueryError(f"NAME {name!r} must be lower-case letters, digits and _, as the prefix of tables.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    publish_for_query(loaded_settings)
    lesson = teach_probe(loaded_settings, name, positive, negative)
    file = output or Path(f"{name}.probe.json")
    try:
        lesson.probe.write(file)
    except OSError as error:
        raise PipelineError(f"The probe {file} cannot be written: {error.strerror or error}.") from error
    click.echo(
        f"{file}: trained on {lesson.positive_count} positive and {lesson.negative_count} negative crops; "
        f"{lesson.accuracy:.0%} of the tracks that were left out of the training were recognised."
    )
    if lesson.accuracy < _GOOD_ACCURACY:
        click.echo("Give more examples, and such that differ in nothing but this.")
    entry = f"{{name: {name}, weights: {file}, task: probe, embeddings: {lesson.embeddings_name}}}"
    click.echo(f"Add to the settings, and process the recordings again:\n\ncrop_models:\n  - {entry}")
