"""The user's settings: `pipeline.yaml`, every key optional, typed here.

Which recordings, which data folder and which weights may also be given by environment variables, which is
how one set of settings serves several folders:
CV_ASSETS_SETTINGS (this file), CV_ASSETS_WATCHED_FOLDER, CV_ASSETS_DATA, CV_ASSETS_WEIGHTS.
"""

import difflib
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from resources.errors import PipelineError

PROJECT_ROOT = Path(__file__).resolve().parent.parent

SETTINGS_VARIABLE = "CV_ASSETS_SETTINGS"
_VALUE_VARIABLES = {
    "CV_ASSETS_WATCHED_FOLDER": ("watched_folder",),
    "CV_ASSETS_DATA": ("data_folder",),
    "CV_ASSETS_WEIGHTS": ("detections", "weights"),
}

_DATE = r"(?P<year>20\d\d)-(?P<month>\d\d)-(?P<day>\d\d)"
_CLOCK = r"(?P<hour>\d\d)-(?P<minute>\d\d)-(?P<second>\d\d)"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class IntakeSettings(_Section):
    """When a file in the watched folder counts as a recording."""

    settle_s: float = Field(4.0, ge=0, description="A file counts once its size and mtime rested this long.")
    extensions: tuple[str, ...] = Field(
        (
            "3gp", "asf", "avi", "dav", "flv", "h264", "h265", "hevc", "264", "265", "ivf", "m2ts", "m4v", "mkv",
            "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv",
        ),
        description="File name endings that are taken for recordings.",
    )  # fmt: skip
    captured_at_patterns: tuple[str, ...] = Field(
        (
            _DATE + r"[_T ]" + _CLOCK.replace("-", "[-:.]"),
            _DATE.replace("-", "") + r"[_T-]?" + _CLOCK.replace("-", ""),
        ),
        description="Regular expressions that find the start time in a file name, tried in order.",
    )
    time_zone: str = Field("UTC", description="Time zone of the clock times in file names (IANA name).")

    @field_validator("extensions")
    @classmethod
    def _lower_without_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(ending.lower().lstrip(".") for ending in value)

    @field_validator("captured_at_patterns")
    @classmethod
    def _compilable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                groups = set(re.compile(pattern).groupindex)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
            missing = {"year", "month", "day", "hour", "minute", "second"} - groups
            if missing:
                raise ValueError(f"{pattern!r} lacks the named groups {sorted(missing)}")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Berlin") from error
        return value


class VideoSettings(_Section):
    """How recordings are normalized."""

    max_height_px: int | None = Field(1080, ge=64, description="Taller pictures are scaled down; null keeps all.")
    max_rate_fps: float | None = Field(None, gt=0, description="Faster recordings are decimated; null keeps all.")
    max_gap_fill_s: float = Field(1.0, ge=0, description="Longer holes in the source are not filled with repeats.")
    crf: int = Field(23, ge=0, le=51, description="H.264 quality where we encode: lower is better and larger.")
    max_pixels: int = Field(64_000_000, gt=0, description="A picture claiming more pixels than this is refused.")


class DetectionSettings(_Section):
    """Which detector, and what of its answers is kept."""

    weights: str = Field(
        "yolo26n.pt",
        description="An Ultralytics detection model: a path, or a name looked for in weights/ and, "
        "if Ultralytics publishes it, fetched there once.",
    )
    engine: Literal["auto", "openvino", "torch"] = Field("auto", description="auto: torch on a GPU, OpenVINO on a CPU.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda:\d+)$", description="auto, cpu, cuda:N or mps.")
    image_size_px: int | None = Field(
        None, ge=32, description="Longer side of the model's input; null: the size it was trained with."
    )
    min_confidence: float = Field(
        0.1, gt=0, lt=1, description="Boxes under this are not stored; the tracker uses the weak ones."
    )
    nms_iou: float = Field(0.7, gt=0, le=1, description="Of two boxes of a class overlapping more, the better stays.")
    max_per_frame: int = Field(300, ge=1, description="At most this many boxes a frame, the best first.")
    class_names: tuple[str, ...] | None = Field(
        None, description="Keep only these classes; null keeps all that the model knows."
    )


class TrackSettings(_Section):
    """How objects are followed; times in seconds, so that they hold at any frame rate."""

    method: Literal["motion", "bytetrack"] = Field(
        "motion", description="motion: our own, which knows the frames' times; bytetrack: that of Ultralytics."
    )
    high_confidence: float = Field(0.25, ge=0, le=1, description="Boxes from here up are matched first.")
    low_confidence: float = Field(0.1, ge=0, le=1, description="Boxes under this are ignored.")
    new_track_confidence: float = Field(0.25, ge=0, le=1, description="Only boxes from here up start a track.")
    match_threshold: float = Field(0.8, gt=0, le=1, description="Largest matching cost (1 - IoU x confidence).")
    lost_s: float = Field(1.2, ge=0, description="A track unseen for longer ends; a later box starts another.")
    min_duration_s: float = Field(
        0.2, ge=0, description="Tracks seen for less than this in all are taken for noise and dropped."
    )
    min_best_confidence: float = Field(
        0.5, ge=0, le=1, description="Tracks whose surest box is under this are taken for noise and dropped."
    )
    interpolate_s: float = Field(
        1.2, ge=0, description="Gaps in a track up to this long are filled with boxes marked is_interpolated."
    )
    stitch_s: float = Field(
        0.0, ge=0, description="A track that begins where another ended within this time goes on with it; 0: never."
    )


