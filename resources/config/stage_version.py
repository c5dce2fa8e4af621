"""Versions of stages: a hash of a stage's logic and settings, with the settings by name, so that a change is named."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from resources.config.settings import settings_version

LOGIC = "logic"
"""Name of the entry in the settings of a version that is the version of the stage's logic."""


@dataclass(frozen=True)
class StageVersion:
    """The version of a stage.

    Attributes:
        code_version: Hash of the logic and of the settings that decide the results.
        settings: JSON values of these settings by their names in the settings file, and the logic under `LOGIC`.
    """

    code_version: str
    settings: Mapping[str, Any]

    @classmethod
    def build(
        cls,
        logic: str,
        settings: Mapping[str, BaseModel | str | float] = MappingProxyType({}),
        *parts: str,
        explanation: Mapping[str, Any] = MappingProxyType({}),
    ) -> "StageVersion":
        """Build a version.

        Args:
            logic: Name and version of the stage's logic.
            settings: The settings that decide the results by name: whole sections or single values.
            parts: Further texts that are hashed.
            explanation: JSON values by name that explain `parts`, or take the place of those in `settings`.
        """
        sections = {key: part.model_dump(mode="json") for key, part in settings.items() if isinstance(part, BaseModel)}
        hashed = (part if isinstance(part, BaseModel) else str(part) for part in settings.values())
        return cls(
            settings_version(logic, *hashed, *parts), flatten({**settings, **sections, **explanation, LOGIC: logic})
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to values by dotted name; an empty mapping has no names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
