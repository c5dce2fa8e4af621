"""The command line: process a folder, run the UI, ask SQL, see whether this machine is ready."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resources.errors import PipelineError
from resources.home import choose, data_folder_lock, prepare_data_folder
from resources.postgres import is_history_to_be_brought, postgres_problem
from resources.settings import PROJECT_ROOT, load_settings
from resources.storage import Store, check_data_folder, disk_errors

if TYPE_CHECKING:
    import subprocess

    from rich.progress import TaskID

    from cv_assets.commands.headless import Outcome
    from cv_assets.commands.headless import Progress as FolderProgress

_SHORTEST_S, _SHORT_IN_A_ROW = 20.0, 3  # Dagster that so often ends sooner than this would do so again
_LOOK_AT_DISK_EVERY_S = 5.0
_LOOK_AT_CODE_SERVER_EVERY_S, _LOOKS_WITHOUT_CODE_SERVER = 5.0, 3
_PATH = click.Path(path_type=Path)
_settings_option = click.option("--settings", type=_PATH, help="Settings file [default: pipeline.yaml].")
_data_option = click.option("--data", type=_PATH, help="Data folder [default: as the settings say].")


class _OneSentence(click.Group):
    """Ends a command that a person must help with one sentence and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"cv-assets: {error}", err=True)
            ctx.exit(2)
        except Exception as error:
            sentence = postgres_problem(error)
            if sentence is None:
                raise
            click.echo(f"cv-assets: {sentence}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted. Finished recordings are kept; run the same command to go on.", err=True)
            ctx.exit(130)