class CropSettings(_Section):
    """Which pictures of a track are kept."""

    per_track: int = Field(3, ge=1, le=50, description="At most this many pictures of a track, best first.")
    min_side_px: int = Field(16, ge=1, description="Smaller boxes are not cut out.")
    padding: float = Field(0.05, ge=0, le=1, description="Margin around the box, as a share of its size.")
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of the pictures.")


class BatchSettings(_Section):
    """How much one run takes on: the model is loaded once per run."""

    max_recordings: int = Field(20, ge=1, description="At most this many recordings a run.")
    max_footage_minutes: float = Field(60, gt=0, description="At most about this much footage a run.")
    max_attempts: int = Field(2, ge=1, description="A failed recording is tried this often in all.")


class Settings(_Section):
    """All settings. Folders are relative to the settings file's own folder."""

    watched_folder: Path = Field(Path("recordings"), description="Recordings are dropped here; only ever read.")
    data_folder: Path = Field(Path("data"), description="Tables, normalized video and Dagster's own storage.")
    intake: IntakeSettings = IntakeSettings()
    video: VideoSettings = VideoSettings()
    detections: DetectionSettings = DetectionSettings()
    tracks: TrackSettings = TrackSettings()
    crops: CropSettings = CropSettings()
    batches: BatchSettings = BatchSettings()


def load_settings(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file and the environment variables that override it.

    Args:
        path: The settings file; None means CV_ASSETS_SETTINGS or, failing that, pipeline.yaml beside the code.
        environment: Where the overriding variables are looked up.

    Returns:
        Settings whose folders and weights file (when a file was named) are absolute paths.

    Raises:
        PipelineError: The file cannot be read, is not YAML, has an unknown key or a value of the wrong kind; or the
            data folder lies inside the watched folder.
    """
    named = path or (Path(environment[SETTINGS_VARIABLE]) if environment.get(SETTINGS_VARIABLE) else None)
    file = (named or PROJECT_ROOT / "pipeline.yaml").expanduser().absolute()
    values: dict[str, Any] = {}
    if named is not None or file.exists():
        values = _read_yaml(file)
    _check_keys(Settings, values, file)
    for variable, keys in _VALUE_VARIABLES.items():
        if environment.get(variable):
            # Paths given on the command line are relative to where it was typed, not to the settings file.
            value = environment[variable]
            section = values
            for key in keys[:-1]:
                section[key] = dict(section.get(key) or {})
                section = section[key]
            section[keys[-1]] = value if variable == "CV_ASSETS_WEIGHTS" else str(Path(value).absolute())
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("tuple", "list")
        raise PipelineError(f"{file}: {where}: {message} (it says {first['input']!r}).") from error
    if "\0" in f"{settings.watched_folder}{settings.data_folder}{settings.detections.weights}":
        raise PipelineError(f"{file}: a path holds a zero byte.")
    beside = file.parent / Path(settings.detections.weights).expanduser()
    if beside.is_file():
        settings = settings.model_copy(
            update={"detections": settings.detections.model_copy(update={"weights": str(beside)})}
        )
    watched_folder = file.parent / settings.watched_folder.expanduser()
    data_folder = file.parent / settings.data_folder.expanduser()
    if data_folder.resolve().is_relative_to(watched_folder.resolve()):
        raise PipelineError(
            f"The data folder {data_folder} lies inside the watched folder {watched_folder}, so that results would be "
            "taken for recordings: choose another data_folder (or --data)."
        )
    return settings.model_copy(update={"watched_folder": watched_folder, "data_folder": data_folder})


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PipelineError(f"The settings file {file} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise PipelineError(f"The settings file {file} is not valid YAML: {problem}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PipelineError(f"The settings file {file} must hold keys and values, not a {type(values).__name__}.")
    return values


def _check_keys(model: type[BaseModel], values: Mapping[Any, Any], file: Path, prefix: str = "") -> None:
    """Refuse unknown keys with the nearest valid name, which is what a misspelt key needs."""
    for key, value in values.items():
        field = model.model_fields.get(str(key))
        if field is None:
            near = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(model.model_fields)}."
            raise PipelineError(f"{file}: unknown setting {prefix}{key}; {hint}")
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if value is None:
                raise PipelineError(f"{file}: {prefix}{key} is empty; remove it or give it keys.")
            if isinstance(value, Mapping):
                _check_keys(section, value, file, f"{prefix}{key}.")


@functools.cache
def current_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def settings_version(*sections: BaseModel | str) -> str:
    """A short hash of the given settings: equal settings give equal versions on any machine."""
    text = json.dumps([s if isinstance(s, str) else s.model_dump(mode="json") for s in sections], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
