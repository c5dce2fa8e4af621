"""Checks of the data folder's disk, and the sentence for each reason why it, or the bucket, cannot be used."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.errors import PipelineError
from resources.storage.bucket_problems import bucket_problem, read_tables_url
from resources.storage.folder_access import PRIVATE_MODE

_DISK_FULL_TEXTS = ("no space left", "quota exceeded", "database or disk is full")
_NO_SPACE_BYTES = 1_000_000  # with less free, SQLite cannot even read: the index of its write-ahead log is a file


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Translate errors of a full, read-only or forbidden disk into a PipelineError with one sentence.

    Raises:
        PipelineError: Replaces such an error of any library.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        if sentence := disk_problem(error, folder):
            raise PipelineError(sentence) from error
        raise


def disk_problem(error: BaseException, folder: Path) -> str | None:
    """The sentence for an error of a disk that cannot be written, or of the bucket; None for any other error."""
    if sentence := bucket_problem(error, read_tables_url(folder)):
        return sentence
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()  # delta-rs and SQLite wrap the system error and keep only its text
    is_full = number in (errno.ENOSPC, errno.EDQUOT) or any(disk_full in text for disk_full in _DISK_FULL_TEXTS)
    if is_full or ("disk i/o error" in text and shutil.disk_usage(folder).free < _NO_SPACE_BYTES):
        return (
            f"The disk of the data folder {folder} is full: free some space, then start again; finished work is kept."
        )
    if number == errno.EROFS or "read-only file system" in text:
        return f"The data folder {folder} is on a read-only file system: remount it writable or choose another."
    if number in (errno.EACCES, errno.EPERM) or "permission denied" in text:
        return f"The data folder {folder} is not writable for this user: change its permissions or choose another."
    return None


def check_data_folder(folder: Path, min_free_bytes: int = 200_000_000) -> None:
    """Create the data folder if it does not exist, and check that it can be written.

    Raises:
        PipelineError: The folder cannot be created or written, or has less than `min_free_bytes` of free space.
    """
    probe = folder / f".write-probe-{os.getpid()}"
    try:
        folder.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink(missing_ok=True)
    except OSError as error:
        sentence = disk_problem(error, folder)
        raise PipelineError(
            sentence or f"The data folder {folder} cannot be used: {error.strerror or error}."
        ) from error
    free_bytes = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free_bytes < min_free_bytes:
        raise PipelineError(
            f"The disk of the data folder {folder} has only {free_bytes // 1_000_000} MB free, "
            f"and {min_free_bytes // 1_000_000} MB are needed: free some space or choose another folder with --data."
        )
