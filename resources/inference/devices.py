"""The devices of this machine that can run a model."""

import functools
import logging
from pathlib import Path

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError, summarize_exception
from resources.inference.engines.openvino_engine import processor_name
from resources.inference.gpu_memory import is_out_of_memory
from resources.inference.weights import find_weights

logger = logging.getLogger(__name__)


def lock_name(device: str) -> str:
    """Name of a device that is the same in every process; `cuda:0` depends on the GPUs that a process can see."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"


def device_name(device: str) -> str:
    """Product name of a device such as `cpu` or `cuda:0`."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return processor_name() if device == "cpu" else device


def available_devices(settings: DetectionSettings) -> list[str]:
    """List the devices of this machine that the settings allow, best first.

    Raises:
        PipelineError: The settings name a device that this machine does not have.
    """
    if settings.device != "auto":
        if settings.engine == "openvino" and settings.device != "cpu":
            raise PipelineError(
                f"detections.engine is openvino, which runs on the CPU only, and detections.device is "
                f"{settings.device}: set device: cpu, or engine: auto."
            )
        if settings.device != "cpu" and not _has_device(settings.device):
            raise PipelineError(
                f"detections.device is {settings.device}, and torch finds no such working device on this machine: "
                "set auto or cpu, or fix the driver."
            )
        return [settings.device]
    path = find_weights(settings)
    is_network = path is not None and (path.suffix != ".pt" or settings.network is not None)
    if settings.engine == "openvino" or is_network:
        return ["cpu"]
    # Importing torch is slow, and a machine without the driver's device files has no NVIDIA GPU.
    if Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists():
        import torch

        if torch.cuda.is_available():
            gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
            if working_gpus := [gpu for gpu in gpus if _can_compute(gpu)]:
                return working_gpus
    import platform

    if platform.system() == "Darwin":
        import torch

        if torch.backends.mps.is_available():
            return ["mps"]
    return ["cpu"]


@functools.cache
def _can_compute(device: str) -> bool:
    """Whether torch can compute on a GPU: the installed torch may not have been built for this kind of GPU."""
    import torch

    try:
        return bool((torch.ones(1, device=device) + 1).item() == 2)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return True  # other programs are using the GPU at the moment
        logger.warning("%s is not used: torch cannot compute on it: %s", device, summarize_exception(error))
        return False


def _has_device(device: str) -> bool:
    import torch

    if device == "mps":
        return bool(torch.backends.mps.is_available())
    exists = bool(torch.cuda.is_available()) and int(device.partition(":")[2]) < torch.cuda.device_count()
    return exists and _can_compute(device)
