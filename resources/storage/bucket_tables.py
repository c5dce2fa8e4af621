"""Tables in a bucket of S3-compatible storage, with copies of their current Parquet files in the data folder.

deltalake reads and writes the bucket; a commit is a conditional put of its log entry, so that of two writers one gets a
conflict. Parquet files never change: each is copied once, when it is first read or published, and its copy is removed
once vacuum has deleted it. Rows are read from the copies alone, so results.duckdb needs neither extension nor network.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

from resources.errors import PipelineError
from resources.storage.bucket_files import BucketFiles, bucket_options
from resources.storage.checksums import has_other_content, remove_old_checksums, write_checksums
from resources.storage.table_log import LOG_NAME, LogDamage
from resources.storage.tables_location import TablesLocation, log_entry

_COMMIT_MARK = "_newest_commit"
_COPY_SUFFIX = ".partial"
_PATIENCE_S = 60.0


class BucketTables(TablesLocation):
    """The tables in a bucket.

    Args:
        folder: Folder of the copies.
        url: The bucket, with the prefix of all objects: `s3://bucket/prefix`.
        patience_s: Time that each request is repeated while the storage is away.
    """

    def __init__(self, folder: Path, url: str, patience_s: float = _PATIENCE_S) -> None:
        super().__init__(folder)
        self._url, self._files = url, BucketFiles(url, patience_s)
        self.storage_options = bucket_options(patience_s)

    @property
    def address(self) -> str:
        """The location, for sentences."""
        return self._url

    def uri(self, table_name: str) -> str:
        """The address of one table for deltalake."""
        return f"{self._url}/{table_name}"

    def has_tables(self) -> bool:
        """Whether there is any table."""
        return any(self.has_table(name) for name in self.table_names())

    def has_table(self, table_name: str) -> bool:
        """Whether a table has a log."""
        return any(self._files.list_entries(f"{table_name}/{LOG_NAME}"))

    def table_names(self) -> list[str]:
        """Names of everything that may be a table, in alphabetical order."""
        return sorted(
            entry.path for entry in self._files.list_entries("") if entry.size is None and entry.path.isidentifier()
        )

    def read_text(self, path: str) -> str | None:
        """Read a small object; None if it does not exist."""
        content = BytesIO()
        try:
            self._files.download(path, content)
        except FileNotFoundError:
            return None
        return content.getvalue().decode(errors="replace")

    def write_text(self, path: str, text: str) -> None:
        """Write a small object at once."""
        self._files.write_text(path, text)

    def commit_identity(self, table_name: str, version: int) -> tuple[int, int] | None:
        """What tells the log entry of a commit from another with its number; None if there is none."""
        entry = self._files.find(log_entry(table_name, version))
        return None if entry is None else (entry.size, entry.mtime_ns or 0)

    def commit_times(self) -> frozenset[tuple[str, int]]:
        """Time of each table's newest commit from this data folder; costs no request."""
        return frozenset((str(mark), mark.stat().st_mtime_ns) for mark in self.folder.glob(f"*/{_COMMIT_MARK}"))

    def finish_commit(self, table_name: str, version: int) -> None:
        """Mark in the data folder that a table has a new commit; the storage has checksums of its own."""
        mark = self.folder / table_name / _COMMIT_MARK
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def stored_sizes(self, table_name: str) -> dict[str, int]:
        """Size in bytes of each Parquet file of a table, also of old versions, by name."""
        entries = self._files.list_entries(table_name)
        return {entry.base_name: entry.size for entry in entries if entry.base_name.endswith(".parquet")}

    def local_files(self, table_name: str, sizes_bytes: Mapping[str, int], *, contents: bool = False) -> list[str]:
        """Absolute paths of copies of some files; what is missing or has another size is copied."""
        copies = []
        for name, size_bytes in sizes_bytes.items():
            copy = self.folder / table_name / name
            if _size(copy) != size_bytes or (contents and has_other_content(copy)):
                self._copy(table_name, name, size_bytes)
            copies.append(str(copy))
        return copies

    def _copy(self, table_name: str, name: str, size_bytes: int) -> None:
        folder = self.folder / table_name
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}-{os.getpid()}-{threading.get_ident()}{_COPY_SUFFIX}"
        try:
            with partial.open("wb") as target:
                self._files.download(f"{table_name}/{name}", target)
                target.flush()
                os.fsync(target.fileno())  # a view that names the copy may be published at once
            if partial.stat().st_size != size_bytes:
                raise OSError(
                    f"{self.uri(table_name)}/{name} has {partial.stat().st_size} instead of {size_bytes} bytes"
                )
            partial.replace(folder / name)
        finally:
            partial.unlink(missing_ok=True)
        write_checksums(folder, [name])

    def delete_file(self, table_name: str, file_name: str) -> None:
        """Delete a Parquet file and its copy, if they exist."""
        self._files.delete(f"{table_name}/{file_name}")
        super().delete_file(table_name, file_name)

    def delete_table(self, table_name: str) -> None:
        """Delete all objects of a table."""
        for entry in self._files.list_entries(table_name, is_recursive=True):
            if entry.size is not None:  # no folder
                self._files.delete(entry.path)

    def remove_vacuumed(self, table_name: str) -> None:
        """Remove the copies of files that vacuum has deleted."""
        folder = self.folder / table_name
        copies = {file.name for file in folder.glob("*.parquet")}  # before the objects: no new copy is taken for old
        for name in copies - self.stored_sizes(table_name).keys():
            (folder / name).unlink(missing_ok=True)
        remove_old_checksums(folder)

    def find_log_damage(self, table_name: str, *, contents: bool) -> LogDamage | None:
        """No power cut and no kill cuts off an object: whether deltalake can read the log is the check."""
        return None

    def move_aside(self, table_name: str, file_names: Iterable[str], target: Path) -> int:
        """Move damaged objects of a table into the data folder, where they exist; returns how many."""
        sizes = self.stored_sizes(table_name)
        destination = target / self.folder.name / table_name
        count = 0
        for name in file_names:
            if name in sizes:
                destination.mkdir(parents=True, exist_ok=True)
                with (destination / name).open("wb") as copy:
                    self._files.download(f"{table_name}/{name}", copy)
                self.delete_file(table_name, name)
                count += 1
        return count

    def move_table_aside(self, table_name: str, target: Path) -> int:
        """Refuse to move a table whose log cannot be read: no kill damages an object, so a person has deleted it."""
        raise PipelineError(
            f"{table_name}: the log {self.uri(table_name)}/{LOG_NAME} cannot be read: restore its objects from their "
            "older versions in the bucket or from a backup; or delete the table there to compute it again."
        )


def _size(file: Path) -> int:
    """Size of a file in bytes; -1 if it does not exist."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return -1
