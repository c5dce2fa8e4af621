"""Load pipeline.yaml and the environment variables that override it."""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from resources.config.detection_config import DetectionSettings
from resources.config.operations_config import ChannelSettings, NotificationSettings
from resources.config.settings import Settings
from resources.errors import PipelineError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
SETTINGS_VARIABLE = "CV_ASSETS_SETTINGS"

_VALUE_VARIABLES = {
    "CV_ASSETS_WATCHED_FOLDER": ("watched_folder",),
    "CV_ASSETS_DATA": ("data_folder",),
    "CV_ASSETS_WEIGHTS": ("detections", "weights"),
}
_MAX_QUOTE_LENGTH = 100


def load_settings(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file and the environment variables that override it.

    Args:
        path: The settings file; None means the one in CV_ASSETS_SETTINGS, or else pipeline.yaml beside the code.
        environment: Environment variables.

    Returns:
        The settings. Folders, certificates and existing weights files are absolute paths.

    Raises:
        PipelineError: The file cannot be read, is not YAML, has an unknown key or an invalid value; or the data folder
            is inside a watched folder.
    """
    requested_file = path or (Path(environment[SETTINGS_VARIABLE]) if environment.get(SETTINGS_VARIABLE) else None)
    file = (requested_file or PROJECT_ROOT / "pipeline.yaml").expanduser().absolute()
    values: dict[str, Any] = {}
    if requested_file is not None or file.exists():
        values = _read_yaml(file)
    _check_keys(Settings, values, file)
    _override_values(values, environment)
    settings = _resolve_paths(_validate(values, file), file.parent)
    _check_folders(settings, file)
    return settings


def _override_values(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Replace values of the settings file by those of environment variables that are set."""
    for variable, keys in _VALUE_VARIABLES.items():
        if not environment.get(variable):
            continue
        # Paths of the command line are relative to the working folder, not to the settings file.
        value = environment[variable]
        section = values
        for key in keys[:-1]:
            section[key] = dict(section.get(key) or {})
            section = section[key]
        section[keys[-1]] = value if variable == "CV_ASSETS_WEIGHTS" else str(Path(value).absolute())
        if variable == "CV_ASSETS_WATCHED_FOLDER":
            values["further_watched_folders"] = []  # only this folder is watched


def _validate(values: Mapping[str, Any], file: Path) -> Settings:
    """Convert the values of a settings file; the first invalid value raises a PipelineError."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first_error = error.errors()[0]
        key = ".".join(str(part) for part in first_error["loc"])
        message = first_error["msg"].removeprefix("Value error, ").replace("tuple", "list")
        value = repr(first_error["input"])
        # A value of the notifications section may be a secret, so it is never quoted.
        is_quotable = len(value) <= _MAX_QUOTE_LENGTH and not key.startswith("notifications")
        quote = f" (value: {value})" if is_quotable else ""
        raise PipelineError(f"{file}: {key}: {message}{quote}.") from error
    if "\0" in f"{settings.watched_folder}{settings.data_folder}{settings.detections.weights}":
        raise PipelineError(f"{file}: a path contains a zero byte: remove it.")
    return settings


def _resolve_paths(settings: Settings, folder: Path) -> Settings:
    """Make the relative paths of settings absolute.

    Args:
        settings: Settings as read.
        folder: Folder of the settings file, to which relative paths refer.
    """
    return settings.model_copy(
        update={
            "detections": _resolve_weights(settings.detections, folder),
            "models": tuple(_resolve_weights(model, folder) for model in settings.models),
            "notifications": _resolve_certificates(settings.notifications, folder),
            "watched_folder": folder / settings.watched_folder.expanduser(),
            "further_watched_folders": tuple(
                folder / further_folder.expanduser() for further_folder in settings.further_watched_folders
            ),
            "data_folder": folder / settings.data_folder.expanduser(),
        }
    )


def _check_folders(settings: Settings, file: Path) -> None:
    """Check that neither the data folder nor weights nor another watched folder is inside a watched folder."""
    data_folder = settings.data_folder
    watched_folders = [folder.resolve() for folder in settings.watched_folders]
    for folder in watched_folders:
        if data_folder.resolve().is_relative_to(folder):
            raise PipelineError(
                f"{file}: data_folder {data_folder} is inside the watched folder {folder}, so results would be "
                "ingested as recordings: choose another data_folder (or --data)."
            )
        if nested := [inner for inner in watched_folders if inner is not folder and inner.is_relative_to(folder)]:
            raise PipelineError(
                f"{file}: the watched folder {nested[0]} is inside the watched folder {folder}, so its recordings "
                "would be ingested twice: list only one of them."
            )
    for model in settings.all_models:
        weights = Path(model.weights).expanduser().resolve()
        if weights.exists() and any(weights.is_relative_to(folder) for folder in watched_folders):
            raise PipelineError(
                f"{file}: the weights {model.weights} are in a watched folder, to which anyone may add files, and "
                "weights can run code: move them to another folder and change the path."
            )


_Model = TypeVar("_Model", bound=DetectionSettings)
_Channel = TypeVar("_Channel", bound=ChannelSettings)


def _resolve_weights(model: _Model, folder: Path) -> _Model:
    """Make the path of a model's weights absolute if they exist relative to the settings file's folder."""
    weights = folder / Path(model.weights).expanduser()
    return model.model_copy(update={"weights": str(weights)}) if weights.exists() else model


def _resolve_certificates(notifications: NotificationSettings, folder: Path) -> NotificationSettings:
    """Make every channel's ca_file an absolute path."""

    def resolve(channel: _Channel) -> _Channel:
        file = channel.ca_file and folder / channel.ca_file.expanduser()
        return channel.model_copy(update={"ca_file": file})

    return notifications.model_copy(
        update={
            "webhooks": tuple(resolve(channel) for channel in notifications.webhooks),
            "emails": tuple(resolve(channel) for channel in notifications.emails),
        }
    )


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that rejects a repeated key; PyYAML alone would silently keep its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in keys:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f'the key "{key.value}" is repeated in line {line}')
            keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise PipelineError(f"{file}: the settings file cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise PipelineError(f"{file}: the settings file is not valid YAML: {problem}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PipelineError(
            f"{file}: the settings file must be a mapping of keys to values, not a {type(values).__name__}."
        )
    return values


def _check_keys(model: type[BaseModel], values: Mapping[Any, Any], file: Path, prefix: str = "") -> None:
    """Check that all keys are known; the error on an unknown key suggests the nearest known one."""
    for key, value in values.items():
        field = model.model_fields.get(str(key))
        if field is None:
            nearest = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known: {', '.join(model.model_fields)}."
            raise PipelineError(f"{file}: {prefix}{key} is unknown; {hint}")
        for section, name, section_values in _sections(field.annotation, f"{prefix}{key}", value):
            if section_values is None:
                raise PipelineError(f"{file}: {name} is empty: remove the key or give it keys.")
            if isinstance(section_values, Mapping):
                _check_keys(section, section_values, file, f"{name}.")


def _sections(annotation: Any, name: str, value: Any) -> Iterator[tuple[type[BaseModel], str, Any]]:
    """Find the sections of a setting: the setting itself, or the items of its list or mapping.

    Yields:
        Type, full name and value of each section.
    """
    for section in get_args(annotation) or (annotation,):
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            continue
        if get_origin(annotation) is dict:
            items = dict(value) if isinstance(value, Mapping) else {}
            yield from ((section, f"{name}.{key}", item) for key, item in items.items())
        elif get_origin(annotation) is tuple:
            items = dict(enumerate(value if isinstance(value, list) else ()))
            yield from ((section, f"{name}.{index}", item) for index, item in items.items())
        elif value is not None or type(None) not in get_args(annotation):
            yield section, name, value
