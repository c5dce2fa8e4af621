"""The description of a weights file: task, classes and input size, read without running the network.

The description is cached next to the compiled networks, so that only the first use imports torch and Ultralytics.
"""

import functools
import json
import logging
import os
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from resources.config.detection_config import DetectionSettings
from resources.config.network_config import NetworkSettings
from resources.errors import PipelineError, summarize_exception

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
    """A weights file and its description, which is read without running the network.

    Attributes:
        path: A .pt file, an .onnx file, or the .xml of an OpenVINO network.
        content_hash: Hash of the file; for an OpenVINO network, of all its files.
        task: Task of the network, as Ultralytics names it.
        class_names: By class index.
        image_size_px: Longer side of the input in training or export.
        input_width_px: Width of an exported network's only input size; None if it accepts any size.
        input_height_px: Height of that input size.
        keypoint_count: Points per object, 0 except for the task pose.
        keypoint_values: Values per point: 2, or 3 with its confidence; 0 except for the task pose.
        stride_px: Largest stride; the sides of the input are multiples of it.
        network: Description of a plain detector; None for weights of Ultralytics.
        is_channels_last: Whether the input is (1, height_px, width_px, 3), which only plain detectors have.
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
    network: NetworkSettings | None = None
    is_channels_last: bool = False

    @property
    def model_id(self) -> str:
        """Readable name and content hash: the same weights have the same id on every machine."""
        return f"{self.path.stem}-{self.content_hash[:8]}"

    @property
    def is_exported(self) -> bool:
        """Whether this is an exported network, which needs no torch."""
        return self.path.suffix != ".pt"


@functools.lru_cache(maxsize=32)
def describe_weights(path: Path, content_hash: str, cache_folder: Path) -> ModelWeights:
    """Read the description of a weights file; it is cached on disk, because reading it again imports torch.

    Args:
        path: The file; the .xml for an OpenVINO network.
        content_hash: Hash of the file's content, under which the description is cached.
        cache_folder: Folder of the cached descriptions.

    Raises:
        PipelineError: The file is damaged, contains no model, or has an unknown head or no description.
    """
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
        summary = summarize_exception(error)
        raise PipelineError(f"The weights {path} cannot be loaded by Ultralytics: {summary}") from error
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
        summary = summarize_exception(error)
        raise PipelineError(f"The weights {path} cannot be read as a network: {summary}") from error


def _describe_network(path: Path, content_hash: str) -> ModelWeights:
    import openvino

    network = openvino.Core().read_model(path)
    shape = network.input(0).partial_shape
    metadata = _read_export_metadata(path, network)
    has_input_size = isinstance(metadata, Mapping) and bool(metadata.get("imgsz"))
    if not has_input_size or not isinstance(metadata.get("names"), Mapping):
        raise PipelineError(
            f"The weights {path} do not say their classes and input size: export them with Ultralytics, which writes "
            "them into .onnx files, and into metadata.yaml next to OpenVINO networks, or describe a plain detector "
            "with the key network."
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
    """Read Ultralytics' metadata from an .onnx file or from metadata.yaml next to an OpenVINO .xml; {} if none."""
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
    check_class_names(model, settings.class_names, "class_names")
    class_ids = {name: index for index, name in model.class_names.items()}
    return np.array([class_ids[name] for name in settings.class_names])


def check_class_names(model: ModelWeights, names: Collection[str], key: str) -> None:
    """Check that a model has some classes.

    Args:
        model: The model's weights.
        names: Names of classes.
        key: The key of the settings that contains them.

    Raises:
        PipelineError: The model has no class of one of the names.
    """
    known = set(model.class_names.values())
    if unknown := [name for name in names if name not in known]:
        raise PipelineError(
            f"{key}: {model.model_id} has no class {unknown[0]!r}: use some of {', '.join(sorted(known))}."
        )
