"""Durability: what was written to a data folder is on its disk before a row of stage_runs says so.

Neither Delta Lake nor Parquet writers wait for the disk. A power cut may therefore lose commits, or keep a commit and
lose its files; a single call of syncfs makes everything durable that was written before it.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from resources.errors import PipelineError
from resources.storage.disk import disk_problem


def sync_folders(folders: Iterable[Path], changed_since_s: float) -> None:
    """Wait until the disk has what was written to some folders.

    Args:
        folders: The folders; each of their file systems is synced once, and folders that do not exist are left out.
        changed_since_s: Time of the last sync, in seconds since 1970: where the system cannot sync a whole file system,
            the files and folders that have changed since are synced one by one.

    Raises:
        PipelineError: The disk does not accept the data.
    """
    synced_devices = set[int]()
    for folder in folders:
        try:
            device = folder.stat().st_dev
            if device in synced_devices:
                continue
            if _sync_file_system(folder):
                synced_devices.add(device)
            else:
                _sync_files(folder, changed_since_s)
        except FileNotFoundError:
            continue
        except OSError as error:
            sentence = disk_problem(error, folder)
            raise PipelineError(
                sentence
                or f"The disk of the folder {folder} does not store what is written to it ({error.strerror or error}): "
                "check the disk, then start again; what was not stored is processed again."
            ) from error


def _sync_file_system(folder: Path) -> bool:
    """Sync the file system of a folder; returns False where the system has no such call, or it fails."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def _sync_files(folder: Path, changed_since_s: float) -> None:
    """Sync the files of a folder and of its subfolders that have changed since a time, and the changed folders."""
    since_s = changed_since_s - 2  # some file systems store times in steps of two seconds
    for path, _, names in os.walk(folder):
        for entry in [*(Path(path, name) for name in names), Path(path)]:
            try:
                if entry.stat().st_mtime >= since_s:
                    sync_path(entry)
            except FileNotFoundError:
                continue  # deleted meanwhile, as vacuum does


def sync_path(path: Path) -> None:
    """Wait until the disk has a file, or the entries of a folder.

    Raises:
        OSError: The path does not exist, or the disk does not accept the data.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
