"""Handling of a GPU that runs out of memory."""

from collections.abc import Callable
from typing import Any, TypeVar

from resources.errors import PipelineError

_T = TypeVar("_T")

# torch raises an error class of its own when its allocator runs out of memory. Errors of CUDA, cuBLAS and cuDNN can be
# recognized by their text only.
_OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "nable to find an engine",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch raised this error because the device ran out of memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES)
    )


def free_cached_memory(device: Any) -> None:
    """Wait until a GPU has finished its work, then release the memory that torch caches.

    Args:
        device: A torch.device; on devices other than GPUs this does nothing.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def retry_after_freeing_memory(work: Callable[[], _T], device: Any) -> _T:
    """Call a function that needs some GPU memory; if there is none, free cached memory and call the function again.

    Args:
        work: The function.
        device: The torch.device that the function uses.

    Raises:
        PipelineError: The memory does not suffice in the second attempt either.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    free_cached_memory(device)
    try:
        return work()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise PipelineError(out_of_memory_message(device)) from error
        raise


def out_of_memory_message(device: Any) -> str:
    """The sentence for a device without memory for a single frame."""
    return (
        f"The device {device} has no memory left for a single frame: end other programs that use the device, or select "
        "another one with detections.device."
    )
