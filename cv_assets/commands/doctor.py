"""Whether this machine is ready: what was looked at, what was found, and what to do about it."""

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resources.errors import PipelineError
from resources.inference.detector import available_devices
from resources.inference.weights import check_weights, find_weights
from resources.notifications import check_channel
from resources.postgres import check_database, database_url, described
from resources.results import open_results, results_path
from resources.settings import PROJECT_ROOT, Settings
from resources.storage import check_data_folder
from resources.watched_folder import list_recordings

_PACKAGES = (
    "dagster",
    "dagster-webserver",
    "dagster-postgres",
    "torch",
    "torchvision",
    "ultralytics-opencv-headless",
    "openvino",
    "av",
    "duckdb",
    "deltalake",
    "pyarrow",
    "lap",
)
_DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg")
_WEIGHTS_ENDINGS = (".pt", ".pth", ".onnx", ".engine", ".xml")
_LOW_DISK_BYTES = 10_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    is_ok: bool
    told: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that the pipeline needs; changes nothing but making the data folder."""
    return [
        *_versions(),
        *_codecs(),
        *_devices(settings),
        *_folders(settings),
        *_history(settings),
        *examine_weights(settings),
        *_told(settings),
    ]


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding("python", sys.version_info >= (3, 11), f"{python} on {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed: run `make install`.")


def _codecs() -> Iterator[Finding]:
    import av

    missing = []
    for name in _DECODERS:
        try:
            av.Codec(name, "r")
        except ValueError:
            missing.append(name)
    told = f"missing: {', '.join(missing)}; install the av wheel from PyPI." if missing else ", ".join(_DECODERS)
    yield Finding("decoders", not missing, told)
    try:
        av.Codec("libx264", "w")
        yield Finding("encoder", True, "libx264")
    except ValueError:
        yield Finding("encoder", False, "libx264 is missing: install the av wheel from PyPI, which has it.")


def _devices(settings: Settings) -> Iterator[Finding]:
    import os

    yield Finding("processor", True, f"{os.cpu_count()} cores")
    devices = available_devices(settings.detections)
    yield Finding("model devices", True, ", ".join(devices))
    if settings.detections.engine != "torch" and devices == ["cpu"]:
        try:
            import openvino

            core = openvino.Core()
            told = f"OpenVINO on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"
            yield Finding("engine", True, told)
        except (ImportError, RuntimeError) as error:
            yield Finding("engine", False, f"OpenVINO cannot be used ({error}); torch will be, more slowly.")
    else:
        yield Finding("engine", True, "torch")


def _folders(settings: Settings) -> Iterator[Finding]:
    try:
        listing = list_recordings(settings)
        folders = ", ".join(map(str, settings.watched_folders))
        yield Finding("watched folder", True, f"{folders} ({len(listing.files)} recordings)")
        for problem in listing.problems:
            yield Finding("watched folder", False, problem)
        if strays := [path for path in listing.skipped if path.lower().endswith(_WEIGHTS_ENDINGS)]:
            yield Finding(
                "weights in folder", False, f"{min(strays)}: weights are programs; they are never loaded from here."
            )
    except PipelineError as error:
        yield Finding("watched folder", False, str(error))
    try:
        check_data_folder(settings.data_folder)
        yield Finding("data folder", True, str(settings.data_folder))
    except PipelineError as error:
        yield Finding("data folder", False, str(error))
        return
    free_bytes = shutil.disk_usage(settings.data_folder).free
    told = f"{free_bytes / 1e9:.1f} GB free"
    is_enough = free_bytes >= _LOW_DISK_BYTES
    yield Finding("disk", is_enough, told if is_enough else f"{told}: make space or move data_folder.")
    if results_path(settings.data_folder).exists():
        with open_results(settings.data_folder) as connection:
            rows = connection.execute("SELECT count(*) FROM recordings").fetchall()[0][0]
        yield Finding("results", True, f"{results_path(settings.data_folder)} ({rows} recordings)")


def _history(settings: Settings) -> Iterator[Finding]:
    try:
        url = database_url()
        check_database(settings.data_folder)
    except PipelineError as error:
        yield Finding("history", False, str(error))
        return
    told = f"PostgreSQL: {described(url)}" if url else f"SQLite: {settings.data_folder / 'dagster'}"
    yield Finding("history", True, told)


def examine_weights(settings: Settings) -> Iterator[Finding]:
    """Whether the weights of every model are there and can be weights at all; costs little."""
    for model in settings.every_model:
        try:
            check_weights(model)
        except PipelineError as error:
            yield Finding("weights", False, str(error))
            continue
        path = find_weights(model)
        if path is not None:
            yield Finding("weights", True, f"{path} ({_megabytes(path)})")
            continue
        yield Finding(
            "weights",
            False,
            f"{model.weights} is not here yet: Ultralytics fetches it at the first run where there is a network; "
            f"otherwise put it at {PROJECT_ROOT / 'weights' / model.weights}.",
        )


def _told(settings: Settings) -> Iterator[Finding]:
    for channel in settings.notifications.channels:
        try:
            check_channel(channel)
            yield Finding("notifications", True, f"{channel.name}; try it with cv-assets notify")
        except PipelineError as error:
            yield Finding("notifications", False, str(error))


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
