"""Load pipeline.yaml and the environment variables that override it."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from resources.config.crop_model_config import CropModelSettings
from resources.config.detection_config import DetectionSettings, ModelSettings
from resources.config.operations_config import ChannelSettings, NotificationSettings
from resources.config.search_config import SearchSettings
from resources.config.section import EnvironmentVariable
from resources.config.settings import Settings
from resources.errors import PipelineError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
SETTINGS_VARIABLE = "CV_ASSETS_SETTINGS"
SETTINGS_NAME = "pipeline.yaml"

_VALUE_VARIABLES = {
    "CV_ASSETS_WATCHED_FOLDER": ("watched_folder",),
    "CV_ASSETS_DATA": ("data_folder",),
    "CV_ASSETS_WEIGHTS": ("detections", "weights"),
}
_MAX_QUOTE_LENGTH = 100
_KEY_NAME = re.compile(r"[A-Za-z_][\w-]{0,39}")
_SECRET_NAME = EnvironmentVariable.__name__
_UNION_BRANCH = re.compile(r"[a-z-]+\[.*\]")  # which Pydantic adds to the path of a value
_QUOTED_TEXT = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_QUOTED_SYMBOL = re.compile(r"""['"](?:.|\\.|<[a-z ]+>)['"]""")
_MAX_FILE_BYTES = 1_000_000  # more would take tens of seconds to read, in every process


def find_settings_file(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Find the settings file in force, which need not exist.

    Args:
        path: The file that the user names; None means the one in CV_ASSETS_SETTINGS, or else pipeline.yaml of the
            current folder, or else pipeline.yaml beside the code.
        environment: Environment variables.
    """
    if named_file := path or environment.get(SETTINGS_VARIABLE):
        return Path(named_file).expanduser().absolute()
    file = Path.cwd() / SETTINGS_NAME
    return file if file.is_file() else PROJECT_ROOT / SETTINGS_NAME


def load_settings(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file and the environment variables that override it.

    Args:
        path: The settings file; None means the one that `find_settings_file` finds.
        environment: Environment variables.

    Returns:
        The settings. Folders, certificates and existing weights files are absolute paths.

    Raises:
        PipelineError: The file cannot be read, is not YAML, has an unknown key or an invalid value; or the data folder
            is inside a watched folder.
    """
    file = find_settings_file(path, environment)
    if file.exists() and not file.is_file():
        raise PipelineError(f"{file}: the settings file is a folder or a device, not a file: name a file.")
    values: dict[str, Any] = {}
    if file.exists() or path or environment.get(SETTINGS_VARIABLE):
        values = _read_yaml(file)
    _check_keys(Settings, values, file)
    _override_values(values, environment)
    settings = _validate(values, file)
    try:
        settings = _resolve_paths(settings, file.parent)
        _check_folders(settings, file)
        _check_code(settings, file)
    except (OSError, RuntimeError) as error:  # too long, or ~ with an unknown user
        raise PipelineError(f"{file}: a path cannot be used: {error}") from None
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
        errors = error.errors()
        # A secret that is a mapping is reported as no text, too, and first.
        is_mapping = isinstance(errors[0]["input"], Mapping)
        first_error = next((item for item in errors if is_mapping and _SECRET_NAME in item["loc"]), errors[0])
        parts = [str(part) for part in first_error["loc"]]
        key = ".".join(part for part in parts if part != _SECRET_NAME and not _UNION_BRANCH.fullmatch(part))
        message = first_error["msg"].removeprefix("Value error, ").replace(" after validation", "")
        message = message.replace("tuple", "list").replace("Tuple", "List")
        value = first_error["input"]
        # A value of the sections notifications and serve may be a secret; so may a part of a larger value, where lines
        # are indented wrongly. The cause is left out, because Dagster would print it with the values.
        is_quotable = isinstance(value, str | int | float) and not key.startswith(("notifications", "serve"))
        quote = f" (value: {value!r})" if is_quotable and len(repr(value)) <= _MAX_QUOTE_LENGTH else ""
        raise PipelineError(f"{file}: {key}: {message}{quote}.") from None
    weights = [model.weights for model in settings.all_models]
    files = [stage.file for stage in settings.stages]
    for path in (*map(str, (*settings.watched_folders, settings.data_folder, *files)), *weights):
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in path):
            raise PipelineError(f"{file}: the path {path!a} has a zero byte or is not valid UTF-8: rename it.")
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
            "crop_models": tuple(_resolve_weights(model, folder) for model in settings.crop_models),
            "stages": tuple(
                stage.model_copy(update={"file": _real_path(folder / stage.file.expanduser())})
                for stage in settings.stages
            ),
            "search": _resolve_text_encoder(settings.search, folder),
            "notifications": _resolve_certificates(settings.notifications, folder),
            "pack": settings.pack.model_copy(update={"signing_key": _resolve(settings.pack.signing_key, folder)}),
            "recaps": settings.recaps.model_copy(update={"folder": _resolve(settings.recaps.folder, folder)}),
            "watched_folder": folder / settings.watched_folder.expanduser(),
            "further_watched_folders": tuple(
                folder / further_folder.expanduser() for further_folder in settings.further_watched_folders
            ),
            "data_folder": _real_path(folder / settings.data_folder.expanduser()),
        }
    )


def _real_path(path: Path) -> Path:
    """The path without links: a data folder has one name, however it is spelled."""
    return Path(os.path.realpath(path))


