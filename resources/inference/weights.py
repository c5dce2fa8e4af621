"""Weights: finding them, checking them, and reading what they contain without running them.

The description of a weights file is cached next to its compiled networks, so that only the first use imports torch and
Ultralytics. Weights are programs (pickles): loading them runs the code that they contain.
"""

import functools
import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from resources.config.detection_config import DetectionSettings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError

logger = logging.getLogger(__name__)

# This product makes no network calls of its own: no analytics, no update checks, no package installation at run time.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")

STRIDE_PX = 32  # of all networks except those with a sixth level
_DESCRIPTION_FILE = "weights-2.json"  # increase the number when `ModelWeights` changes
_TASKS_BY_HEAD = {
    "Detect": "detect",
    "v10Detect": "detect",
    "Segment": "segment",
    "Segment26": "segment",
    "Pose": "pose",
    "Pose26": "pose",
    "OBB": "obb",
    "OBB26": "obb",
    "Classify": "classify",
}


@dataclass(frozen=True)
class ModelWeights:
    """A weights file, and what is known about it without running it.

    Attributes:
        path: A .pt file, an .onnx file, or the .xml of an OpenVINO network.
        content_hash: Of the file; for an OpenVINO network, of its files together.
        task: What the network was trained for, as Ultralytics names it.
        class_names: By class index.
        image_size_px: Longer side of the input that it was trained or exported with.
        input_width_px: Width of an exported network's only input size; None if it accepts any size.
        input_height_px: Height of that input size.
        keypoint_count: Points per object, 0 except for the task pose.
        keypoint_values: Values per point: 2, or 3 with its confidence; 0 except for the task pose.
        stride_px: Largest stride; the sides of the input are multiples of it.
    """

    path: Path
    content_hash: str
    task: str
    class_names: dict[int, str]
    image_size_px: int
    input_width_px: int | None = None
    input_height_px: int | None = None
    keypoint_count: int = 0
    keypoint_values: int = 0
    stride_px: int = STRIDE_PX

    @property
    def model_id(self) -> str:
        """Readable name and content hash: the same weights have the same id on every machine."""
        return f"{self.path.stem}-{self.content_hash[:8]}"

    @property
    def is_exported(self) -> bool:
        """Whether this is an exported network, which needs no torch."""
        return self.path.suffix != ".pt"


def find_weights(settings: DetectionSettings) -> Path | None:
    """Find the weights that the settings name, by path or by name in the project's weights folder.

    Returns:
        The file, which is the .xml file for a folder with an OpenVINO network; None if it does not exist.
    """
    path = Path(settings.weights).expanduser()
    for candidate in (path, PROJECT_ROOT / path, PROJECT_ROOT / "weights" / path.name):
        try:
            if candidate.is_file():
                return candidate.resolve()
            if candidate.is_dir() and len(networks := sorted(candidate.glob("*.xml"))) == 1:
                return networks[0].resolve()
        except OSError:
            continue  # not a valid file name
    return None


def detection_version(settings: DetectionSettings) -> tuple[DetectionSettings | str, ...]:
    """Collect what determines the detections: the settings except device and camera regions, and the weights.

    Weights that do not exist yet are represented by their name, others by their content.
    """
    path, settings = find_weights(settings), settings.model_copy(update={"device": "", "regions": {}})
    if path is None:
        return (settings,)
    return settings.model_copy(update={"weights": ""}), _content_hash(path, _modified_ns(path))


@functools.lru_cache(maxsize=32)
def _content_hash(path: Path, mtime_ns: int) -> str:
    """Hash a weights file, with its companion files; `mtime_ns` is only a part of the cache key."""
    content = hashlib.blake2b(path.read_bytes(), digest_size=16)
    for companion in _companion_files(path):
        content.update(companion.read_bytes())
    return content.hexdigest()