@click.group(cls=_OneSentence, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Offline video analytics: recordings in a folder become tables that SQL answers."""


def main() -> None:
    """The console script."""
    try:
        commands()
    except SystemExit as ended:
        end_process(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


def end_process(status: int) -> None:
    """End at once, without taking the interpreter apart: native libraries report leaks on the way, to no use."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@commands.command()
@click.argument("folder", type=_PATH)
@_data_option
@click.option("--weights", help="Detector weights: a .pt file, or a name Ultralytics publishes.")
@_settings_option
@click.option("--stale", is_flag=True, help="Also make anew what changed settings or weights made stale.")
def process(folder: Path, data: Path | None, weights: str | None, settings: Path | None, stale: bool) -> None:
    """Bring every recording in FOLDER to completion, then exit: 0 if all came through, 1 if any failed."""
    if not run_folder(folder=folder, data=data, weights=weights, settings=settings, stale=stale):
        sys.exit(1)


def run_folder(
    *,
    folder: Path,
    data: Path | None = None,
    weights: str | None = None,
    settings: Path | None = None,
    stale: bool = False,
) -> bool:
    """Bring every recording in a folder to completion, showing progress and a closing table.

    Args:
        folder: The watched folder.
        data: Data folder; None keeps what the settings say.
        weights: Weights file or name; None keeps what the settings say.
        settings: Settings file; None keeps the one in force.
        stale: Whether what changed settings made stale is made anew, too.

    Returns:
        Whether every recording came through.

    Raises:
        PipelineError: A person must act first; nothing was written.
    """
    from resources.inference.weights import check_weights
    from resources.notifications import check_channel
    from resources.watched_folder import list_recordings

    chosen = choose(settings=settings, watched_folder=folder, data_folder=data, weights=weights)
    for channel in chosen.notifications.channels:
        check_channel(channel)
    if not list_recordings(chosen).files:
        raise PipelineError(f"There are no recordings in {chosen.watched_folder}: nothing to do.")
    for model in chosen.every_model:
        check_weights(model)
    prepare_data_folder(chosen.data_folder)
    with data_folder_lock(chosen.data_folder), disk_errors(chosen.data_folder), _stoppable():
        # Only now: the assets' versions are made from the settings that were chosen above.
        from cv_assets.commands.headless import is_failure, process_folder
        from cv_assets.outstanding import STALE_VARIABLE

        if stale:
            os.environ[STALE_VARIABLE] = "1"
        _bring_history(chosen.data_folder)
        with _progress_display() as show:
            outcomes, had_work = process_folder(chosen, show)
    if not had_work:
        click.echo(f"Nothing to do: all {len(outcomes)} recordings of {chosen.watched_folder} were done before.")
    _print_outcomes(outcomes)
    click.echo(f"Results: {chosen.data_folder / 'results.duckdb'}")
    return not any(is_failure(outcome) for outcome in outcomes)


@commands.command()
@_data_option
@click.option("--weights", help="Detector weights: a .pt file, or a name Ultralytics publishes.")
@_settings_option
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
def dev(data: Path | None, weights: str | None, settings: Path | None, port: int) -> None:
    """Run the UI and the daemon on this machine, with the sensors on, until stopped."""
    from resources.notifications import check_channel

    chosen = choose(settings=settings, data_folder=data, weights=weights)
    for channel in chosen.notifications.channels:
        check_channel(channel)
    prepare_data_folder(chosen.data_folder)
    chosen.watched_folder.mkdir(parents=True, exist_ok=True)  # further ones may be mounts, which are not ours to make
    with data_folder_lock(chosen.data_folder), disk_errors(chosen.data_folder):
        import subprocess
        import time

        from dagster import DagsterInstance

        from cv_assets.commands.doctor import examine_weights
        from cv_assets.commands.headless import end_group, recover, script, spare_running

        _check_port(port)
        _bring_history(chosen.data_folder)
        for finding in examine_weights(chosen):
            if not finding.is_ok:
                click.echo(f"What needs these weights waits: {finding.told}", err=True)
        click.echo(f"Drop recordings into {', '.join(map(str, chosen.watched_folders))}")
        click.echo(f"UI: http://127.0.0.1:{port}   results: {chosen.data_folder / 'results.duckdb'}", nl=True)
        workspace = str(PROJECT_ROOT / "workspace.yaml")
        command = [script("dagster"), "dev", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
        # Dagster looks for its configuration where it is started, and that is in its home.
        home = chosen.data_folder / "dagster"
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore:Function `dev_command` is superseded"}
        status, short = 0, 0
        with DagsterInstance.get() as instance:
            while short < _SHORT_IN_A_ROW or _waited_for_disk(chosen.data_folder):
                if closed := recover(instance, chosen.data_folder):
                    click.echo(f"{closed} runs were interrupted and are closed; what they lacked is done again.")
                started = time.monotonic()
                server = subprocess.Popen(command, start_new_session=True, cwd=home, env=quiet)
                try:
                    with _stoppable():
                        status = _outlasted(server)
                except KeyboardInterrupt:
                    status = 0
                    break
                finally:
                    try:
                        with disk_errors(chosen.data_folder):
                            spare_running(instance)
                    except PipelineError as error:
                        click.echo(str(error), err=True)  # the next start does it
                    finally:
                        end_group(server)
                short = 0 if time.monotonic() - started > _SHORTEST_S else short + 1
                again = "it is started again" if short < _SHORT_IN_A_ROW else "it would do so again"
                click.echo(f"Dagster ended by itself (exit {status}): {again}.", err=True)
            else:
                status = status or 1
    sys.exit(status)


def _check_port(port: int) -> None:
    """See that the UI can have its port: without it Dagster would go on, and another's UI would answer there."""
    import socket

    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the webserver does
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise PipelineError(
                f"The UI cannot have port {port} ({error.strerror}): choose another with --port, or end what uses it."
            ) from error


def _outlasted(server: "subprocess.Popen[bytes]") -> int:
    """Wait until Dagster ends, or its code server has died and Dagster does not notice; returns the exit status."""
    import threading

    from cv_assets.commands.headless import end_group

    has_ended = threading.Event()

    def tell_end() -> None:
        server.wait()
        has_ended.set()

    # A process that is waited for with a timeout is looked at twenty times a second; this sleeps.
    threading.Thread(target=tell_end, name="dagster-end", daemon=True).start()
    looks_without = 0
    while not has_ended.wait(_LOOK_AT_CODE_SERVER_EVERY_S):
        looks_without = 0 if _has_code_server(server.pid) else looks_without + 1
        if looks_without == _LOOKS_WITHOUT_CODE_SERVER:
            click.echo("The code server has died, and Dagster does not start it again.", err=True)
            end_group(server)
    return server.wait()


def _has_code_server(dagster_pid: int) -> bool:
    """Whether the process lives that holds the assets; before Dagster has started its daemon, that it is to come."""
    import psutil

    lines = []
    with suppress(psutil.Error):
        for child in psutil.Process(dagster_pid).children(recursive=True):
            with suppress(psutil.Error):
                lines.append(child.cmdline())
    return any("grpc" in line for line in lines) or not any("dagster._daemon" in line for line in lines)


def _waited_for_disk(data_folder: Path) -> bool:
    """Wait until a full disk has space again; returns whether it was full."""
    import time

    was_full = False
    while True:
        try:
            check_data_folder(data_folder)
        except PipelineError as error:
            if not was_full:
                click.echo(f"Waiting: {error}", err=True)
            was_full = True
            time.sleep(_LOOK_AT_DISK_EVERY_S)
        else:
            return was_full


@commands.command()
@click.argument("query", required=False)
@_data_option
@_settings_option
@click.option("--format", "output", type=click.Choice(["table", "csv", "json", "parquet"]), default="table")
def sql(query: str | None, data: Path | None, settings: Path | None, output: str) -> None:
    """Ask the results one QUERY, or open a prompt without one. parquet and csv go to standard output."""
    from cv_assets.commands.ask import answer, prompt

    chosen = choose(settings=settings, data_folder=data)
    if query is None:
        prompt(chosen.data_folder)
    else:
        answer(chosen.data_folder, query, output)


@commands.command()
@click.argument("camera")
@_data_option
@_settings_option
@click.option("--output", type=_PATH, help="The page [default: zones-CAMERA.html here].")
def zones(camera: str, data: Path | None, settings: Path | None, output: Path | None) -> None:
    """Write a page on which to draw CAMERA's zones and lines; it gives the YAML for the settings."""
    from cv_assets.commands.zones_page import zones_page

    page = zones_page(camera, choose(settings=settings, data_folder=data))
    file = output or Path(f"zones-{camera or 'recordings'}.html")
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"The page {file} cannot be written: {error.strerror or error}.") from error
    click.echo(f"Open {file.absolute()} in a browser.")


@commands.command()
@_data_option
@_settings_option
@click.option("--weights", help="Detector weights to look at.")
def doctor(data: Path | None, settings: Path | None, weights: str | None) -> None:
    """Tell whether this machine is ready, and what to do where it is not."""
    from cv_assets.commands.doctor import examine

    findings = examine(choose(settings=settings, data_folder=data, weights=weights))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = click.style("ok  ", fg="green") if finding.is_ok else click.style("mend", fg="red")
        click.echo(f"{mark}  {finding.subject:<{width}}  {finding.told}")
    sys.exit(0 if all(finding.is_ok for finding in findings) else 1)


@commands.command()
@_data_option
@_settings_option
@click.option("--each", is_flag=True, help="Name every recording.")
def stale(data: Path | None, settings: Path | None, each: bool) -> None:
    """List what would come out otherwise if it were made now, and why."""
    chosen = choose(settings=settings, data_folder=data)
    if not (chosen.data_folder / "dagster").is_dir():
        raise PipelineError(f"There is no pipeline in {chosen.data_folder} yet: process some recordings first.")
    prepare_data_folder(chosen.data_folder)
    if is_history_to_be_brought(chosen.data_folder):
        raise PipelineError("The database has no history yet: process or dev take it along when they are next started.")
    from dagster import DagsterInstance

    from cv_assets.cameras import cameras_of
    from cv_assets.partitions import recordings_partitions
    from cv_assets.staleness import stale_assets

    store = Store(chosen.data_folder)
    with DagsterInstance.get() as instance:
        recording_ids = instance.get_dynamic_partitions(recordings_partitions.name or "")
        found = stale_assets(instance, cameras_of(store, recording_ids))
    if each:
        for one in found:
            click.echo(f"{one.recording_id}  {one.asset_name}: {one.reason}")
    else:
        for (name, reason), number in Counter((one.asset_name, one.reason) for one in found).items():
            click.echo(f"{name}: {reason} ({number} recording{'s' * (number != 1)})")
    count = len({one.recording_id for one in found})
    click.echo(f"{count} of {len(recording_ids)} recordings have something stale.")


@commands.command()
@click.option("--channel", "only", help="The channel [default: every one].")
@_settings_option
def notify(only: str | None, settings: Path | None) -> None:
    """Send a test message through the channels of the settings, and tell what came of it."""
    from resources.notifications import send_all, trial_message

    channels = load_settings(settings).notifications.channels
    chosen = [channel for channel in channels if only in (None, channel.name)]
    if not chosen:
        known = ", ".join(channel.name for channel in channels) or "none; name one at notifications"
        raise PipelineError(f"There is no channel {only or 'to send through'} in the settings; known: {known}.")
    states = []
    for channel, delivery in send_all([(channel, trial_message()) for channel in chosen]):
        states.append(delivery.state)
        click.echo(f"{channel.name}: {delivery.state}{f': {delivery.error}' if delivery.error else ''}")
    sys.exit(0 if set(states) == {"sent"} else 1)


@commands.command()
@_data_option
@_settings_option
def leave_postgres(data: Path | None, settings: Path | None) -> None:
    """Take Dagster's history from PostgreSQL back into the data folder; then unset CV_ASSETS_POSTGRES."""
    chosen = choose(settings=settings, data_folder=data)
    prepare_data_folder(chosen.data_folder)
    with data_folder_lock(chosen.data_folder):
        from cv_assets.history import leave_postgres

        count = leave_postgres(chosen.data_folder)
    click.echo(f"The history of {count} recordings lies in {chosen.data_folder / 'dagster'} again.")
    click.echo("Unset CV_ASSETS_POSTGRES; the database is not needed any more.")


@commands.command(name="settings")
@_settings_option
def settings_command(settings: Path | None) -> None:
    """Print every setting with its meaning and the value in force."""
    _print_section(load_settings(settings), "")


def _print_section(section: Any, indent: str) -> None:
    import json

    from pydantic import BaseModel

    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            click.echo(f"{indent}{name}:  # {(type(value).__doc__ or '').splitlines()[0]}")
            _print_section(value, indent + "  ")
        else:
            plain = json.dumps(section.model_dump(mode="json", include={name})[name])
            click.echo(f"{indent}{name}: {plain}  # {info.description}")


def _bring_history(data_folder: Path) -> None:
    from cv_assets.history import bring_history

    if count := bring_history(data_folder):
        click.echo(f"Took the history of {count} recordings along from SQLite to PostgreSQL.", err=True)


def _print_outcomes(outcomes: Sequence["Outcome"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("recording", no_wrap=True)
    table.add_column("status")
    for name in ("frames", "detections", "tracks", "seconds", "×realtime"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        counts = (outcome.frame_count, outcome.detection_count, outcome.track_count)
        table.add_row(
            outcome.recording_id,
            outcome.status,
            *("-" if count is None else str(count) for count in counts),
            "-" if outcome.seconds is None else f"{outcome.seconds:.1f}",
            "-" if outcome.realtime_factor is None else f"{outcome.realtime_factor:.1f}",
        )
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)
    for outcome in outcomes:
        if outcome.error:
            click.echo(f"{outcome.recording_id}: {outcome.status}: {outcome.error}")


@contextmanager
def _progress_display() -> Iterator[Callable[["FolderProgress"], None]]:
    """Bars on a terminal, and a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _line_display()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        overall = bars.add_task("recordings", total=None, told="starting the daemon")
        tasks: dict[str, TaskID] = {}

        def show(progress: "FolderProgress") -> None:
            done, total, told = _overall(progress)
            bars.update(overall, completed=done, total=total or None, told=told)
            current = {recording_id: (stage, at) for (recording_id, stage), at in progress.stages.items()}
            for recording_id, (stage, at) in current.items():
                if recording_id not in tasks:
                    tasks[recording_id] = bars.add_task(recording_id, told="")
                bars.update(
                    tasks[recording_id], completed=at.frames_done, total=at.frames_total or None, told=_told(stage, at)
                )
            for recording_id in list(tasks):
                state = progress.states.get(recording_id)
                if state and not state.missing:
                    bars.update(tasks[recording_id], visible=False)

        yield show


def _line_display() -> Callable[["FolderProgress"], None]:
    shown: dict[str, str] = {}

    def show(progress: "FolderProgress") -> None:
        done, total, told = _overall(progress)
        lines = {"": f"{done} of {total} recordings done, {told}"} if total else {}
        lines |= {r: f"  {r}: {_told(stage, at)}" for (r, stage), at in progress.stages.items()}
        for subject, line in lines.items():
            key = f"{done} of {total}" if subject == "" else line
            if shown.get(subject) != key:
                click.echo(line, err=True)
            shown[subject] = key

    return show


def _overall(progress: "FolderProgress") -> tuple[int, int, str]:
    states = [progress.states[r] for r in progress.recording_ids if r in progress.states]
    done = sum(1 for state in states if not state.is_in_flight and (state.is_rejected or not state.missing))
    analysed = [at for (_, stage), at in progress.stages.items() if stage == "detections"]
    frames = sum(at.frames_done for at in analysed)
    expected = sum(at.frames_total for (_, stage), at in progress.stages.items() if stage == "normalized_video")
    told = f"{frames} frames analysed"
    if expected > frames and progress.analysed_per_s:
        told += f", {progress.analysed_per_s:.0f} a second, {(expected - frames) / progress.analysed_per_s:.0f} s to go"
    if progress.unsettled_count:
        told += f", {progress.unsettled_count} files settling"
    return done, len(progress.recording_ids) + progress.unsettled_count, told


def _told(stage: str, at: Any) -> str:
    told = f"{stage} {at.frames_done}/{at.frames_total or '?'}"
    if at.frames_per_s:
        told += f" at {at.frames_per_s:.0f} a second"
    if at.frames_total > at.frames_done and at.frames_per_s:
        told += f", {(at.frames_total - at.frames_done) / at.frames_per_s:.0f} s to go"
    return told


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that a service manager stops everything that was started."""
    import signal

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
