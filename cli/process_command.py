"""The command process: processes every recording of a folder, with progress and a table of the results."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.adopt_command import recommend_adoption
from cli.next_commands import compose_command, compose_next_commands
from cli.options import (
    PATH_TYPE,
    data_option,
    interrupt_on_sigterm,
    settings_option,
    warn_of_unmatched_names,
    weights_option,
)
from cli.progress_display import display_progress
from resources.config.settings import Settings
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.locks import data_folder_lock
from resources.storage.recording_clocks import guessed_clocks_sentence

if TYPE_CHECKING:
    from cli.process_folder import RecordingOutcome
    from cli.stale_report import StaleReason, StaleReport


@click.command()
@click.argument("folder", type=PATH_TYPE)
@data_option
@weights_option
@settings_option
@click.option("--stale", is_flag=True, help="Also recompute stale results that need a model or the video again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; all other output is on standard error.")
def process(
    folder: Path, data: Path | None, weights: str | None, settings: Path | None, stale: bool, as_json: bool
) -> None:
    """Process every recording in FOLDER, then exit with 0 if all succeeded, or 1 if any failed.

    Results that are stale because settings changed are recomputed if that needs neither a model nor the video again.
    """
    is_success = process_with_progress(
        folder=folder, data=data, weights=weights, settings=settings, stale=stale, as_json=as_json
    )
    if not is_success:
        sys.exit(1)


def process_with_progress(
    *,
    folder: Path,
    data: Path | None = None,
    weights: str | None = None,
    settings: Path | None = None,
    stale: bool = False,
    as_json: bool = False,
) -> bool:
    """Process every recording in a folder, printing progress and a table of the results.

    Args:
        folder: The watched folder.
        data: Data folder; None means that of the settings.
        weights: Weights file or name; None means those of the settings.
        settings: Settings file; None means the one in force.
        stale: Whether all stale assets are recomputed, not only those that need neither a model nor the video again.
        as_json: Whether a JSON document is printed instead of the table.

    Returns:
        Whether every recording succeeded, and the tables lack no results.

    Raises:
        PipelineError: A person must act first; nothing was written.
    """
    loaded_settings = choose_settings(settings=settings, watched_folder=folder, data_folder=data, weights=weights)
    data_folder = loaded_settings.data_folder
    _check_before_start(loaded_settings)
    prepare_data_folder(loaded_settings)
    warn_of_unmatched_names(loaded_settings)
    with data_folder_lock(data_folder), disk_errors(data_folder), interrupt_on_sigterm():
        # Imported here, so that a command that a person must correct fails before Dagster is loaded.
        from cli.process_folder import is_failure, process_folder
        from cli.stale_report import read_stale_report
        from cli.start_check import check_tables_at_start
        from cv_assets.asset_graph import AssetGraph
        from sensors.recomputation import STALE_VARIABLE

        os.environ[STALE_VARIABLE] = "all" if stale else "cheap"
        graph = AssetGraph.build(loaded_settings)
        is_whole = check_tables_at_start(data_folder)
        recommend_adoption(data_folder)
        report = read_stale_report(Store(data_folder), graph)
        if report.cheap.recording_count:
            click.echo(report.cheap.describe("are recomputed; no model runs:"), err=True)
        with display_progress() as show_progress:
            outcomes, had_work = process_folder(graph, show_progress)
    say = partial(click.echo, err=as_json)
    if not had_work and is_whole:
        say(f"Nothing to do: all {len(outcomes)} recordings of {loaded_settings.watched_folder} were processed before.")
    if not is_whole:
        say("Results are still missing, as listed at the start: run cv-assets repair, then this command again.")
    if as_json:
        stale_reasons = [] if stale else report.costly.reasons
        click.echo(_encode_outcomes(outcomes, stale_reasons, data_folder, had_work=had_work, is_whole=is_whole))
    else:
        _print_outcomes(outcomes)
    if sentence := guessed_clocks_sentence(Store(data_folder)):
        say(sentence)
    options = {"--data": data, "--settings": settings}
    command = compose_command("process", folder, "--stale", options={**options, "--weights": weights})
    for sentence in _describe_remaining_stale(report, command, has_recomputed_all=stale):
        say(sentence)
    say(f"Results: {data_folder / 'results.duckdb'}")
    say("\n".join(["Next:", *(f"  {command}" for command in compose_next_commands(options))]))
    return is_whole and not any(is_failure(outcome) for outcome in outcomes)


def _check_before_start(settings: Settings) -> None:
    """Check what a person must correct before anything is written.

    Raises:
        PipelineError: The watched folder has no recordings, or a channel or weights cannot be used.
    """
    from resources.inference.crop_model_check import find_crop_model_problems
    from resources.inference.weights import check_weights, download_default_weights
    from resources.notifications.delivery import check_channel
    from resources.watched_files import list_watched_files

    for channel in settings.notifications.channels:
        check_channel(channel)
    listing = list_watched_files(settings)
    for problem in listing.problems:
        click.echo(problem, err=True)
    if not listing.files:
        raise PipelineError(f"The watched folder {settings.watched_folder} has no recordings: nothing to do.")
    for model in settings.all_models:
        check_weights(model, settings.watched_folders)
    for problem in find_crop_model_problems(settings):
        raise PipelineError(problem)
    for sentence in download_default_weights(settings.all_models):
        click.echo(sentence, err=True)


def _describe_remaining_stale(report: "StaleReport", command: str, *, has_recomputed_all: bool) -> list[str]:
    """Describe the results that are still stale.

    Args:
        report: The stale results before the recordings were processed.
        command: The command that recomputes all that can be recomputed.
        has_recomputed_all: Whether this was done.
    """
    if has_recomputed_all:
        reason = "stay as they are, because the watched folders have no file with their content:"
        return [report.without_file.describe(reason)] if report.without_file.recording_count else []
    if not report.costly.recording_count:
        return []
    reason = "need a model or the video again and stay as they are:"
    return [report.costly.describe(reason), f"Recompute them with: {command}"]


def _encode_outcomes(
    outcomes: "Sequence[RecordingOutcome]",
    stale_reasons: "Sequence[StaleReason]",
    data_folder: Path,
    *,
    had_work: bool,
    is_whole: bool,
) -> str:
    """Encode the outcomes as a JSON document, with why results are still stale."""
    document = {
        "had_work": had_work,
        "has_lost_results": not is_whole,
        "results_path": str(data_folder / "results.duckdb"),
        "recordings": [
            {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(outcome).items()}
            for outcome in outcomes
        ],
        "stale": [asdict(reason) for reason in stale_reasons],
    }
    return json.dumps(document, indent=2)


def _print_outcomes(outcomes: "Sequence[RecordingOutcome]") -> None:
    from cli.outcome_table import format_outcomes, printable_name

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in format_outcomes(outcomes, width):
        click.echo(line)
    for outcome in outcomes:
        if outcome.error:
            click.echo(f"{printable_name(outcome.source_path)}: {outcome.status}: {outcome.error}")