def _companion_files(path: Path) -> list[Path]:
    """List the files that belong to an OpenVINO network's .xml: its parameters and Ultralytics' metadata."""
    if path.suffix != ".xml":
        return []
    return [file for file in (path.with_suffix(".bin"), path.parent / "metadata.yaml") if file.is_file()]


def _modified_ns(path: Path) -> int:
    """Time of the latest modification of weights, in ns since 1970."""
    return max(file.stat().st_mtime_ns for file in (path, *_companion_files(path)))


def is_published_by_ultralytics(settings: DetectionSettings) -> bool:
    """Whether the settings name weights that Ultralytics publishes, without a path."""
    return re.fullmatch(r"yolo(v?\d+)[nsmlxbtce](u|6u)?(-seg|-pose|-obb|-cls)?\.pt", settings.weights) is not None


def check_weights(settings: DetectionSettings, watched_folders: Sequence[Path] = ()) -> None:
    """Check that weights exist and are of a supported kind; fast, because it does not import torch.

    Args:
        settings: Name the weights.
        watched_folders: Folders to which anyone may add files: no weights are loaded from there.

    Raises:
        PipelineError: The weights do not exist and cannot be downloaded, are of an unsupported kind, or are in a
            watched folder.
    """
    path = find_weights(settings)
    if path is None and os.path.isdir(Path(settings.weights).expanduser()):  # noqa: PTH112 - accepts names of any length
        raise PipelineError(
            f"The weights {settings.weights!r} are a folder without an OpenVINO network: name a folder that contains "
            "one .xml file and its .bin, or a .pt or .onnx file."
        )
    if path is None:
        if is_published_by_ultralytics(settings):
            return
        raise PipelineError(_missing_weights_message(settings))
    _check_not_in_watched_folder(path, watched_folders)
    if path.suffix not in (".pt", ".onnx", ".xml"):
        raise PipelineError(f"The weights {path} are neither a .pt or .onnx file nor an OpenVINO folder.")
    if path.suffix == ".pt" and not zipfile.is_zipfile(path):
        raise PipelineError(
            f"The weights {path} are not a PyTorch file ({path.stat().st_size} bytes): download or copy them again."
        )
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise PipelineError(
            f"The weights {path} have no {path.with_suffix('.bin').name} in the same folder: copy both files."
        )


def _check_not_in_watched_folder(path: Path, watched_folders: Sequence[Path]) -> None:
    """Refuse weights in a folder to which anyone may add files, because weights are programs.

    Raises:
        PipelineError: The weights are there, even if the settings name them by a link.
    """
    for folder in watched_folders:
        if path.is_relative_to(folder.resolve()):
            raise PipelineError(
                f"The weights {path} are in the watched folder {folder}, to which anyone may add files, and weights "
                "are programs: move them to another folder."
            )


def _missing_weights_message(settings: DetectionSettings, reason: str = "") -> str:
    if is_published_by_ultralytics(settings):
        target = PROJECT_ROOT / "weights" / settings.weights
        return (
            f"The weights {settings.weights} are not on this machine and could not be downloaded{reason}: "
            f"put the file at {target}, or name others with detections.weights or --weights."
        )
    return (
        f"The weights {settings.weights} do not exist: give the path of a .pt or .onnx file or of an OpenVINO folder "
        "with detections.weights or --weights."
    )


def _download_weights(settings: DetectionSettings) -> Path:
    """Download weights that Ultralytics publishes into the project's weights folder.

    Raises:
        PipelineError: There is no network, or the download failed.
    """
    target = PROJECT_ROOT / "weights" / settings.weights
    logger.info("Downloading %s from Ultralytics", settings.weights)
    target.parent.mkdir(exist_ok=True)
    from ultralytics.utils import downloads

    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            url = f"https://github.com/{downloads.GITHUB_ASSETS_REPO}/releases/download/v8.4.0/{settings.weights}"
            downloads.safe_download(url, file=settings.weights, dir=folder, retry=0, progress=False, min_bytes=1e5)
            Path(folder, settings.weights).replace(target)
    except Exception as error:
        # The library raises errors of many types (no route, no such file, proxy); the user's remedy is always the same.
        logger.info("Downloading %s failed: %s", settings.weights, error)
        raise PipelineError(_missing_weights_message(settings, f" ({type(error).__name__})")) from error
    return target


