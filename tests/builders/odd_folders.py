"""Folders and files that a file system allows and that programs rarely meet."""

import os
from pathlib import Path

_LONG_NAME = b"\xe9" + b"d" * 199  # not valid UTF-8
_MAX_PATH_BYTES = 4096  # the system opens no longer path


def make_deep_folder(folder: Path) -> None:
    """Create folders in each other, with names that are not valid UTF-8, until no path leads to the innermost.

    The last folder that a path leads to contains a file that none leads to.
    """
    descriptor, length = os.open(folder, os.O_RDONLY), len(os.fsencode(folder))
    while True:
        length += 1 + len(_LONG_NAME)
        if length >= _MAX_PATH_BYTES:
            file_name = b"f" * 250 + b".mp4"
            os.close(os.open(file_name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        os.mkdir(_LONG_NAME, dir_fd=descriptor)
        inner = os.open(_LONG_NAME, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
        if length >= _MAX_PATH_BYTES:
            os.close(descriptor)
            return


def set_mtime_year(file: Path, year: int) -> bool:
    """Set the mtime of a file to about the start of a year; returns whether the file system can store it."""
    mtime_ns = (year - 1970) * 31_556_952 * 10**9
    os.utime(file, ns=(mtime_ns, mtime_ns))
    return file.stat().st_mtime_ns == mtime_ns
