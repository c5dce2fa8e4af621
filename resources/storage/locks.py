"""Locks on a data folder, held by one process at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from resources.errors import PipelineError
from resources.storage.folder_access import PRIVATE_MODE

_LOCK_MODE = 0o600  # also where a group may read the data folder: who can open a lock file can hold its lock


@contextmanager
def open_lock_file(path: Path) -> Iterator[TextIO]:
    """Open a lock file for reading and writing; it is created if it does not exist, and its content is kept.

    Raises:
        PipelineError: The path is a symbolic link, through which another file would be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _LOCK_MODE)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise PipelineError(f"The lock file {path} is a symbolic link: remove it, then start again.") from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as lock:
        yield lock


@contextmanager
def exclusive_lock(data_folder: Path, name: str) -> Iterator[None]:
    """Hold a named lock on a data folder; other processes wait for it.

    Args:
        data_folder: The data folder; created if it does not exist.
        name: Name of the lock, and so of its file.
    """
    data_folder.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
    with open_lock_file(data_folder / f".{name}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_pipeline_running(data_folder: Path) -> bool:
    """Whether a pipeline uses a data folder."""
    try:
        with (data_folder / ".pipeline.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def data_folder_lock(data_folder: Path) -> Iterator[None]:
    """Hold the lock that lets only one pipeline use a data folder.

    Raises:
        PipelineError: Another pipeline uses the data folder.
    """
    with open_lock_file(data_folder / ".pipeline.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
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
