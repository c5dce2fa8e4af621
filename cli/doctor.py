"""Checks of this machine and its settings: the result of each, and how to fix a problem."""

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.options import find_stage_problems
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.dagster_instance.postgres_database import check_database, database_url, describe_database
from resources.dagster_instance.sqlite_files import damaged_files
from resources.errors import PipelineError
from resources.inference.crop_model_check import find_crop_model_problems
from resources.inference.devices import available_devices
from resources.inference.weights import check_weights, fallback_sentence, find_weights, uses_fallback
from resources.notifications.delivery import check_channel
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder
from resources.storage.folder_access import find_group_id
from resources.storage.integrity import check_storage
from resources.storage.locks import is_pipeline_running
from resources.storage.recording_clocks import guessed_clocks_sentence
from resources.storage.results_database import open_results, publish_if_unusable, results_path
from resources.storage.tables_choice import check_tables_url
from resources.unmatched_names import find_unmatched_names
from resources.watched_files import list_watched_files
from resources.workers.run_queue import CPU_QUEUE, GPU_QUEUE
from resources.workers.worker_states import describe_missing_workers, read_worker_states

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
_WEIGHTS_SUFFIXES = (".pt", ".pth", ".onnx", ".engine", ".xml")
_MIN_FREE_BYTES = 10_000_000_000


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        subject: What was checked.
        is_ok: Whether the check passed.
        message: The state of the subject, or the problem and how to fix it.
    """

    subject: str
    is_ok: bool
    message: str


def check_machine(settings: Settings, *, full: bool = False) -> list[CheckResult]:
    """Check everything that the pipeline needs; creates the data folder, and publishes unusable results again.

    Args:
        settings: The settings in force.
        full: Whether the contents of all tables are read, too.
    """
    return [
        *_check_packages(),
        *_check_codecs(),
        *_check_devices(settings),
        *_check_folders(settings),
        *_check_tables(settings, full),
        *_check_storage(settings),
        *_check_workers(settings),
        *check_model_weights(settings),
        *(CheckResult("crop models", False, sentence) for sentence in find_crop_model_problems(settings)),
        *(CheckResult("names", False, sentence) for sentence in find_unmatched_names(settings)),
        *_check_stages(settings),
        *_check_channels(settings),
    ]


def _check_packages() -> Iterator[CheckResult]:
    python = platform.python_version()
    yield CheckResult("python", sys.version_info >= (3, 11), f"{python} on {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        try:
            yield CheckResult(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield CheckResult(name, False, "not installed: run `make install`.")


def _check_codecs() -> Iterator[CheckResult]:
    import av

    missing = []
    for name in _DECODERS:
        try:
            av.Codec(name, "r")
        except ValueError:
            missing.append(name)
    message = f"missing: {', '.join(missing)}; install the av wheel from PyPI." if missing else ", ".join(_DECODERS)
    yield CheckResult("decoders", not missing, message)
    try:
        av.Codec("libx264", "w")
        yield CheckResult("encoder", True, "libx264")
    except ValueError:
        yield CheckResult("encoder", False, "libx264 is missing: install the av wheel from PyPI, which includes it.")


def _check_devices(settings: Settings) -> Iterator[CheckResult]:
    import os

    yield CheckResult("processor", True, f"{os.cpu_count()} cores")
    devices = available_devices(settings.detections)
    yield CheckResult("model devices", True, ", ".join(devices))
    if settings.detections.engine != "torch" and devices == ["cpu"]:
        try:
            import openvino

            core = openvino.Core()
            message = f"OpenVINO on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"
            yield CheckResult("engine", True, message)
        except (ImportError, RuntimeError) as error:
            message = f"OpenVINO cannot be used ({error}): torch is used instead, which is slower."
            yield CheckResult("engine", False, message)
    else:
        yield CheckResult("engine", True, "torch")


def _check_folders(settings: Settings) -> Iterator[CheckResult]:
    try:
        listing = list_watched_files(settings)
        folders = ", ".join(map(str, settings.watched_folders))
        yield CheckResult("watched folder", True, f"{folders} ({len(listing.files)} recordings)")
        for problem in listing.problems:
            yield CheckResult("watched folder", False, problem)
        if weights_files := [path for path in listing.skipped if path.lower().endswith(_WEIGHTS_SUFFIXES)]:
            message = f"{min(weights_files)}: weights are code, so they are never loaded from a watched folder."
            yield CheckResult("weights in folder", False, message)
    except PipelineError as error:
        yield CheckResult("watched folder", False, str(error))
    try:
        check_data_folder(settings.data_folder)
        if settings.data_group is not None:
            find_group_id(settings.data_group)
        yield CheckResult("data folder", True, str(settings.data_folder))
    except PipelineError as error:
        yield CheckResult("data folder", False, str(error))
        return
    free_bytes = shutil.disk_usage(settings.data_folder).free
    message = f"{free_bytes / 1e9:.1f} GB free"
    is_enough = free_bytes >= _MIN_FREE_BYTES
    yield CheckResult("disk", is_enough, message if is_enough else f"{message}: make space or move data_folder.")


def _check_tables(settings: Settings, full: bool) -> Iterator[CheckResult]:
    """Check the tables and what is published of them."""
    store = Store(settings.data_folder)
    try:
        check_tables_url(settings.data_folder, settings.tables_url)
        if settings.tables_url is not None:
            yield CheckResult("tables_url", True, settings.tables_url)
        if not store.tables_folder.is_dir():
            return
        report = check_storage(store, contents=full, is_idle=not is_pipeline_running(settings.data_folder))
    except PipelineError as error:
        yield CheckResult("tables", False, str(error))
        return
    for sentence in (*report.damage_sentences, *report.lost_sentences, *report.rewritten):
        yield CheckResult("tables", False, sentence)
    if report.damages:
        return
    if not report.lost and not report.rewritten:
        extent = "sizes and numbers of rows; cv-assets doctor --full reads the contents, too"
        message = f"{report.table_count} tables, {report.file_count} files ({'contents' if full else extent})"
        yield CheckResult("tables", True, message)
    yield from _check_results(store, settings)


def _check_results(store: Store, settings: Settings) -> Iterator[CheckResult]:
    try:
        publish_if_unusable(store, settings)
    except PipelineError as error:
        yield CheckResult("results", False, str(error))
        return
    if results_path(settings.data_folder).exists():
        try:
            with open_results(settings.data_folder) as connection:
                recording_count = connection.execute("SELECT count(*) FROM recordings").fetchall()[0][0]
        except PipelineError as error:
            yield CheckResult("results", False, str(error))
        else:
            message = f"{results_path(settings.data_folder)} ({recording_count} recordings)"
            yield CheckResult("results", True, message)
    if clocks_sentence := guessed_clocks_sentence(store):
        yield CheckResult("clocks", True, clocks_sentence)


def _check_storage(settings: Settings) -> Iterator[CheckResult]:
    try:
        url = database_url()
        check_database(settings.data_folder)
    except PipelineError as error:
        yield CheckResult("storage", False, str(error))
        return
    home = settings.data_folder / "dagster"
    if url is None and (problems := list(damaged_files(home))):
        message = f"{', '.join(problems)}: move {home} aside and run cv-assets adopt; no results are lost."
        yield CheckResult("storage", False, message)
        return
    yield CheckResult("storage", True, f"PostgreSQL: {describe_database(url)}" if url else f"SQLite: {home}")


def _check_workers(settings: Settings) -> Iterator[CheckResult]:
    """Check that a pipeline that runs has workers of both queues, and that none of them waits."""
    if not is_pipeline_running(settings.data_folder):
        return
    states = [state for state in read_worker_states(settings.data_folder) if state.is_alive()]
    for queue in (GPU_QUEUE, CPU_QUEUE):
        of_queue = [state for state in states if state.queue == queue]
        if sentence := describe_missing_workers(settings.data_folder, queue):
            yield CheckResult("workers", False, sentence)
            continue
        names = ", ".join(f"{state.name}{f' (run {state.run_id[:8]})' if state.run_id else ''}" for state in of_queue)
        yield CheckResult("workers", True, f"queue {queue}: {names}")
        for state in of_queue:
            if state.problem:
                yield CheckResult("workers", False, f"{state.name} waits: {state.problem}")


def check_model_weights(settings: Settings) -> Iterator[CheckResult]:
    """Check that the weights of every model exist and have the format of weights, without loading them."""
    for model in settings.all_models:
        try:
            check_weights(model, settings.watched_folders)
        except PipelineError as error:
            yield CheckResult("weights", False, str(error))
            continue
        if uses_fallback(model):
            reason = ", and process and dev download them at their start if there is a network"
            yield CheckResult("weights", True, fallback_sentence(model, reason))
            continue
        path = find_weights(model)
        if path is not None:
            yield CheckResult("weights", True, f"{path} ({_format_megabytes(path)})")
            continue
        yield CheckResult(
            "weights",
            False,
            f"{model.weights} is not downloaded yet: Ultralytics downloads it at the first run if there is a network; "
            f"otherwise put it at {PROJECT_ROOT / 'weights' / model.weights}.",
        )


def _check_stages(settings: Settings) -> Iterator[CheckResult]:
    """Check the files of stages of one's own, without running them."""
    problems = find_stage_problems(settings)
    for problem in problems:
        yield CheckResult("stages", False, problem)
    if settings.stages and not problems:
        yield CheckResult("stages", True, ", ".join(str(stage.file) for stage in settings.stages))


def _check_channels(settings: Settings) -> Iterator[CheckResult]:
    for channel in settings.notifications.channels:
        try:
            check_channel(channel)
            yield CheckResult("notifications", True, f"{channel.name}; send a test message with cv-assets notify")
        except PipelineError as error:
            yield CheckResult("notifications", False, str(error))


def _format_megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