def _check_folders(settings: Settings, file: Path) -> None:
    """Check that no folder is inside another."""
    data_folder = settings.data_folder
    watched_folders = [_real_path(folder) for folder in settings.watched_folders]
    for folder in watched_folders:
        if data_folder.is_relative_to(folder):
            raise PipelineError(
                f"{file}: data_folder {data_folder} is inside the watched folder {folder}, so results would be "
                "ingested as recordings: choose another data_folder (or --data)."
            )
        if folder.is_relative_to(data_folder):
            raise PipelineError(
                f"{file}: the watched folder {folder} is inside the data folder {data_folder}, in which the pipeline "
                "writes and deletes files: choose another watched folder, or another data_folder (or --data)."
            )
        if nested := [inner for inner in watched_folders if inner is not folder and inner.is_relative_to(folder)]:
            raise PipelineError(
                f"{file}: the watched folder {nested[0]} is inside the watched folder {folder}, so its recordings "
                "would be ingested twice: list only one of them."
            )
    for name, folder in (*(("watched", folder) for folder in watched_folders), ("data", data_folder)):
        if settings.recaps.folder and _real_path(settings.recaps.folder).is_relative_to(folder):
            raise PipelineError(
                f"{file}: recaps.folder {settings.recaps.folder} is inside the {name} folder {folder}: choose another "
                "folder, whose files are neither ingested nor deleted."
            )


def _check_code(settings: Settings, file: Path) -> None:
    """Check that nothing that is executed is inside a watched folder."""
    watched_folders = [_real_path(folder) for folder in settings.watched_folders]
    for model in settings.all_models:
        weights = _real_path(Path(model.weights).expanduser())
        if weights.exists() and any(weights.is_relative_to(folder) for folder in watched_folders):
            raise PipelineError(
                f"{file}: the weights {model.weights} are in a watched folder, to which anyone may add files, and "
                "weights can run code: move them to another folder and change the path."
            )
    for stage in settings.stages:
        if any(stage.file.is_relative_to(folder) for folder in watched_folders):
            raise PipelineError(
                f"{file}: the stage {stage.file} is in a watched folder, to which anyone may add files, and its "
                "code is executed: move it to another folder and change the path."
            )


_Model = TypeVar("_Model", DetectionSettings, ModelSettings, CropModelSettings)
_Channel = TypeVar("_Channel", bound=ChannelSettings)


def _resolve_weights(model: _Model, folder: Path) -> _Model:
    """Make the path of a model's weights absolute if they exist relative to the settings file's folder."""
    if isinstance(model, CropModelSettings) and (model.is_built_in or model.callable):
        return model
    weights = folder / Path(model.weights).expanduser()
    return model.model_copy(update={"weights": str(weights)}) if weights.exists() else model


def _resolve_text_encoder(search: SearchSettings, folder: Path) -> SearchSettings:
    """Make the folder of the text encoder an absolute path."""
    encoder = search.text_encoder and folder / search.text_encoder.expanduser()
    return search.model_copy(update={"text_encoder": encoder})


def _resolve(path: Path | None, folder: Path) -> Path | None:
    return None if path is None else folder / path.expanduser()


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

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # of int() and others, whose texts quote the value
            kind = node.tag.rpartition(":")[2]
            problem = f"the value is not of the type {kind}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in keys:
                line = key.start_mark.line + 1
                name = f'the key "{key.value}"' if _KEY_NAME.fullmatch(key.value) else "a key"
                raise yaml.YAMLError(f"{name} is repeated in line {line}")
            keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            text = content.read(_MAX_FILE_BYTES + 1)
        if len(text) > _MAX_FILE_BYTES:
            raise PipelineError(
                f"{file}: the settings file is larger than {_MAX_FILE_BYTES:,} bytes: shorten its lists, or name "
                "another file with --settings."
            )
        values = yaml.load(text.decode("utf-8"), _UniqueKeys)
    except OSError as error:
        raise PipelineError(f"{file}: the settings file cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Without the cause, which Dagster would print with the lines that it quotes.
        raise PipelineError(f"{file}: the settings file is not valid YAML: {_describe_problem(error)}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PipelineError(
            f"{file}: the settings file must be a mapping of keys to values, not a {type(values).__name__}."
        )
    return values


def _describe_problem(error: Exception) -> str:
    """Describe an error of the YAML parser by its position, without the text of the file, which may be a secret."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = f"{error.problem} ({error.context})" if error.context else f"{error.problem}"
    return position + _QUOTED_TEXT.sub(
        lambda quote: quote[0] if _QUOTED_SYMBOL.fullmatch(quote[0]) else "(not shown)", problem
    )


def _check_keys(model: type[BaseModel], values: Mapping[Any, Any], file: Path, prefix: str = "") -> None:
    """Check that all keys are known; the error on an unknown key suggests the nearest known one."""
    for key, value in values.items():
        field = model.model_fields.get(str(key))
        if field is None:
            # A text that is no name, or is in the place of a secret, may be a secret itself.
            is_secret = model is EnvironmentVariable and not difflib.get_close_matches(str(key), model.model_fields)
            if is_secret or not _KEY_NAME.fullmatch(str(key)):
                known = ", ".join(model.model_fields)
                raise PipelineError(f"{file}: {prefix or 'a key, '}(not shown) is unknown; known: {known}.")
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
