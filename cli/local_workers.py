"""The workers that the commands `dev` and `process` start for this machine."""

import os
import re
from pathlib import Path
from typing import BinaryIO

from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference.devices import available_devices
from resources.workers.run_queue import CPU_QUEUE, GPU_QUEUE, HOUSEKEEPING_QUEUE
from resources.workers.worker import WorkerOptions, Workers


def build_local_workers(settings: Settings, data_folder: Path, log: BinaryIO | None = None) -> Workers:
    """Build one worker of the queue `gpu` per device, some of the queue `cpu`, and one for housekeeping.

    Args:
        settings: Limit the number of runs, and so of workers.
        data_folder: The data folder.
        log: Where the output of the runs goes; None means that of this process.
    """
    options = [WorkerOptions(CPU_QUEUE)]  # the first one first: it is the first that gets a run
    options += gpu_worker_options(settings)
    options += [WorkerOptions(CPU_QUEUE, is_started_at_once=False)] * (cpu_worker_count(settings) - 1)
    options.append(WorkerOptions(HOUSEKEEPING_QUEUE, is_kept_warm=False, is_started_at_once=False))
    return Workers(data_folder, options, settings.queue.worker_max_memory_mb, must_agree=False, log=log)


def gpu_worker_options(settings: Settings) -> list[WorkerOptions]:
    """What the workers of the queue `gpu` serve: each one device, if the settings leave the choice of several."""
    try:
        devices = available_devices(settings.detections)
    except PipelineError:
        devices = [""]  # a person must correct the settings: until then the model stages are on hold
    count = settings.queue.gpu_runs or len(devices)
    if len(devices) == 1:  # also when the settings name it: then the models choose it themselves
        devices = [""]
    return [WorkerOptions(GPU_QUEUE, devices[number % len(devices)]) for number in range(count)]


def cpu_worker_count(settings: Settings) -> int:
    """Number of workers of the queue `cpu`."""
    return settings.queue.cpu_runs or max(2, min(4, (os.cpu_count() or 1) // 4))


def check_device(settings: Settings, device: str) -> None:
    """Check that the models of a worker can use a device.

    Raises:
        PipelineError: This machine has no such device, or the settings name another.
    """
    if settings.detections.device not in ("auto", device):
        raise PipelineError(
            f"--device is {device}, and detections.device is {settings.detections.device}: set it to auto, so that "
            "each worker can have its own."
        )
    if re.fullmatch(r"cpu|cuda:\d+", device) is None:
        raise PipelineError(f"--device {device!r} must be cpu or cuda:N.")
    available_devices(settings.detections.model_copy(update={"device": device}))
