"""Weights files: finding, checking and downloading them, and the bundled detector where there are none.

Weights are programs (pickles): loading them runs the code that they contain.
"""

import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
import urllib.error
import zipfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from resources.config.detection_config import DEFAULT_WEIGHTS, DetectionSettings
from resources.config.network_config import NetworkSettings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError, summarize_exception
from resources.inference.plain_networks import (
    BUNDLED,
    BUNDLED_FOLDER,
    BUNDLED_NAME,
    bundled_network,
    describe_plain_network,
)
from resources.inference.weights_description import ModelWeights, describe_weights

logger = logging.getLogger(__name__)
_DOWNLOAD_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"
_DOWNLOAD_TIMEOUT_S = 10.0


def find_weights(settings: DetectionSettings) -> Path | None:
    """Find the weights that the settings name, by path or by name in the project's weights folder.

    Returns:
        The file, which is the .xml file for a folder with an OpenVINO network; the bundled detector where the default
        weights do not exist; None if other weights do not exist.
    """
    path = _find_named_weights(settings)
    return _BUNDLED_DETECTOR if path is None and _has_fallback(settings) else path


def _find_named_weights(settings: DetectionSettings) -> Path | None:
    path = Path(settings.weights).expanduser()
    for candidate in (path, PROJECT_ROOT / path, PROJECT_ROOT / "weights" / path.name):
        try:
            if candidate.is_file():
                return candidate.resolve()
            if candidate.is_dir() and len(networks := sorted(candidate.glob("*.xml"))) == 1:
                return networks[0].resolve()
        except OSError:
            continue  # not a valid file name
    return BUNDLED_FOLDER / f"{settings.weights}.xml" if settings.weights in BUNDLED else None


_BUNDLED_DETECTOR = BUNDLED_FOLDER / f"{BUNDLED_NAME}.xml"


def _has_fallback(settings: DetectionSettings) -> bool:
    """Whether the bundled detector can replace the weights: if they are the default ones, and OpenVINO may run it."""
    is_default = settings.weights == DEFAULT_WEIGHTS and settings.task == "detect" and settings.network is None
    return is_default and settings.engine != "torch" and settings.device in ("auto", "cpu")


def uses_fallback(settings: DetectionSettings) -> bool:
    """Whether the bundled detector takes the place of the weights that the settings name."""
    return _has_fallback(settings) and _find_named_weights(settings) is None


def fallback_sentence(settings: DetectionSettings, reason: str = "") -> str:
    """Say that the bundled detector takes the place of weights.

    Args:
        settings: Name the weights.
        reason: Why they were not downloaded, as in " and could not be downloaded (URLError)".
    """
    return (
        f"The weights {settings.weights} are not on this machine{reason}: the bundled detector NanoDet-g is used, "
        f"which has the same 80 classes and misses more objects. To use them, put the file at "
        f"{_download_target(settings)}."
    )


def _download_target(settings: DetectionSettings) -> Path:
    return PROJECT_ROOT / "weights" / settings.weights


def download_default_weights(all_settings: Sequence[DetectionSettings]) -> list[str]:
    """Download the default weights where settings name them and they do not exist.

    Called once when a pipeline starts, and not by its runs: all of its recordings get the same model.

    Returns:
        A sentence if the bundled detector is used, because they could not be downloaded.
    """
    missing = [settings for settings in all_settings if uses_fallback(settings)]
    if not missing:
        return []
    try:
        _download_weights(missing[0])
    except PipelineError as error:
        return [fallback_sentence(missing[0], f" and could not be downloaded{_cause_of(error)}")]
    return []


def network_of(settings: DetectionSettings, path: Path) -> NetworkSettings | None:
    """Return the description of a plain network; None for weights of Ultralytics."""
    return settings.network or bundled_network(path)


def detection_version(settings: DetectionSettings) -> tuple[DetectionSettings | str, ...]:
    """Collect what determines the stored detections: the weights, and the settings except device and camera regions.

    Weights that do not exist yet are represented by their name, others by their content.
    """
    path = find_weights(settings)
    settings = settings.inference_settings.model_copy(update={"device": "", "regions": {}})
    if path is None:
        return (settings,)
    return settings.model_copy(update={"weights": ""}), hash_weights(path, network_of(settings, path))


