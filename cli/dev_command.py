"""The command dev: runs the UI, the daemon and the sensors until stopped."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.adopt_command import recommend_adoption
from cli.options import data_option, interrupt_on_sigterm, settings_option, weights_option
from resources.config.settings_file import PROJECT_ROOT
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.disk import check_data_folder, disk_errors
from resources.storage.locks import data_folder_lock

if TYPE_CHECKING:
    import subprocess

    from dagster import DagsterInstance

# If Dagster exits within this time, this many times in a row, it is not restarted.
_EARLY_EXIT_S, _MAX_EARLY_EXITS = 20.0, 3
_DISK_CHECK_INTERVAL_S = 5.0
_CODE_SERVER_CHECK_INTERVAL_S, _MAX_CHECKS_WITHOUT_CODE_SERVER = 5.0, 3


@click.command()
@data_option
@weights_option
@settings_option
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
def dev(data: Path | None, weights: str | None, settings: Path | None, port: int) -> None:
    """Run the UI and the daemon on this machine, with the sensors on, until stopped."""
    from resources.notifications.delivery import check_channel

    loaded_settings = choose_settings(settings=settings, data_folder=data, weights=weights)
    data_folder = loaded_settings.data_folder
    for channel in loaded_settings.notifications.channels:
        check_channel(channel)
    prepare_data_folder(data_folder)
    # Only this folder is created: further watched folders may be mount points that are not mounted.
    loaded_settings.watched_folder.mkdir(parents=True, exist_ok=True)
    with data_folder_lock(data_folder), disk_errors(data_folder):
        from dagster import DagsterInstance

        from cli.dagster_processes import find_script
        from cli.doctor import check_model_weights

        _check_port(port)
        recommend_adoption(data_folder)
        for result in check_model_weights(loaded_settings):
            if not result.is_ok:
                click.echo(f"The stages that use these weights are on hold: {result.message}", err=True)
        click.echo(f"Drop recordings into {', '.join(map(str, loaded_settings.watched_folders))}")
        click.echo(f"UI: http://127.0.0.1:{port}   results: {data_folder / 'results.duckdb'}", nl=True)
        workspace = str(PROJECT_ROOT / "workspace.yaml")
        command = [find_script("dagster"), "dev", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
        with DagsterInstance.get() as instance:
            status = _run_until_stopped(command, instance, data_folder)
    sys.exit(status)


def _run_until_stopped(command: list[str], instance: "DagsterInstance", data_folder: Path) -> int:
    """Run Dagster until a person stops it, and restart it whenever it exits by itself.

    Returns:
        The exit status: 0 if a person stopped it, else that of Dagster's last exit.
    """
    import subprocess
    import time

    from cli.dagster_processes import terminate_process_group
    from sensors.crash_recovery import fail_interrupted_runs, mark_running_as_interrupted

    # Dagster reads its configuration from the folder where it is started, and that is in its home.
    dagster_home = data_folder / "dagster"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore:Function `dev_command` is superseded"}
    status, early_exits = 0, 0
    while early_exits < _MAX_EARLY_EXITS or _wait_for_disk_space(data_folder):
        if run_count := fail_interrupted_runs(instance, data_folder):
            click.echo(f"{run_count} runs were interrupted and marked as failed; their work is requested again.")
        started_s = time.monotonic()
        server = subprocess.Popen(command, start_new_session=True, cwd=dagster_home, env=environment)
        try:
            with interrupt_on_sigterm():
                status = _wait_for_exit(server)
        except KeyboardInterrupt:
            return 0
        finally:
            try:
                with disk_errors(data_folder):
                    mark_running_as_interrupted(instance)
            except PipelineError as error:
                click.echo(str(error), err=True)  # the next start fails these runs instead
            finally:
                terminate_process_group(server)
        early_exits = 0 if time.monotonic() - started_s > _EARLY_EXIT_S else early_exits + 1
        is_restarted = early_exits < _MAX_EARLY_EXITS
        reaction = ": restarting it" if is_restarted else f", {early_exits} times within {_EARLY_EXIT_S:.0f} s"
        click.echo(f"Dagster exited unexpectedly (status {status}){reaction}.", err=True)
    return status or 1


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


def _wait_for_exit(server: "subprocess.Popen[bytes]") -> int:
    """Wait until Dagster exits; terminate it if its code server has died, because Dagster does not restart that.

    Returns:
        The exit status.
    """
    import threading

    from cli.dagster_processes import terminate_process_group

    has_exited = threading.Event()

    def signal_exit() -> None:
        server.wait()
        has_exited.set()

    # Popen.wait with a timeout polls the process twenty times a second; waiting in a thread does not.
    threading.Thread(target=signal_exit, name="dagster-exit", daemon=True).start()
    checks_without = 0
    while not has_exited.wait(_CODE_SERVER_CHECK_INTERVAL_S):
        checks_without = 0 if _has_code_server(server.pid) else checks_without + 1
        if checks_without == _MAX_CHECKS_WITHOUT_CODE_SERVER:
            click.echo("The code server has died, and Dagster does not restart it.", err=True)
            terminate_process_group(server)
    return server.wait()


def _has_code_server(dagster_pid: int) -> bool:
    """Whether the code server is running, or is still to be started because Dagster has not started its daemon yet."""
    import psutil

    command_lines = []
    with suppress(psutil.Error):
        for child in psutil.Process(dagster_pid).children(recursive=True):
            with suppress(psutil.Error):
                command_lines.append(child.cmdline())
    has_daemon = any("dagster._daemon" in line for line in command_lines)
    return any("grpc" in line for line in command_lines) or not has_daemon


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
