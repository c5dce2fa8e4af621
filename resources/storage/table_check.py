"""The check of one Delta table: a damaged log, and Parquet files that are missing, cut or changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from resources.errors import PipelineError
from resources.storage.bucket_problems import bucket_problem
from resources.storage.checksums import has_other_content
from resources.storage.table_log import LogDamage
from resources.storage.tables_location import TablesLocation, file_sizes

_NAMED_FILES, _MAX_REASON_LENGTH = 2, 120


@dataclass(frozen=True)
class DamagedFile:
    """A Parquet file that cannot be used.

    Attributes:
        name: Its name in the folder of the table.
        problem: What is wrong, to follow the name.
        first_recording_id: First of its recordings in the order of their ids; None if unknown.
        last_recording_id: Last of its recordings.
    """

    name: str
    problem: str
    first_recording_id: str | None = None
    last_recording_id: str | None = None

    @property
    def clause(self) -> str:
        """Name, recordings and problem, as a part of a sentence."""
        if self.first_recording_id is None:
            return f"its file {self.name} {self.problem}"
        ids = dict.fromkeys((self.first_recording_id, self.last_recording_id))
        return f"its file {self.name}, with rows of {' to '.join(map(str, ids))}, {self.problem}"


@dataclass(frozen=True)
class TableDamage:
    """Why a table cannot be read, or not all of it.

    Attributes:
        table_name: The table.
        log: The damage of its log; None if the log is whole.
        files: Its damaged files.
        problem: Another reason, to follow the name of the table; empty if there is none.
        is_unreadable: Whether the table cannot be opened at all, although its log seems whole.
    """

    table_name: str
    log: LogDamage | None = None
    files: tuple[DamagedFile, ...] = ()
    problem: str = ""
    is_unreadable: bool = False

    @property
    def has_unusable_files(self) -> bool:
        """Whether there are files to move aside; otherwise commits are lost, and the rest of the table is whole."""
        return self.log is not None or bool(self.files) or self.is_unreadable

    def describe(self, data_folder: Path) -> str:
        """Describe the damage and the remedy in one sentence."""
        clauses = [self.log.problem] if self.log else [file.clause for file in self.files[:_NAMED_FILES]]
        more = len(self.files) - _NAMED_FILES
        others = f", and {more} more files are damaged" if more > 0 else ""
        return f"{self.table_name}: {', '.join(clauses) or self.problem}{others}: {repair_remedy(data_folder)}"


@dataclass(frozen=True)
class CheckedTable:
    """The result of the check of one table.

    Attributes:
        damage: The damage; None if there is none.
        version: Number of the newest commit; -1 if it is unknown, or if nothing was ever committed.
        row_count: Number of rows according to the log.
        file_count: Number of files according to the log.
    """

    damage: TableDamage | None = None
    version: int = -1
    row_count: int = 0
    file_count: int = 0


def repair_remedy(data_folder: Path) -> str:
    """The remedy of damage, as the end of a sentence."""
    return f"run cv-assets repair --data {data_folder}."


def check_table(location: TablesLocation, name: str, *, contents: bool) -> CheckedTable:
    """Check the log and the files of one table, and copy the files of a bucket that have no copy.

    Args:
        location: The location of the tables.
        name: Name of the table; it need not exist.
        contents: Whether the files are read and compared with their checksums, and decoded if they have none;
            otherwise only whether they exist with their size.
    """
    if not location.has_table(name):
        return CheckedTable()
    if damage := location.find_log_damage(name, contents=contents):
        return CheckedTable(TableDamage(name, damage))
    try:
        delta = location.open(name)
        files = pa.table(delta.get_add_actions(flatten=True))
    except (DeltaError, OSError, ValueError) as error:
        if sentence := bucket_problem(error, location.address):
            raise PipelineError(sentence) from error
        problem = f"its log cannot be read ({_summarize(error)})"
        log_damage = location.find_log_damage(name, contents=True)
        return CheckedTable(TableDamage(name, log_damage, problem=problem, is_unreadable=True))
    damaged = _find_damaged_files(location, name, files, contents=contents)
    return CheckedTable(
        TableDamage(name, files=tuple(damaged)) if damaged else None,
        delta.version(),
        sum(count or 0 for count in files["num_records"].to_pylist()),
        files.num_rows,
    )


def _find_damaged_files(
    location: TablesLocation, table_name: str, add_actions: pa.Table, *, contents: bool
) -> list[DamagedFile]:
    sizes = location.stored_sizes(table_name)
    whole = {name: size for name, size in file_sizes(add_actions).items() if _size_problem(sizes, name, size) is None}
    location.local_files(table_name, whole, contents=contents)
    names = ("path", "size_bytes", "min.recording_id", "max.recording_id")
    columns = [
        add_actions[name].to_pylist() if name in add_actions.column_names else [None] * add_actions.num_rows
        for name in names
    ]
    damaged = []
    for name, size_bytes, first_id, last_id in zip(*columns, strict=True):
        problem = _size_problem(sizes, name, size_bytes)
        if problem is None and contents:
            problem = _content_problem(location.folder / table_name / name)
        if problem is not None:
            damaged.append(DamagedFile(name, problem, first_id, last_id))
    return damaged


def _size_problem(sizes: Mapping[str, int], name: str, size_bytes: int) -> str | None:
    if name not in sizes:
        return "is missing"
    if sizes[name] != size_bytes:
        return f"has {sizes[name]} instead of {size_bytes} bytes"
    return None


def _content_problem(file: Path) -> str | None:
    try:
        is_changed = has_other_content(file)
        if is_changed is None:
            with pq.ParquetFile(file) as content:
                for _ in content.iter_batches():
                    pass  # whether it decodes is the check
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read ({_summarize(error)})"
    return "has another content than when it was written" if is_changed else None


def _summarize(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_LENGTH]