def hash_weights(path: Path, network: NetworkSettings | None) -> str:
    """Hash a weights file, with its companion files and its description."""
    content_hash = _content_hash(path, _modified_ns(path))
    if network is None:
        return content_hash
    description = network.model_dump_json(exclude_defaults=True)
    return hashlib.blake2b(f"{content_hash} {description}".encode(), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=32)
def _content_hash(path: Path, mtime_ns: int) -> str:
    """Hash the content of weights files; `mtime_ns` is only a part of the cache key."""
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
    if path.suffix == ".pt" and settings.network is not None and not _is_torch_script(path):
        raise PipelineError(
            f"The weights {path} are a .pt file, and not of TorchScript, so it says itself how it is used: remove the "
            "key network, which describes plain .onnx files, OpenVINO networks and .pt files of TorchScript."
        )
    if path.suffix == ".pt" and not zipfile.is_zipfile(path):
        raise PipelineError(
            f"The weights {path} are not a PyTorch file ({path.stat().st_size} bytes): download or copy them again."
        )
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise PipelineError(
            f"The weights {path} have no {path.with_suffix('.bin').name} in the same folder: copy both files."
        )


def _is_torch_script(path: Path) -> bool:
    """Whether a .pt file is a TorchScript network, which contains its code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _convert_torch_script(path: Path, content_hash: str, cache_folder: Path) -> Path:
    """Convert a TorchScript network to OpenVINO; done once per machine.

    Raises:
        PipelineError: It cannot be converted.
    """
    import openvino
    import torch

    target = cache_folder / content_hash / f"{path.stem}.xml"
    if target.is_file():
        return target
    try:
        script = torch.jit.load(path, map_location="cpu")
        network = openvino.convert_model(script, input=[([1, 3, -1, -1], openvino.Type.f32)])
    except Exception as error:
        # Torch and OpenVINO raise errors of many types; the remedy is always the same.
        raise PipelineError(
            f"The weights {path} cannot be converted from TorchScript: {summarize_exception(error)}; export them as "
            "ONNX."
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder, target.name)
        openvino.save_model(network, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(target.with_suffix(".bin"))
        partial.replace(target)
    return target


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
        return (
            f"The weights {settings.weights} are not on this machine and could not be downloaded{reason}: "
            f"put the file at {_download_target(settings)}, or name others with detections.weights or --weights."
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
    target = _download_target(settings)
    logger.info("Downloading %s from Ultralytics", settings.weights)
    try:
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            partial = Path(folder, settings.weights)
            with (
                urlopen(f"{_DOWNLOAD_URL}{settings.weights}", timeout=_DOWNLOAD_TIMEOUT_S) as response,
                partial.open("wb") as file,
            ):
                shutil.copyfileobj(response, file)
            if not zipfile.is_zipfile(partial):
                raise ValueError("not a PyTorch file")  # a page of a proxy, or a broken connection
            partial.replace(target)
    except (OSError, HTTPException, ValueError) as error:
        # No route, no such file, a proxy, a folder without write access: the user's remedy is always the same.
        logger.info("Downloading %s failed: %s", settings.weights, error)
        raise PipelineError(_missing_weights_message(settings, _cause_of(error))) from error
    return target


def _cause_of(error: BaseException) -> str:
    """The reason of a failed download in brackets."""
    cause = error.__cause__ if isinstance(error, PipelineError) and error.__cause__ is not None else error
    if isinstance(cause, urllib.error.URLError) and isinstance(cause.reason, OSError):
        cause = cause.reason
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause) or type(cause).__name__
    return f" ({text})"


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
    network = network_of(settings, path)
    content_hash = hash_weights(path, network)
    if network is not None and path.suffix == ".pt":
        path = _convert_torch_script(path, content_hash, cache_folder)
    model = (
        describe_weights(path, content_hash, cache_folder)
        if network is None
        else describe_plain_network(path, content_hash, network)
    )
    if model.task != settings.task:
        raise PipelineError(
            f"The weights {path} are of the task '{model.task}', but the settings say '{settings.task}': "
            f"set task: {model.task} for them, or name other weights."
        )
    return model
