"""Commands that a person can paste, with the options of the command that prints them."""

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_MAX_FOLDER_NUMBER = 1000


def compose_command(*arguments: object, options: Mapping[str, object]) -> str:
    """Compose a command line of cv-assets.

    Args:
        arguments: Name of the command and its arguments.
        options: Value by option; an option without a value is left out.
    """
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    return shlex.join([_program(), *map(str, arguments), *given])


def compose_next_commands(options: Mapping[str, object]) -> list[str]:
    """Compose the commands that show results: one queries them, one writes pictures into a new folder.

    Args:
        options: Value by option, as for `compose_command`.
    """
    return [
        compose_command("sql", "FROM summaries", options=options),
        compose_command("crops", options={"--out": _new_folder("pictures"), **options}),
    ]


def _program() -> str:
    """The name of this installation's program if the shell finds it by its name, else its path."""
    script, in_path = Path(sys.executable).with_name("cv-assets"), shutil.which("cv-assets")
    if not script.exists() or (in_path and Path(in_path).resolve() == script.resolve()):
        return "cv-assets"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def _new_folder(name: str) -> str:
    """A name for a new folder in the current one: `name`, or with a number where it exists."""
    names = (name, *(f"{name}-{number}" for number in range(2, _MAX_FOLDER_NUMBER)))
    return next((candidate for candidate in names if not Path(candidate).exists()), name)