def load_weights(settings: DetectionSettings, cache_folder: Path, watched_folders: Sequence[Path] = ()) -> ModelWeights:
    """Find the weights, download them if they are published by Ultralytics, and read their description.

    Args:
        settings: Name the weights and their task.
        cache_folder: Folder in which the description of the weights is cached.
        watched_folders: Folders from which no weights are loaded.

    Raises:
        PipelineError: The weights are missing, damaged, of another task, or have an unknown head.
    """
    check_weights(settings, watched_folders)
    path = find_weights(settings) or _download_weights(settings)
    model = _describe_weights(path, _modified_ns(path), cache_folder)
    if model.task != settings.task:
        raise PipelineError(
            f"The weights {path} are of the task '{model.task}', but the settings say '{settings.task}': "
            f"set task: {model.task} for them, or name other weights."
        )
    return model


@functools.lru_cache(maxsize=32)
def _describe_weights(path: Path, mtime_ns: int, cache_folder: Path) -> ModelWeights:
    """Read what a weights file contains; the description is cached on disk, because reading it again imports torch."""
    content_hash = _content_hash(path, mtime_ns)
    file = cache_folder / content_hash / _DESCRIPTION_FILE
    try:
        values = json.loads(file.read_text())
        values["class_names"] = {int(index): name for index, name in values["class_names"].items()}
        return ModelWeights(**values | {"path": path})
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.info("%s is damaged (%s) and is written again.", file, type(error).__name__)
    model = _read_pt(path, content_hash) if path.suffix == ".pt" else _read_network(path, content_hash)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(model) | {"path": ""}))
    partial.replace(file)
    return model


def load_yolo(path: Path) -> Any:
    """Load the Ultralytics model of a .pt file.

    Raises:
        PipelineError: The file is damaged or contains no model.
    """
    from ultralytics import YOLO

    try:
        yolo = YOLO(path, verbose=False)
        if not hasattr(yolo.model, "model"):
            raise TypeError("the file contains no Ultralytics network")
    except Exception as error:
        # Unpickling unknown weights raises errors of many types; the remedy is always the same.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PipelineError(f"The weights {path} cannot be loaded by Ultralytics: {reason}") from error
    if getattr(yolo.model.model[-1], "one2one_cv2", None) is not None:
        # Networks that were trained to output each object once have a head for that. By default Ultralytics uses
        # their other head, whose boxes need NMS.
        yolo.model.end2end = True
    return yolo


def _read_pt(path: Path, content_hash: str) -> ModelWeights:
    """Read the description of a .pt file.

    Raises:
        PipelineError: The file is damaged, contains no model, or its head is unknown.
    """
    with zipfile.ZipFile(path) as archive:
        damaged_member = archive.testzip()  # torch would load it despite the wrong checksum
    if damaged_member:
        raise PipelineError(
            f"The weights {path} are damaged ({damaged_member} does not match its checksum): "
            "download or copy them again."
        )
    yolo = load_yolo(path)
    head = yolo.model.model[-1]
    size = yolo.overrides.get("imgsz") or getattr(yolo.model, "args", {}).get("imgsz") or 640
    point_count, value_count = getattr(head, "kpt_shape", None) or (0, 0)
    return ModelWeights(
        path,
        content_hash,
        _task_of_head(path, type(head).__name__),
        {int(index): str(name) for index, name in yolo.names.items()},
        max(size) if isinstance(size, list | tuple) else int(size),
        keypoint_count=int(point_count),
        keypoint_values=int(value_count),
        stride_px=max(STRIDE_PX, int(max(getattr(yolo.model, "stride", [STRIDE_PX])))),
    )


