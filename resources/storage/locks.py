"""Locks on a data folder, held by one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.errors import PipelineError


@contextmanager
def exclusive_lock(data_folder: Path, name: str) -> Iterator[None]:
    """Hold a named lock on a data folder; other processes wait for it.

    Args:
        data_folder: The data folder; created if it does not exist.
        name: Name of the lock, and so of its file.
    """
    data_folder.mkdir(parents=True, exist_ok=True)
    with (data_folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def data_folder_lock(data_folder: Path) -> Iterator[None]:
    """Hold the lock that lets only one pipeline use a data folder.

    Raises:
        PipelineError: Another pipeline uses the data folder.
    """
    with (data_folder / ".pipeline.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise PipelineError(
                f"The data folder {data_folder} is in use by another pipeline (process {holder}): drop the recordings "
                "into its watched folder, stop it, or choose another data folder with --data."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        yield
