"""The settings behind versions: a small JSON file of the data folder for each version of a stage or of camera settings.

A version is a hash. Its file tells what it stands for, so that a later change of settings can be named with the old and
the new value. Files are written before the first results of their version and never change.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def store_version_settings(data_folder: Path, name: str, version: str, settings: Mapping[str, Any]) -> None:
    """Store the settings behind a version, unless they are stored.

    Args:
        data_folder: The data folder.
        name: The stage, or the asset of camera settings.
        version: Its version.
        settings: The settings by name, as JSON values.

    Raises:
        OSError: The file cannot be written.
    """
    file = _settings_file(data_folder, name, version)
    if file.exists():
        return
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(f".{file.name}-{os.getpid()}")
    partial.write_text(f"{json.dumps(settings, ensure_ascii=False, sort_keys=True)}\n", encoding="utf-8")
    partial.replace(file)


def read_version_settings(data_folder: Path, name: str, version: str) -> Mapping[str, Any] | None:
    """Read the settings behind a version; None if they are unknown, as in a data folder of an older version."""
    try:
        settings = json.loads(_settings_file(data_folder, name, version).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged file explains nothing, as a missing one
        return None
    return settings if isinstance(settings, dict) else None


def _settings_file(data_folder: Path, name: str, version: str) -> Path:
    return data_folder / "settings" / f"{name}-{version}.json"
