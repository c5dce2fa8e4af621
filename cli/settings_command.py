"""The command settings: prints every setting with its description and value."""

import json
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from cli.options import settings_option
from resources.config.settings_file import load_settings


@click.command(name="settings")
@settings_option
def print_settings(settings: Path | None) -> None:
    """Print every setting with its description and the value in force."""
    _print_section(load_settings(settings), "")


def _print_section(section: Any, indent: str) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            click.echo(f"{indent}{name}:  # {(type(value).__doc__ or '').splitlines()[0]}")
            _print_section(value, indent + "  ")
        else:
            json_value = json.dumps(section.model_dump(mode="json", include={name})[name])
            click.echo(f"{indent}{name}: {json_value}  # {field.description}")
