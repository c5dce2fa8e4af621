"""The command process: processes every recording of a folder, with progress and a table of the results."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.adopt_command import recommend_adoption
from cli.options import (
    PATH_TYPE,
    data_option,
    interrupt_on_sigterm,
    settings_option,
    warn_of_unmatched_names,
    weights_option,
)
from cli.progress_display import display_progress
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.locks import data_folder_lock
from resources.storage.recording_clocks import guessed_clocks_sentence

if TYPE_CHECKING:
    from cli.process_folder import RecordingOutcome


@click.command()
@click.argument("folder", type=PATH_TYPE)
@data_option
@weights_option
@settings_option
@click.option("--stale", is_flag=True, help="Also recompute assets that are stale because settings or weights changed.")
def process(folder: Path, data: Path | None, weights: str | None, settings: Path | None, stale: bool) -> None:
    """Process every recording in FOLDER, then exit with 0 if all succeeded, or 1 if any failed."""
    if not process_with_progress(folder=folder, data=data, weights=weights, settings=settings, stale=stale):
        sys.exit(1)


def process_with_progress(
    *,
    folder: Path,
    data: Path | None = None,
    weights: str | None = None,
    settings: Path | None = None,
    stale: bool = False,
) -> bool:
    """Process every recording in a folder, printing progress and a table of the results.

    Args:
        folder: The watched folder.
        data: Data folder; None means that of the settings.
        weights: Weights file or name; None means those of the settings.
        settings: Settings file; None means the one in force.
        stale: Whether stale assets are recomputed, too.

    Returns:
        Whether every recording succeeded, and the tables lack no results.

    Raises:
        PipelineError: A person must act first; nothing was written.
    """
    from resources.inference.weights import check_weights
    from resources.notifications.delivery import check_channel
    from resources.watched_files import list_watched_files

    loaded_settings = choose_settings(settings=settings, watched_folder=folder, data_folder=data, weights=weights)
    data_folder = loaded_settings.data_folder
    for channel in loaded_settings.notifications.channels:
        check_channel(channel)
    listing = list_watched_files(loaded_settings)
    for problem in listing.problems:
        click.echo(problem, err=True)
    if not listing.files:
        raise PipelineError(f"The watched folder {loaded_settings.watched_folder} has no recordings: nothing to do.")
    for model in loaded_settings.all_models:
        check_weights(model, loaded_settings.watched_folders)
    prepare_data_folder(loaded_settings)
    warn_of_unmatched_names(loaded_settings)
    with data_folder_lock(data_folder), disk_errors(data_folder), interrupt_on_sigterm():
        # Imported here, so that a command that a person must correct fails before Dagster is loaded.
        from cli.process_folder import is_failure, process_folder
        from cli.start_check import check_tables_at_start
        from cv_assets.asset_graph import AssetGraph
        from sensors.recording_states import STALE_VARIABLE

        if stale:
            os.environ[STALE_VARIABLE] = "1"
        graph = AssetGraph.build(loaded_settings)
        is_whole = check_tables_at_start(data_folder)
        recommend_adoption(data_folder)
        with display_progress() as show_progress:
            outcomes, had_work = process_folder(graph, show_progress)
    count, watched_folder = len(outcomes), loaded_settings.watched_folder
    if not had_work and is_whole:
        click.echo(f"Nothing to do: all {count} recordings of {watched_folder} were processed before.")
    if not is_whole:
        click.echo("Results are still missing, as listed at the start: run cv-assets repair, then this command again.")
    _print_outcomes(outcomes)
    if sentence := guessed_clocks_sentence(Store(data_folder)):
        click.echo(sentence)
    click.echo(f"Results: {data_folder / 'results.duckdb'}")
    return is_whole and not any(is_failure(outcome) for outcome in outcomes)


def _print_outcomes(outcomes: "Sequence[RecordingOutcome]") -> None:
    from cli.outcome_table import format_outcomes, printable_name

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in format_outcomes(outcomes, width):
        click.echo(line)
    for outcome in outcomes:
        if outcome.error:
            click.echo(f"{printable_name(outcome.source_path)}: {outcome.status}: {outcome.error}")
