"""Changes of settings in words: which setting had which value and has which now."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from resources.config.stage_version import LOGIC

UNKNOWN_CHANGE = "settings or version of the stage have changed"
"""The reason where the settings of before are unknown, as in a data folder of an older version."""
_MAX_VALUE_LENGTH = 60
_MAX_LISTED_CHANGES = 4
_SHAPES = {"zones": "zone", "lines": "line"}


def describe_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Describe how settings have changed, such as `tracks.lost_s was 1.2, is now 3.0`.

    Args:
        before: The settings of before by name, as JSON values; None if they are unknown.
        now: Those of now.
    """
    if before is None:
        return UNKNOWN_CHANGE
    names = [name for name in dict.fromkeys((*before, *now)) if name != LOGIC]
    changes = [
        change
        for name in names
        if before.get(name) != now.get(name)
        for change in (
            _shape_changes(_SHAPES[name], before.get(name, []), now.get(name, []))
            if name in _SHAPES
            else [f"{name} {_value_change(before, now, name)}"]
        )
    ]
    if not changes:
        return "the version of the stage has changed" if before.get(LOGIC) != now.get(LOGIC) else UNKNOWN_CHANGE
    more = len(changes) - _MAX_LISTED_CHANGES
    return "; ".join(changes[:_MAX_LISTED_CHANGES]) + (f"; and {more} more" if more > 0 else "")


def _shape_changes(noun: str, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the changes of zones or lines, which have names."""
    shapes_before, shapes_now = ({shape["name"]: shape for shape in shapes} for shapes in (before, now))
    changes = []
    for name in dict.fromkeys((*shapes_before, *shapes_now)):
        if name not in shapes_now:
            changes.append(f"{noun} {name!r} was removed")
        elif name not in shapes_before:
            changes.append(f"{noun} {name!r} was added")
        elif shapes_before[name] != shapes_now[name]:
            changes.append(f"{noun} {name!r} was moved")
    return changes or [f"the order of the {noun}s has changed"]


def _value_change(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> str:
    text_before, text_now = (_text(values[name]) if name in values else None for values in (before, now))
    if text_now is None:
        return f"was {text_before}, is not set any more"
    if text_before is None:
        return f"was not set, is now {text_now}"
    return "has changed" if text_before == text_now else f"was {text_before}, is now {text_now}"


def _text(value: Any) -> str:
    """A value as text, shortened at its end."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 1]}…"
