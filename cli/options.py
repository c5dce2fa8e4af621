"""Options that several commands share, and the exit statuses of all commands."""

import errno
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from resources.config.settings import Settings
from resources.dagster_instance.postgres_database import postgres_problem
from resources.dagster_instance.sqlite_files import sqlite_problem
from resources.errors import PipelineError


class _PathType(click.Path):
    """A path that is not empty, as that of a shell variable that is not set: it would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH_TYPE = _PathType()
settings_option = click.option(
    "--settings",
    type=PATH_TYPE,
    help="Settings file [default: that in CV_ASSETS_SETTINGS, pipeline.yaml of the current folder, or of the project].",
)
data_option = click.option("--data", type=PATH_TYPE, help="Data folder [default: data_folder of the settings].")
context_option = click.option(
    "--context",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default="3",
    help="Seconds before and after tracks and events.",
)
weights_option = click.option("--weights", help="Detector weights: a .pt file, or a name that Ultralytics publishes.")


class QueryError(PipelineError):
    """A query is wrong, or its result cannot be written as requested: the exit status is 1."""


class CommandGroup(click.Group):
    """Ends a command with one sentence and exit status 2 if a person must act, and with 130 if it is interrupted."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; the list of commands shows the whole first sentence of its help, which Click would cut."""
        if cmd.short_help is None and cmd.help:
            cmd.short_help = " ".join(cmd.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"cv-assets: {error}", err=True)
            ctx.exit(1 if isinstance(error, QueryError) else 2)
        except Exception as error:
            sentence = postgres_problem(error) or sqlite_problem(error) or _output_problem(error)
            if sentence is None:
                raise
            click.echo(f"cv-assets: {sentence}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted. Finished recordings are kept; run the same command to continue.", err=True)
            ctx.exit(130)


def _output_problem(error: BaseException) -> str | None:
    """A sentence for an error of standard output, which names no file; None for any other error."""
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return f"The output cannot be written: {error.strerror}."
    return None


def name_of_user() -> str:
    """Name of the user of this process, as who corrects and answers by default.

    Raises:
        PipelineError: The user has no name, as a number that a container was started with.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise PipelineError("--by: the user of this process has no name on this machine: give one.") from error


def end_process(status: int) -> None:
    """End the process without finalizing the interpreter, during which native libraries print useless leak reports."""
    with suppress(OSError):  # a command that could not write its output has said so
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def warn_of_unmatched_names(settings: Settings) -> None:
    """Print a sentence for each camera and class in the settings that matches nothing, and each stage with a fault."""
    from resources.unmatched_names import find_unmatched_names

    for sentence in (*find_unmatched_names(settings), *find_stage_problems(settings)):
        click.echo(f"Warning: {sentence}", err=True)


def find_stage_problems(settings: Settings) -> list[str]:
    """Find the stages of one's own whose files are not valid, one sentence each."""
    if not settings.stages:
        return []
    from cv_assets.asset_graph import stages_in_order
    from cv_assets.own_stage_assets import read_own_stages

    return list(read_own_stages(settings, stages_in_order(settings)).problems.values())


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, so that a service manager stops all child processes as Ctrl-C does."""
    import signal

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler_before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler_before)
