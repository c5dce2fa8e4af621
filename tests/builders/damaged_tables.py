"""Damages the tables of a data folder as a power cut, a bad disk or a person does."""

from collections.abc import Callable
from pathlib import Path

DamageTable = Callable[[Path], None]
"""Damages the table in a folder."""


def newest_entry(table_folder: Path) -> Path:
    """The newest entry of the table's log."""
    return max((table_folder / "_delta_log").glob("*.json"))


def newest_file(table_folder: Path) -> Path:
    """The Parquet file that was written last."""
    return max(table_folder.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)


def lose_newest_entry(table_folder: Path) -> None:
    newest_entry(table_folder).unlink()


def empty_newest_entry(table_folder: Path) -> None:
    newest_entry(table_folder).write_bytes(b"")


def cut_newest_entry(table_folder: Path) -> None:
    content = newest_entry(table_folder).read_bytes()
    newest_entry(table_folder).write_bytes(content[: len(content) // 2])


def fill_newest_entry_with_zeros(table_folder: Path) -> None:
    """As file systems with delayed allocation do: the size is right, the content is not."""
    newest_entry(table_folder).write_bytes(bytes(newest_entry(table_folder).stat().st_size))


def lose_file(table_folder: Path) -> None:
    newest_file(table_folder).unlink()


def empty_file(table_folder: Path) -> None:
    newest_file(table_folder).write_bytes(b"")


def cut_file(table_folder: Path) -> None:
    content = newest_file(table_folder).read_bytes()
    newest_file(table_folder).write_bytes(content[: len(content) // 2])


def flip_bytes(table_folder: Path) -> None:
    content = bytearray(newest_file(table_folder).read_bytes())
    for position in range(len(content) // 3, len(content) // 3 + 8):
        content[position] ^= 0xFF
    newest_file(table_folder).write_bytes(content)


LOG_DAMAGES = (empty_newest_entry, cut_newest_entry, fill_newest_entry_with_zeros)
FILE_DAMAGES = (lose_file, empty_file, cut_file)
