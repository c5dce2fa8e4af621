"""Weights: where they are, whether they can work, and what they know, told without running them.

What a weights file holds is remembered beside its compiled networks, so that only its first use imports torch and
Ultralytics. Weights are programs (pickles): loading them runs code that they bring.
"""

import functools
import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from resources.errors import PipelineError
from resources.settings import PROJECT_ROOT, DetectionSettings, current_settings

logger = logging.getLogger(__name__)

# This product makes no call to the outside: no analytics, no update checks, no installing of packages at run time.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")

STRIDE_PX = 32  # of all networks but those with a sixth level
_REMEMBERED = "weights-2.json"  # another number whenever what is remembered changes
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
    """Weights that were found, and what is known of them without running them.

    Attributes:
        path: A .pt file, an .onnx file, or the .xml of an OpenVINO network.
        content_hash: Of the file; for an OpenVINO network, of both its files.
        task: What the network was trained for, as Ultralytics names it.
        class_names: By class index.
        image_size_px: Longer side of the input that it was trained or exported with.
        input_width_px: Width of the only input that an exported network takes; None where any size will do.
        input_height_px: Height of that input.
        keypoint_count: Points per object, 0 but for the task pose.
        keypoint_values: Values per point: 2, or 3 with its confidence; 0 but for the task pose.
        stride_px: What the sides of the input must be multiples of.
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
        """Readable name and content hash: the same weights have the same id anywhere."""
        return f"{self.path.stem}-{self.content_hash[:8]}"

    @property
    def is_exported(self) -> bool:
        """Whether this is a network already, which needs no torch."""
        return self.path.suffix != ".pt"


def find_weights(settings: DetectionSettings) -> Path | None:
    """The weights of the settings, a path or a name in the project's weights/; None if they are not there.

    Of a folder that holds an OpenVINO network, the network's .xml file.
    """
    named = Path(settings.weights).expanduser()
    for candidate in (named, PROJECT_ROOT / named, PROJECT_ROOT / "weights" / named.name):
        try:
            if candidate.is_file():
                return candidate.resolve()
            if candidate.is_dir() and len(networks := sorted(candidate.glob("*.xml"))) == 1:
                return networks[0].resolve()
        except OSError:
            continue  # no name that a file can have
    return None


def detection_version(settings: DetectionSettings) -> tuple[DetectionSettings | str, ...]:
    """What decides which boxes are found: the settings but for the device and the cameras' regions, and the weights.

    Weights that are not here yet count by their name, others by their content.
    """
    path, settings = find_weights(settings), settings.model_copy(update={"device": "", "regions": {}})
    if path is None:
        return (settings,)
    return settings.model_copy(update={"weights": ""}), _content_hash(path, _changed_ns(path))


@functools.lru_cache(maxsize=32)
def _content_hash(path: Path, mtime_ns: int) -> str:
    """Hash of a weights file as it was at a time of change; the files of an OpenVINO network count as one."""
    content = hashlib.blake2b(path.read_bytes(), digest_size=16)
    for beside in _beside(path):
        content.update(beside.read_bytes())
    return content.hexdigest()


def _beside(path: Path) -> list[Path]:
    """What belongs to an OpenVINO network's .xml: its numbers, and what Ultralytics wrote of its classes."""
    if path.suffix != ".xml":
        return []
    return [file for file in (path.with_suffix(".bin"), path.parent / "metadata.yaml") if file.is_file()]


def _changed_ns(path: Path) -> int:
    """When weights were last changed, in ns since 1970."""
    return max(file.stat().st_mtime_ns for file in (path, *_beside(path)))


def may_be_fetched(settings: DetectionSettings) -> bool:
    """Whether the settings name weights that Ultralytics publishes, by their bare name."""
    return re.fullmatch(r"yolo(v?\d+)[nsmlxbtce](u|6u)?(-seg|-pose|-obb|-cls)?\.pt", settings.weights) is not None


def check_weights(settings: DetectionSettings) -> None:
    """Cheap refusal of weights that cannot work, without importing torch.

    Raises:
        PipelineError: They are not there and cannot be fetched, or are of no kind that is known here.
    """
    path = find_weights(settings)
    if path is None and os.path.isdir(Path(settings.weights).expanduser()):  # noqa: PTH112 - takes names of any length
        raise PipelineError(
            f"The weights {settings.weights!r} are a folder without an OpenVINO network: name a folder that holds one "
            ".xml and its .bin, or a .pt or .onnx file."
        )
    if path is None:
        if may_be_fetched(settings):
            return
        raise PipelineError(_missing_weights(settings))
    _refuse_dropped(path)
    if path.suffix not in (".pt", ".onnx", ".xml"):
        raise PipelineError(f"The weights {path} are neither a .pt or .onnx file nor an OpenVINO folder.")
    if path.suffix == ".pt" and not zipfile.is_zipfile(path):
        raise PipelineError(
            f"The weights {path} are not a PyTorch file ({path.stat().st_size} bytes): fetch or copy them again."
        )
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise PipelineError(f"The weights {path} lack {path.with_suffix('.bin').name} beside them: copy both files.")


