"""A GPU's memory: how to tell that it did not suffice, and what to do then."""

from collections.abc import Callable
from typing import Any, TypeVar

from resources.errors import PipelineError

_T = TypeVar("_T")

# torch has a class of its own for what its allocator lacks; what CUDA, cuBLAS and cuDNN lack it tells in words only.
_WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "nable to find an engine",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch raised an error because memory did not suffice."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


def make_room(device: Any) -> None:
    """Wait for all that a GPU is doing, and give back what torch keeps for later.

    Args:
        device: A torch.device; one that is no GPU has nothing to give back.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def with_room(work: Callable[[], _T], device: Any) -> _T:
    """Do something that needs a little of a GPU's memory; where there is none, once more after making room.

    Args:
        work: What to do.
        device: The torch.device on which it is done.

    Raises:
        PipelineError: There is no room.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    make_room(device)
    try:
        return work()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise PipelineError(no_memory(device)) from error
        raise


def no_memory(device: Any) -> str:
    """What a person is told whose device has no memory for a single picture."""
    return (
        f"{device} has no memory left for a single picture: end what else runs there, or name another device with "
        "detections.device."
    )
