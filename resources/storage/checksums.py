"""Checksums of Parquet files: one small file per Parquet file, in a folder of the table that Delta's vacuum ignores.

The files of a commit are read back for their checksums while the system still holds them in memory. Files that older
versions of the program wrote have no checksum.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_FOLDER_NAME = "_checksums"
_DIGEST_BYTES = 16


def write_checksums(table_folder: Path, file_names: Iterable[str]) -> None:
    """Write the checksums of Parquet files that were committed just now.

    Args:
        table_folder: Folder of the table.
        file_names: Names of the files.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    folder = table_folder / _FOLDER_NAME
    folder.mkdir(exist_ok=True)
    for name in file_names:
        (folder / name).write_text(_compute(table_folder / name))


def has_other_content(file: Path) -> bool | None:
    """Whether a Parquet file has another content than when it was committed; None if it has no checksum.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        checksum = (file.parent / _FOLDER_NAME / file.name).read_text(errors="replace")
    except FileNotFoundError:
        return None
    if len(checksum) != 2 * _DIGEST_BYTES:
        return None  # cut off by a kill or a power cut
    return _compute(file) != checksum


def remove_old_checksums(table_folder: Path) -> None:
    """Remove the checksums of files that vacuum has deleted."""
    for checksum in (table_folder / _FOLDER_NAME).glob("*"):
        if not (table_folder / checksum.name).exists():
            checksum.unlink(missing_ok=True)


def _compute(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()