def _refuse_dropped(path: Path) -> None:
    """Never load what anybody may drop into a watched folder: weights are programs.

    Raises:
        PipelineError: The weights lie there, by whatever way they are named.
    """
    for folder in current_settings().watched_folders:
        if path.is_relative_to(folder.resolve()):
            raise PipelineError(
                f"The weights {path} lie in the watched folder {folder}: weights are programs and are never loaded "
                "from where recordings are dropped. Move them elsewhere."
            )


def _missing_weights(settings: DetectionSettings, reason: str = "") -> str:
    if may_be_fetched(settings):
        target = PROJECT_ROOT / "weights" / settings.weights
        return (
            f"The weights {settings.weights} are not on this machine and could not be fetched{reason}: "
            f"put the file at {target}, or name another with detections.weights or --weights."
        )
    return (
        f"The weights {settings.weights} do not exist: give the path of a .pt or .onnx file or of an OpenVINO folder "
        "with detections.weights or --weights."
    )


def _fetched_weights(settings: DetectionSettings) -> Path:
    """Let Ultralytics fetch weights that it publishes, into the project's weights/.

    Raises:
        PipelineError: There is no network, or the file cannot be had.
    """
    target = PROJECT_ROOT / "weights" / settings.weights
    logger.info("Fetching %s from Ultralytics", settings.weights)
    target.parent.mkdir(exist_ok=True)
    from ultralytics.utils import downloads

    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            url = f"https://github.com/{downloads.GITHUB_ASSETS_REPO}/releases/download/v8.4.0/{settings.weights}"
            downloads.safe_download(url, file=settings.weights, dir=folder, retry=0, progress=False, min_bytes=1e5)
            Path(folder, settings.weights).replace(target)
    except Exception as error:
        # Whatever the library raises (no route, no such file, proxy), the way out for the user is the same.
        logger.info("Fetching %s failed: %s", settings.weights, error)
        raise PipelineError(_missing_weights(settings, f" ({type(error).__name__})")) from error
    return target


def load_weights(settings: DetectionSettings, cache_folder: Path) -> ModelWeights:
    """Find the weights, fetching them if they may be, and read what they are.

    Args:
        settings: Names the weights and the task that they must be of.
        cache_folder: Where what was read is remembered.

    Raises:
        PipelineError: They are missing, damaged, of another task, or have a head that is not known here.
    """
    check_weights(settings)
    path = find_weights(settings) or _fetched_weights(settings)
    model = _described(path, _changed_ns(path), cache_folder)
    if model.task != settings.task:
        raise PipelineError(
            f"The weights {path} are of the task '{model.task}', and the settings ask for '{settings.task}': "
            f"set task: {model.task} for them, or name other weights."
        )
    return model


@functools.lru_cache(maxsize=32)
def _described(path: Path, mtime_ns: int, cache_folder: Path) -> ModelWeights:
    """What a weights file holds; remembered on disk, so that torch need not be imported to read it again."""
    content_hash = _content_hash(path, mtime_ns)
    remembered = cache_folder / content_hash / _REMEMBERED
    try:
        held = json.loads(remembered.read_text())
        held["class_names"] = {int(index): name for index, name in held["class_names"].items()}
        return ModelWeights(**held | {"path": path})
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.info("%s is damaged (%s) and is made again.", remembered, type(error).__name__)
    model = _read_pt(path, content_hash) if path.suffix == ".pt" else _read_network(path, content_hash)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    partial = remembered.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(model) | {"path": ""}))
    partial.replace(remembered)
    return model


def load_yolo(path: Path) -> Any:
    """The Ultralytics model of a .pt file.

    Raises:
        PipelineError: The file is damaged or is no model.
    """
    from ultralytics import YOLO

    try:
        yolo = YOLO(path, verbose=False)
        if not hasattr(yolo.model, "model"):
            raise TypeError("it holds no network of Ultralytics")
    except Exception as error:
        # Unpickling foreign weights fails in as many ways as there are files; the remedy is the same.
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise PipelineError(f"The weights {path} cannot be loaded by Ultralytics: {told}") from error
    if getattr(yolo.model.model[-1], "one2one_cv2", None) is not None:
        # Of a network that was trained to say each object once, the head that does; Ultralytics takes the other one,
        # whose boxes must be suppressed, unless it is asked.
        yolo.model.end2end = True
    return yolo


