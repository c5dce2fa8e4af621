"""The command line `cv-assets`: the group of commands, the short commands and the entry point."""

import sys
from pathlib import Path

import click

from cli.adopt_command import adopt
from cli.audit_command import audit
from cli.clip_command import clip
from cli.compare_command import compare
from cli.correct_command import correct
from cli.crops_command import crops
from cli.dev_command import dev
from cli.export_command import export
from cli.forget_command import forget, keep
from cli.init_command import write_starter_settings
from cli.notify_command import notify
from cli.options import PATH_TYPE, CommandGroup, data_option, end_process, settings_option, weights_option
from cli.pack_command import pack, verify_pack
from cli.privacy_command import privacy_copy
from cli.process_command import process
from cli.recap_command import recap
from cli.repair_command import repair
from cli.search_command import search
from cli.serve_command import serve
from cli.settings_command import print_settings
from cli.stage_command import stage
from cli.stale_command import stale
from cli.synopsis_command import synopsis
from cli.teach_command import teach
from cli.worker_command import worker
from resources.environment import choose_settings
from resources.errors import PipelineError


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cv-assets", prog_name="cv-assets", message="%(prog)s %(version)s")
def commands() -> None:
    """Offline video analytics: turns the recordings in a folder into tables that you query with SQL."""


commands.add_command(process)
commands.add_command(dev)
commands.add_command(serve)
commands.add_command(worker)
commands.add_command(stale)
commands.add_command(crops)
commands.add_command(clip)
commands.add_command(privacy_copy)
commands.add_command(recap)
commands.add_command(synopsis)
commands.add_command(pack)
commands.add_command(verify_pack)
commands.add_command(compare)
commands.add_command(export)
commands.add_command(stage)
commands.add_command(search)
commands.add_command(teach)
commands.add_command(correct)
commands.add_command(audit)
commands.add_command(adopt)
commands.add_command(repair)
commands.add_command(notify)
commands.add_command(forget)
commands.add_command(keep)
commands.add_command(print_settings)
commands.add_command(write_starter_settings)


def main() -> None:
    """Entry point of the console script."""
    try:
        commands()
    except SystemExit as exit_request:
        code = exit_request.code
        end_process(code if isinstance(code, int) else int(code is not None))


@commands.command()
@click.argument("query", required=False)
@data_option
@settings_option
@click.option("--format", "output", type=click.Choice(["table", "csv", "json", "parquet", "xlsx"]), default="table")
def sql(query: str | None, data: Path | None, settings: Path | None, output: str) -> None:
    """Run the statements of QUERY on the results, or open a prompt without one.

    Results go to standard output, those of csv, json, parquet and xlsx as the content of a file. The exit status is 1
    if a statement is wrong.
    """
    from cli.sql import open_prompt, run_query
    from cli.start_check import publish_for_query

    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    publish_for_query(loaded_settings)
    if query is None:
        open_prompt(data_folder)
    else:
        run_query(data_folder, query, output)


@commands.command()
@data_option
@settings_option
@click.option("--columns", "table_name", metavar="TABLE", help="Print the columns of this table or view.")
def tables(data: Path | None, settings: Path | None, table_name: str | None) -> None:
    """List all tables and views of the results with the meaning of a row."""
    from cli.start_check import publish_for_query
    from cli.tables import print_columns, print_tables
    from resources.storage.results_database import open_results

    loaded_settings = choose_settings(settings=settings, data_folder=data)
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        if table_name is None:
            print_tables(results)
        else:
            print_columns(results, table_name)


@commands.command()
@click.argument("camera")
@data_option
@settings_option
@click.option("--output", type=PATH_TYPE, help="File to write [default: zones-CAMERA.html in the current folder].")
def zones(camera: str, data: Path | None, settings: Path | None, output: Path | None) -> None:
    """Write a page for drawing the zones, lines and ground of CAMERA; the page shows the YAML for the settings."""
    from cli.zones_page import build_zones_page, is_zones_page

    page = build_zones_page(camera, choose_settings(settings=settings, data_folder=data))
    file = output or Path(f"zones-{camera or 'recordings'}.html")
    try:
        if file.exists() and not is_zones_page(file):
            raise PipelineError(f"The file {file} exists and is no zones page: name another one with --output.")
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"The page {file} cannot be written: {error.strerror or error}.") from error
    click.echo(f"Open {file.absolute()} in a browser.")


@commands.command()
@click.argument("folder", type=PATH_TYPE, required=False)
@data_option
@settings_option
@weights_option
@click.option("--full", is_flag=True, help="Also read the contents of all tables and compare their checksums.")
def doctor(folder: Path | None, data: Path | None, settings: Path | None, weights: str | None, full: bool) -> None:
    """Check whether this machine is ready, and print how to fix each problem.

    With FOLDER, check what `process FOLDER` needs; without it, the watched folder of the settings.
    """
    from cli.doctor import check_machine

    chosen_settings = choose_settings(settings=settings, watched_folder=folder, data_folder=data, weights=weights)
    results = check_machine(chosen_settings, full=full)
    width = max(len(result.subject) for result in results)
    for result in results:
        mark = click.style("ok ", fg="green") if result.is_ok else click.style("fix", fg="red")
        click.echo(f"{mark}  {result.subject:<{width}}  {result.message}")
    sys.exit(0 if all(result.is_ok for result in results) else 1)