def _read_network(path: Path, content_hash: str) -> ModelWeights:
    """Read the description of an exported network.

    Raises:
        PipelineError: The network cannot be read, or has no description.
    """
    try:
        return _describe_network(path, content_hash)
    except PipelineError:
        raise
    except Exception as error:
        # OpenVINO, YAML and hand-written metadata raise errors of many types; the remedy is always the same.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PipelineError(f"The weights {path} cannot be read as a network: {reason}") from error


def _describe_network(path: Path, content_hash: str) -> ModelWeights:
    import openvino

    network = openvino.Core().read_model(path)
    shape = network.input(0).partial_shape
    metadata = _read_export_metadata(path, network)
    has_input_size = isinstance(metadata, Mapping) and bool(metadata.get("imgsz"))
    if not has_input_size or not isinstance(metadata.get("names"), Mapping):
        raise PipelineError(
            f"The weights {path} do not say their classes and input size: export them with Ultralytics, which writes "
            "them into .onnx files, and into metadata.yaml next to OpenVINO networks."
        )
    task = _task_of_head(path, str(metadata["head"])) if metadata.get("head") else str(metadata.get("task"))
    if len(shape) != 4 or task not in _TASKS_BY_HEAD.values():
        raise PipelineError(
            f"The weights {path} are of the task '{task}' with input {shape}, which is not supported: use weights of "
            f"{', '.join(dict.fromkeys(_TASKS_BY_HEAD.values()))}."
        )
    is_fixed = shape[2].is_static and shape[3].is_static
    point_count, value_count = metadata.get("kpt_shape") or (0, 0)
    return ModelWeights(
        path,
        content_hash,
        task,
        {int(index): str(name) for index, name in metadata["names"].items()},
        max(int(side) for side in metadata["imgsz"]),
        input_width_px=shape[3].get_length() if is_fixed else None,
        input_height_px=shape[2].get_length() if is_fixed else None,
        keypoint_count=int(point_count),
        keypoint_values=int(value_count),
        stride_px=max(STRIDE_PX, int(metadata.get("stride") or STRIDE_PX)),
    )


def _read_export_metadata(path: Path, network: Any) -> Any:
    """Read what Ultralytics wrote into an .onnx file, or into metadata.yaml next to an OpenVINO .xml; {} if nothing."""
    if path.suffix == ".xml" and (path.parent / "metadata.yaml").is_file():
        return yaml.safe_load((path.parent / "metadata.yaml").read_text(encoding="utf-8"))
    if path.suffix == ".onnx" and network.has_rt_info(["framework", "names"]):
        info = network.get_rt_info()["framework"]
        keys = ("task", "head", "names", "imgsz", "kpt_shape", "stride")
        return {key: yaml.safe_load(info[key].astype(str)) for key in keys if key in info}
    return {}


def _task_of_head(path: Path, head: str) -> str:
    if head not in _TASKS_BY_HEAD:
        raise PipelineError(
            f"The weights {path} have the head '{head}', which is not supported: use weights with one of "
            f"{', '.join(_TASKS_BY_HEAD)}."
        )
    return _TASKS_BY_HEAD[head]


def selected_class_ids(model: ModelWeights, settings: DetectionSettings) -> np.ndarray | None:
    """Indices of the classes that the settings select, shape (k,); None selects all.

    Raises:
        PipelineError: The model has no class of that name.
    """
    if settings.class_names is None:
        return None
    class_ids = {name: index for index, name in model.class_names.items()}
    if unknown := [name for name in settings.class_names if name not in class_ids]:
        raise PipelineError(
            f"class_names: {model.model_id} has no class {unknown[0]!r}: use some of {', '.join(sorted(class_ids))}."
        )
    return np.array([class_ids[name] for name in settings.class_names])