def _read_pt(path: Path, content_hash: str) -> ModelWeights:
    with zipfile.ZipFile(path) as parts:
        damaged = parts.testzip()  # torch loads what does not match its checksum
    if damaged:
        raise PipelineError(
            f"The weights {path} are damaged ({damaged} does not match its checksum): fetch or copy them again."
        )
    yolo = load_yolo(path)
    head = yolo.model.model[-1]
    size = yolo.overrides.get("imgsz") or getattr(yolo.model, "args", {}).get("imgsz") or 640
    points, values = getattr(head, "kpt_shape", None) or (0, 0)
    return ModelWeights(
        path,
        content_hash,
        _task_of_head(path, type(head).__name__),
        {int(index): str(name) for index, name in yolo.names.items()},
        max(size) if isinstance(size, list | tuple) else int(size),
        keypoint_count=int(points),
        keypoint_values=int(values),
        stride_px=max(STRIDE_PX, int(max(getattr(yolo.model, "stride", [STRIDE_PX])))),
    )


def _read_network(path: Path, content_hash: str) -> ModelWeights:
    """What an exported network is.

    Raises:
        PipelineError: It cannot be read, or does not say what it is.
    """
    try:
        return _network(path, content_hash)
    except PipelineError:
        raise
    except Exception as error:
        # OpenVINO, YAML and what people wrote into it fail in ways of their own; the remedy is the same.
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise PipelineError(f"The weights {path} cannot be read as a network: {told}") from error


def _network(path: Path, content_hash: str) -> ModelWeights:
    """What Ultralytics wrote into an exported network: into an .onnx itself, or beside an OpenVINO .xml."""
    import openvino

    network = openvino.Core().read_model(path)
    shape = network.input(0).partial_shape
    held: Mapping[str, Any] = {}
    if path.suffix == ".xml" and (path.parent / "metadata.yaml").is_file():
        held = yaml.safe_load((path.parent / "metadata.yaml").read_text(encoding="utf-8"))
    elif path.suffix == ".onnx" and network.has_rt_info(["framework", "names"]):
        info = network.get_rt_info()["framework"]
        keys = ("task", "head", "names", "imgsz", "kpt_shape", "stride")
        held = {key: yaml.safe_load(info[key].astype(str)) for key in keys if key in info}
    if not isinstance(held, Mapping) or not isinstance(held.get("names"), Mapping) or not held.get("imgsz"):
        raise PipelineError(
            f"The weights {path} do not say their classes and input size: export them with Ultralytics, which writes "
            "them into .onnx files and into metadata.yaml beside OpenVINO networks."
        )
    task = _task_of_head(path, str(held["head"])) if held.get("head") else str(held.get("task"))
    if len(shape) != 4 or task not in _TASKS_BY_HEAD.values():
        raise PipelineError(f"The weights {path} are of the task '{task}' with input {shape}, which is not known here.")
    is_fixed = shape[2].is_static and shape[3].is_static
    points, values = held.get("kpt_shape") or (0, 0)
    return ModelWeights(
        path,
        content_hash,
        task,
        {int(index): str(name) for index, name in held["names"].items()},
        max(int(side) for side in held["imgsz"]),
        input_width_px=shape[3].get_length() if is_fixed else None,
        input_height_px=shape[2].get_length() if is_fixed else None,
        keypoint_count=int(points),
        keypoint_values=int(values),
        stride_px=max(STRIDE_PX, int(held.get("stride") or STRIDE_PX)),
    )


def _task_of_head(path: Path, head: str) -> str:
    try:
        return _TASKS_BY_HEAD[head]
    except KeyError as error:
        raise PipelineError(
            f"The weights {path} have the head '{head}', which is not known here; known are "
            f"{', '.join(_TASKS_BY_HEAD)}."
        ) from error


def wanted_classes(model: ModelWeights, settings: DetectionSettings) -> np.ndarray | None:
    """Indices of the classes that the settings keep, as an array; None keeps all.

    Raises:
        PipelineError: The model knows no such class.
    """
    if settings.class_names is None:
        return None
    by_name = {name: index for index, name in model.class_names.items()}
    if unknown := [name for name in settings.class_names if name not in by_name]:
        raise PipelineError(
            f"class_names: {model.model_id} knows no class {unknown[0]!r}; it knows {', '.join(sorted(by_name))}."
        )
    return np.array([by_name[name] for name in settings.class_names])
