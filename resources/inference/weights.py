"""Weights files: finding, checking and downloading them.

Weights are programs (pickles): loading them runs the code that they contain.
"""

import functools
import hashlib
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from resources.config.detection_config import DetectionSettings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError
from resources.inference.weights_description import ModelWeights, describe_weights

logger = logging.getLogger(__name__)


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
    """Collect what determines the stored detections: the weights, and the settings except device and camera regions.

    Weights that do not exist yet are represented by their name, others by their content.
    """
    path = find_weights(settings)
    settings = settings.inference_settings.model_copy(update={"device": "", "regions": {}})
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
    model = describe_weights(path, _content_hash(path, _modified_ns(path)), cache_folder)
    if model.task != settings.task:
        raise PipelineError(
            f"The weights {path} are of the task '{model.task}', but the settings say '{settings.task}': "
            f"set task: {model.task} for them, or name other weights."
        )
    return model
