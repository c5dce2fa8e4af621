"""The command settings: prints every setting with its description and value, and examples of those that are empty."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, TypeAdapter

from cli.options import settings_option, warn_of_unmatched_names
from resources.config.handover_config import RecapSettings
from resources.config.settings_file import find_settings_file, load_settings

_MAX_VALUE_LENGTH = 80
_ZONES = [{"name": "yard", "points": [[0.1, 0.5], [0.6, 0.5], [0.6, 1], [0.1, 1]]}]
_LINES = [{"name": "door", "points": [[0.5, 1], [0.5, 0]]}]
_GROUND = {"points": [[0, 0.4], [1, 0.4], [1, 1], [0, 1]], "metres": [[0, 12], [20, 12], [20, 0], [0, 0]]}
_SENDER, _RECIPIENTS = "cv@example.org", ["desk@example.org"]
_NETWORK = {"head": "gfl", "classes": ["person", "car"], "colors": "bgr", "strides": [8, 16, 32]}
_EXAMPLES: dict[str, Any] = {
    "network": _NETWORK,
    "tiles": {"size_px": 640},
    "cameras": {"gate": {"clock_offset_s": -90, "zones": _ZONES, "lines": _LINES, "ground": _GROUND}},
    "zones": _ZONES,
    "lines": _LINES,
    "ground": _GROUND,
    "models": [{"name": "people", "task": "pose", "weights": "yolo26n-pose.pt"}],
    "crop_models": [{"name": "body", "weights": "models/body.pt", "classes": ["car"]}],
    "stages": [{"file": "stages/near_misses.py"}],
    "webhooks": [{"name": "ops", "url": {"env": "OPS_HOOK"}, "format": "slack"}],
    "emails": [{"name": "desk", "host": "mail.example.org", "sender": _SENDER, "recipients": _RECIPIENTS}],
}
"""Values of the settings that are empty by default, which show the keys below them."""


@click.command(name="settings")
@settings_option
def print_settings(settings: Path | None) -> None:
    """Print every setting with its description and the value in force, and examples of those that are empty."""
    loaded_settings = load_settings(settings)
    click.echo(f"# Settings: {find_settings_file(settings)}")
    for line in _section_lines(loaded_settings):
        click.echo(line)
    warn_of_unmatched_names(loaded_settings)


def _section_lines(section: BaseModel) -> Iterator[str]:
    """The settings of a section as lines of YAML, each with its description as a comment."""
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        description = field.description or (type(value).__doc__ or "").splitlines()[0]
        nested_lines = list(_nested_lines(value))
        if nested_lines:
            yield f"{name}:  # {description}"
            yield from _indent(nested_lines)
            continue
        yield from _value_lines(name, values.get(name), description)
        # The cameras of recaps are names, without keys below them.
        if not value and name in _EXAMPLES and not isinstance(section, RecapSettings):
            annotation: Any = field.annotation
            example = TypeAdapter(annotation).validate_python(_EXAMPLES[name])
            yield f"# For example, with all keys of {name}:"
            yield from (f"# {line}" for line in [f"{name}:", *_indent(_nested_lines(example))])


def _nested_lines(value: Any) -> Iterator[str]:
    """The lines of a section, or of the sections in a mapping or a list; none for any other value."""
    if isinstance(value, BaseModel):
        yield from _section_lines(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, BaseModel):
                yield f"{key if key.isidentifier() else json.dumps(key)}:"
                yield from _indent(_section_lines(item))
    elif isinstance(value, tuple):
        for item in value:
            if isinstance(item, BaseModel):
                first_line, *lines = _section_lines(item)
                yield f"- {first_line}"
                yield from _indent(lines)


def _value_lines(name: str, value: Any, description: str) -> Iterator[str]:
    """A setting with its value: a long list is folded, and long texts in it are shortened in the middle."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _MAX_VALUE_LENGTH or not isinstance(value, list):
        yield f"{name}: {text}  # {description}"
        return
    yield f"{name}:  # {description}"
    if any(isinstance(item, str) and len(item) > _MAX_VALUE_LENGTH for item in value):
        yield from (f"  - {json.dumps(_shorten(item), ensure_ascii=False)}" for item in value)
    else:
        yield from _indent(textwrap.wrap(text, _MAX_VALUE_LENGTH, break_long_words=False, break_on_hyphens=False))


def _shorten(text: str) -> str:
    if len(text) <= _MAX_VALUE_LENGTH:
        return text
    half = (_MAX_VALUE_LENGTH - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


def _indent(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
