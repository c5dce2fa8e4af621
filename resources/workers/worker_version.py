"""The version of code, settings and weights, on which all workers of a pipeline must agree."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resources.config.crop_model_config import CropModelSettings
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT, find_settings_file, load_settings
from resources.inference.weights import detection_version
from resources.own_stages.crop_callable import hash_callable

_REQUIRED_VERSION_FILE = "workers/required_version"
_CODE_FOLDERS = ("cv_assets", "resources", "sensors")
# They differ between machines, or do not change the results.
_LOCAL_FOLDERS = {"data_folder", "watched_folder", "further_watched_folders"}
_LOCAL_SETTINGS = _LOCAL_FOLDERS | {"data_group", "notifications", "queue", "retention", "search", "serve"}
_WITH_FILES = {"detections", "models", "crop_models", "stages"}


class VersionReader:
    """Reads the version that is on this machine's disk now; what has not changed is not read again."""

    def __init__(self) -> None:
        self._code_files: tuple[tuple[str, int, int], ...] = ()
        self._code_hash = ""
        self._settings_file: tuple[str, int, int] | None = None
        self._settings: Settings | None = None

    def read(self) -> str:
        """Read the version, as 16 hexadecimal digits.

        Raises:
            PipelineError: The settings are invalid.
        """
        settings = self._read_settings()
        values = settings.model_dump(mode="json", exclude=_LOCAL_SETTINGS | _WITH_FILES)
        models = [_describe_model(model) for model in (settings.detections, *settings.models)]
        models += [_describe_model(model) for model in settings.crop_models]
        stages = [
            [stage.model_dump(mode="json", exclude={"file"}), _read_bytes(stage.file).hex()]
            for stage in settings.stages
        ]
        content = json.dumps([self._read_code(), values, models, stages], sort_keys=True, default=str)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def _read_settings(self) -> Settings:
        file = _file_state(find_settings_file())
        if self._settings is None or file != self._settings_file:
            self._settings, self._settings_file = load_settings(), file
        return self._settings

    def _read_code(self) -> str:
        files = tuple(map(_file_state, _list_code_files()))
        if files != self._code_files:
            content = hashlib.blake2b(digest_size=8)
            for path in _list_code_files():
                content.update(path.read_bytes())
            self._code_files, self._code_hash = files, content.hexdigest()
        return self._code_hash


def write_required_version(data_folder: Path, version: str) -> None:
    """Write the version that all workers need, which is that of the machine with Dagster's daemon.

    Raises:
        OSError: The data folder cannot be written.
    """
    if read_required_version(data_folder) == version:
        return
    file = data_folder / _REQUIRED_VERSION_FILE
    file.parent.mkdir(exist_ok=True)
    draft = file.with_name(f".required_version.{os.getpid()}")
    draft.write_text(version, encoding="utf-8")
    draft.rename(file)


def read_required_version(data_folder: Path) -> str | None:
    """Read the version that all workers need; None if Dagster's daemon has never run."""
    try:
        return (data_folder / _REQUIRED_VERSION_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _list_code_files() -> Iterable[Path]:
    return (file for folder in _CODE_FOLDERS for file in sorted((PROJECT_ROOT / folder).rglob("*.py")))


def _describe_model(model: DetectionSettings | CropModelSettings) -> list[Any]:
    """All settings of a model but its device, and the content of its files in place of their paths."""
    contents: list[object] = []
    network = model.model_settings if isinstance(model, CropModelSettings) else model
    if network is not None:
        contents = list(detection_version(network)[1:])
    elif isinstance(model, CropModelSettings) and model.callable is not None:
        contents = [hash_callable(model.callable)]
    elif isinstance(model, CropModelSettings) and model.task == "probe":
        contents = [_read_bytes(Path(model.weights)).hex()]
    return [model.model_dump(mode="json", exclude={"device", "weights"} if contents else {"device"}), contents]


def _read_bytes(path: Path) -> bytes:
    """The content of a file; empty if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _file_state(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size
