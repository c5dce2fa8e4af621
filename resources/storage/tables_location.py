"""The location of the tables: what is done with their files in the folder `tables` of a data folder.

`resources/storage/bucket_tables.py` does the same in a bucket of S3-compatible storage.
"""

import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from resources.schema.columns import Table
from resources.storage.checksums import remove_old_checksums, write_checksums
from resources.storage.table_log import LOG_NAME, LogDamage, TableLog, added_files


class TablesLocation:
    """The tables in a folder of this machine or of a share.

    Args:
        folder: The folder; it need not exist.

    Attributes:
        folder: The folder.
        storage_options: Options of deltalake's access; None for a folder.
    """

    storage_options: dict[str, str] | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def address(self) -> str:
        """The location, for sentences."""
        return str(self.folder)

    def uri(self, table_name: str) -> str:
        """The address of one table for deltalake."""
        return str(self.folder / table_name)

    def open(self, table_name: str) -> DeltaTable:
        """Open the newest version of a table.

        Raises:
            TableNotFoundError: The table does not exist.
            DeltaError: Its log is damaged.
            OSError: The location cannot be reached.
        """
        return DeltaTable(self.uri(table_name), storage_options=self.storage_options)

    def create(self, table: Table) -> DeltaTable:
        """Create a table without rows, unless it exists, and open it."""
        (self.folder / table.name).mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            self.uri(table.name),
            table.arrow_schema,
            mode="ignore",
            description=table.comment,
            name=table.name,
            storage_options=self.storage_options,
        )
        return self.open(table.name)

    def has_tables(self) -> bool:
        """Whether there is any table."""
        return any(self.folder.glob(f"*/{LOG_NAME}"))

    def has_table(self, table_name: str) -> bool:
        """Whether a table has a log, whole or damaged."""
        return (self.folder / table_name / LOG_NAME).is_dir()

    def table_names(self) -> list[str]:
        """Names of everything that may be a table, in alphabetical order."""
        return sorted(folder.name for folder in self.folder.glob("*") if folder.name.isidentifier())

    def read_text(self, path: str) -> str | None:
        """Read a small file; None if it does not exist.

        Args:
            path: The file, relative to the location.
        """
        try:
            return (self.folder / path).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def write_text(self, path: str, text: str) -> None:
        """Write a small file at once: readers see all of it or nothing."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
        partial.write_text(text)
        partial.replace(file)

    def commit_identity(self, table_name: str, version: int) -> tuple[int, int] | None:
        """What tells the log entry of a commit from another with its number; None if there is none."""
        try:
            commit = (self.folder / log_entry(table_name, version)).stat()
        except FileNotFoundError:
            return None
        return commit.st_ino, commit.st_mtime_ns

    def commit_times(self) -> frozenset[tuple[str, int]]:
        """Modification time of every table's log folder: changes with every commit, and is cheap to read.

        The log entries themselves are not listed: a log has thousands, and this is called twice a second.
        """
        return frozenset((str(log), log.stat().st_mtime_ns) for log in self.folder.glob(f"*/{LOG_NAME}"))

    def finish_commit(self, table_name: str, version: int) -> None:
        """Store the checksums of the files that a commit of this process has added."""
        folder = self.folder / table_name
        write_checksums(folder, added_files(folder, version))

    def stored_sizes(self, table_name: str) -> dict[str, int]:
        """Size in bytes of each Parquet file of a table, also of old versions, by name."""
        with os.scandir(self.folder / table_name) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(".parquet")}

    def local_files(self, table_name: str, sizes_bytes: Mapping[str, int], *, contents: bool = False) -> list[str]:
        """Absolute paths of files of a table on this machine or on the share.

        Args:
            table_name: The table.
            sizes_bytes: Size of each file by name, see `file_sizes`.
            contents: Whether copies with another content than when they were made are replaced; a folder has none.

        Raises:
            FileNotFoundError: A file does not exist any more.
        """
        return [str(self.folder / table_name / path) for path in sizes_bytes]

    def delete_file(self, table_name: str, file_name: str) -> None:
        """Delete a Parquet file, if it exists."""
        (self.folder / table_name / file_name).unlink(missing_ok=True)

    def remove_vacuumed(self, table_name: str) -> None:
        """Remove what belongs to files that vacuum has deleted."""
        remove_old_checksums(self.folder / table_name)

    def find_log_damage(self, table_name: str, *, contents: bool) -> LogDamage | None:
        """Find the first file of a table's log that cannot be used; see `TableLog.find_damage`."""
        return TableLog(self.folder / table_name).find_damage(contents=contents)

    def move_aside(self, table_name: str, file_names: Iterable[str], target: Path) -> int:
        """Move damaged Parquet files of a table away, where they exist.

        Args:
            table_name: The table.
            file_names: Names of the files.
            target: Folder of the data folder; files are moved to the same place below it.

        Returns:
            Number of files moved.
        """
        folder = self.folder / table_name
        return move_files((folder / name for name in file_names), self.folder.parent, target)

    def move_table_aside(self, table_name: str, target: Path) -> int:
        """Move a table away that cannot be opened; see `move_aside`.

        Raises:
            PipelineError: The location keeps older versions of the table's log, from which a person must restore it.
        """
        return move_files([self.folder / table_name], self.folder.parent, target)


def file_sizes(add_actions: pa.Table) -> dict[str, int]:
    """Size in bytes of each file in a table's list of files, by name."""
    return dict(zip(add_actions["path"].to_pylist(), add_actions["size_bytes"].to_pylist(), strict=True))


def log_entry(table_name: str, version: int) -> str:
    """Path of the log entry of a commit, relative to the location of the tables."""
    return f"{table_name}/{LOG_NAME}/{version:020}.json"


def move_files(paths: Iterable[Path], data_folder: Path, target: Path) -> int:
    """Move files and folders of a data folder to the same place below a target, where they exist; returns how many."""
    count = 0
    for path in paths:
        if path.exists():
            destination = target / path.relative_to(data_folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, destination)
            count += 1
    return count
