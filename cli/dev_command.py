"""The command dev: runs the UI, the daemon and the sensors until stopped."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.adopt_command import recommend_adoption
from cli.options import data_option, interrupt_on_sigterm, settings_option, weights_option
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.disk import check_data_folder, disk_errors
from resources.storage.locks import data_folder_lock

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from resources.config.settings import Settings

# If Dagster exits within this time, this many times in a row, it is not restarted.
_EARLY_EXIT_S, _MAX_EARLY_EXITS = 20.0, 3
_DISK_CHECK_INTERVAL_S = 5.0


@click.command()
@data_option
@weights_option
@settings_option
@click.option(
    "--workers/--no-workers",
    default=True,
    help="Whether this machine executes runs, too; without, `cv-assets worker` does elsewhere.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
def dev(data: Path | None, weights: str | None, settings: Path | None, workers: bool, port: int) -> None:
    """Run the UI, the pages, the API and the daemon on this machine, with the sensors on, until stopped."""
    from resources.notifications.delivery import check_channel
    from serve.web_server import read_token

    loaded_settings = choose_settings(settings=settings, data_folder=data, weights=weights)
    data_folder = loaded_settings.data_folder
    for channel in loaded_settings.notifications.channels:
        check_channel(channel)
    read_token(loaded_settings)  # which the pages would miss only after the start
    # Before the access to new files is restricted, because others put files into it. Only this folder is created:
    # further watched folders may be mount points that are not mounted.
    loaded_settings.watched_folder.mkdir(parents=True, exist_ok=True)
    prepare_data_folder(loaded_settings)
    with data_folder_lock(data_folder), disk_errors(data_folder):
        from dagster import DagsterInstance

        from cli.doctor import check_model_weights
        from cli.start_check import check_tables_at_start
        from resources.inference.weights import download_default_weights

        _check_port(port)
        check_tables_at_start(data_folder)
        recommend_adoption(data_folder)
        for sentence in download_default_weights(loaded_settings.all_models):
            click.echo(sentence, err=True)
        for result in check_model_weights(loaded_settings):
            if not result.is_ok:
                click.echo(f"The stages that use these weights are on hold: {result.message}", err=True)
        click.echo(f"Drop recordings into {', '.join(map(str, loaded_settings.watched_folders))}")
        click.echo(f"UI: http://127.0.0.1:{port}   results: {data_folder / 'results.duckdb'}", nl=True)
        with DagsterInstance.get() as instance:
            is_stopped = _run_until_stopped(instance, loaded_settings, port, has_workers=workers)
    sys.exit(0 if is_stopped else 1)


def _run_until_stopped(instance: "DagsterInstance", settings: "Settings", port: int, *, has_workers: bool) -> bool:
    """Run Dagster until a person stops it, and restart it whenever one of its processes ends by itself.

    Returns:
        Whether a person stopped it; otherwise it ended again and again.
    """
    import time

    from cli.dagster_processes import DagsterServices
    from cli.local_workers import build_local_workers
    from resources.workers.worker_states import runs_of_other_processes
    from sensors.crash_recovery import cancel_interrupted_runs, mark_running_as_interrupted

    early_exits, data_folder = 0, settings.data_folder
    while early_exits < _MAX_EARLY_EXITS or _wait_for_disk_space(data_folder):
        if run_count := cancel_interrupted_runs(instance, data_folder):
            click.echo(f"{run_count} runs were interrupted and marked as canceled; their work is requested again.")
        started_s = time.monotonic()
        workers = build_local_workers(settings, data_folder) if has_workers else None
        services = DagsterServices(data_folder, port, workers)
        try:
            with interrupt_on_sigterm():
                exit_text = services.run_until_exit()
        except OSError as error:
            exit_text = f"its processes cannot be started: {error.strerror or error}"  # on a full disk, for example
        except KeyboardInterrupt:
            return True
        finally:
            try:
                with disk_errors(data_folder):
                    mark_running_as_interrupted(instance, kept_run_ids=runs_of_other_processes(data_folder))
            except PipelineError as error:
                click.echo(str(error), err=True)  # the next start cancels these runs instead
            finally:
                services.terminate()
        early_exits = 0 if time.monotonic() - started_s > _EARLY_EXIT_S else early_exits + 1
        is_restarted = early_exits < _MAX_EARLY_EXITS
        reaction = ": restarting it" if is_restarted else f", {early_exits} times within {_EARLY_EXIT_S:.0f} s"
        click.echo(f"Dagster exited unexpectedly ({exit_text}){reaction}.", err=True)
    return False


def _check_port(port: int) -> None:
    """Check that the UI can use its port: otherwise Dagster would run on, with another program's UI at that address.

    Raises:
        PipelineError: The port is in use.
    """
    import socket

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the webserver does
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise PipelineError(
                f"Port {port} is not available for the UI ({error.strerror}): choose another with --port, or stop the "
                "program that uses it."
            ) from error


def _wait_for_disk_space(data_folder: Path) -> bool:
    """Wait until a full disk has space again.

    Returns:
        Whether the disk was full.
    """
    import time

    was_full = False
    while True:
        try:
            check_data_folder(data_folder)
        except PipelineError as error:
            if not was_full:
                click.echo(f"Waiting: {error}", err=True)
            was_full = True
            time.sleep(_DISK_CHECK_INTERVAL_S)
        else:
            return was_full
