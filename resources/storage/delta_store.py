"""The store: one Delta Lake table per declared table, whose rows are replaced per recording.

A write is one commit: readers see all of a recording's new rows or all of its old ones. Different processes may write
different recordings at once; after a conflict the later commit is retried, with the fence checked again. A write that
reads rows first (`change`, `filter_rows`) reads and commits at one version of the table, so that no row that another
process writes in between is lost.

Columns that were declared after a table was written read as NULL, and the first write adds them to the Delta schema.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow.dataset import Dataset, dataset, field

from resources.errors import PipelineError
from resources.schema.columns import Table
from resources.schema.row_checks import broken_rules
from resources.schema.table_registry import TABLES
from resources.storage.commit_recorder import CommitRecorder
from resources.storage.delta_writes import compact_files, quote_text, recordings_condition, vacuum_files, write_rows
from resources.storage.disk import disk_errors, disk_problem
from resources.storage.durability import sync_folders
from resources.storage.file_selection import select_files
from resources.storage.format_version import check_format, write_format
from resources.storage.open_tables import OpenTable, open_tables
from resources.storage.own_tables import find_stored_table
from resources.storage.table_check import check_table
from resources.storage.tables_choice import tables_location
from resources.storage.tables_location import TablesLocation, file_sizes

logger = logging.getLogger(__name__)
_COMMIT_ATTEMPTS = 30
_MAX_RETRY_PAUSE_S = 0.5
_T = TypeVar("_T")


class Store:
    """The tables of one data folder.

    Args:
        data_folder: Absolute path; `tables/` and `media/` are created in it by the first write.
    """

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.tables_folder = data_folder / "tables"
        self.media_folder = data_folder / "media"
        self.check_fence: Callable[[], None] = lambda: None
        """Check that runs before every commit; raises if this process is fenced off."""
        self.commits = CommitRecorder()
        """The commits of the attempt in progress."""
        self._synced_at_s = time.time()

    @cached_property
    def location(self) -> TablesLocation:
        """Where the tables are: in `tables_folder`, or in a bucket with copies there."""
        return tables_location(self.data_folder)

    @contextmanager
    def fenced_by(self, check_fence: Callable[[], None]) -> Iterator[None]:
        """Call a check before every commit of this block.

        The check runs between reading a table's newest version and committing on top of it. A process that passes the
        check, is then delayed, and meanwhile superseded by another writer of the same recording gets a conflict,
        retries the commit, and is checked again.

        Args:
            check_fence: The check; raises if this process must not write any more.
        """
        previous_check, self.check_fence = self.check_fence, check_fence
        try:
            yield
        finally:
            self.check_fence = previous_check

    def replace(
        self,
        table: Table,
        recording_ids: Sequence[str],
        rows: pa.Table | Sequence[pa.Table],
        only: Mapping[str, str] | None = None,
    ) -> int:
        """Replace all rows of some recordings, in one commit.

        Args:
            table: The declaration of the table.
            recording_ids: Recordings whose rows are replaced; a recording without new rows has none afterwards. In a
                table that is not per recording, all rows are replaced.
            rows: The new rows, with the declared columns; also as several tables without common keys, which are
                checked and written one after the other, and may be read from files whenever they are asked for.
            only: Values by column name; only rows with these values are replaced.

        Returns:
            The number of rows written.

        Raises:
            ValueError: The rows break the declaration, or belong to a recording that is not in `recording_ids`.
            PipelineError: The data folder is full, read-only or not accessible.
        """
        schema = table.arrow_schema
        parts = [rows] if isinstance(rows, pa.Table) else rows
        for part in parts:
            part = part.select(schema.names).cast(schema)
            unlisted_ids = (
                set(part["recording_id"].unique().to_pylist()) - {*recording_ids} if table.per_recording else ()
            )
            if unlisted_ids:
                raise ValueError(
                    f"{table.name}: the recordings {sorted(unlisted_ids)} have rows but are not in recording_ids."
                )
            if sentences := broken_rules(table, part):
                raise ValueError(" ".join(sentences))
        conditions = [f"{name} = {quote_text(value)}" for name, value in (only or {}).items()]
        if table.per_recording:
            conditions.append(recordings_condition(recording_ids))
        predicate = " AND ".join(conditions) or None

        def commit() -> int:
            batches = (batch for part in parts for batch in part.select(schema.names).cast(schema).to_batches())
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            delta = self._open_or_create(table)
            self.check_fence()
            return write_rows(self.location, table.name, delta, reader, "overwrite", predicate)

        version = self._commit_with_retries(table, commit)
        if table.per_recording:
            self.commits.add(table.name, version, recording_ids, parts)
        return sum(part.num_rows for part in parts)

    def append(self, table: Table, rows: pa.Table) -> None:
        """Append rows in one commit; commits of other processes to the same table only delay it.

        Args:
            table: The declaration of the table.
            rows: The rows, with the declared columns.

        Raises:
            ValueError: The rows break the declaration.
            PipelineError: The data folder is full, read-only or not accessible.
        """
        rows = rows.select(table.arrow_schema.names).cast(table.arrow_schema)
        if sentences := broken_rules(table, rows):
            raise ValueError(" ".join(sentences))

        def commit() -> None:
            delta = self._open_or_create(table)
            self.check_fence()
            write_rows(self.location, table.name, delta, rows, "append")

        self._commit_with_retries(table, commit)

    def check_format(self) -> None:
        """Check that this version of the program can read and write the tables.

        Raises:
            PipelineError: The tables have an older or a newer format, or it cannot be read.
        """
        with disk_errors(self.data_folder):
            check_format(self.location)

    def update(self, table: Table, recording_ids: str | Sequence[str], values: Mapping[str, object]) -> None:
        """Set columns to one value in all rows of one or several recordings, in one commit.

        Args:
            table: The declaration of the table.
            recording_ids: The recording, or the recordings.
            values: New values by column name; strings, numbers, booleans or None.
        """
        unknown_columns = set(values) - set(table.arrow_schema.names)
        if unknown_columns:
            raise ValueError(f"{table.name} has no columns {sorted(unknown_columns)}.")
        ids = [recording_ids] if isinstance(recording_ids, str) else list(recording_ids)
        self.change(table, ids, lambda rows: {name: [value] * rows.num_rows for name, value in values.items()})

    def change(
        self, table: Table, recording_ids: Sequence[str], compute: Callable[[pa.Table], Mapping[str, Any]]
    ) -> None:
        """Set columns to values computed from the stored rows of some recordings, in one commit.

        Args:
            table: The declaration of the table.
            recording_ids: The recordings.
            compute: Takes all their rows as stored at the commit, returns new values by column name; called again
                when the commit is retried. It must not write to the table.
        """
        predicate = recordings_condition(recording_ids)

        # Delta's own UPDATE is not used: it writes strings as Arrow views, and its readers cannot filter on them.
        def commit() -> None:
            delta = self._open_or_create(table)
            self.check_fence()
            rows = self._rows(delta, table, recording_ids).to_table().cast(table.arrow_schema)
            for name, values in (compute(rows) if rows.num_rows else {}).items():
                position = table.arrow_schema.get_field_index(name)
                column = table.arrow_schema.field(position)
                rows = rows.set_column(position, column, pa.array(values, column.type))
            if rows.num_rows:
                write_rows(self.location, table.name, delta, rows, "overwrite", predicate)

        self._commit_with_retries(table, commit)

    def filter_rows(
        self,
        table: Table,
        recording_ids: Sequence[str] | None,
        keep: Callable[[pa.Table], pa.Array | pa.ChunkedArray],
    ) -> int:
        """Delete rows, in one commit; rows that other processes write meanwhile are tested, too.

        Args:
            table: The declaration of the table.
            recording_ids: Recordings whose rows are tested; None means all rows of the table.
            keep: Takes these rows as stored at the commit, returns for each whether it is kept, which NULL means, too;
                called again when the commit is retried. It must not write to the table.

        Returns:
            The number of rows deleted.
        """
        if recording_ids is not None and not recording_ids:
            return 0
        predicate = None if recording_ids is None else recordings_condition(recording_ids)

        def commit() -> int:
            delta = self._open(table)
            if delta is None:
                return 0
            self.check_fence()
            rows = self._rows(delta, table, recording_ids).to_table().cast(table.arrow_schema)
            kept_rows = rows.filter(pc.fill_null(keep(rows), True))
            if kept_rows.num_rows < rows.num_rows:
                write_rows(self.location, table.name, delta, kept_rows, "overwrite", predicate)
            return int(rows.num_rows - kept_rows.num_rows)

        return self._commit_with_retries(table, commit)

    def read(
        self, table: Table, recording_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read rows, in no particular order.

        Args:
            table: The declaration of the table.
            recording_ids: Recordings whose rows are read; None reads all.
            columns: Columns to read; None reads all declared ones.
        """
        names = list(columns or table.arrow_schema.names)
        schema = pa.schema([table.arrow_schema.field(name) for name in names])
        if recording_ids is not None and not recording_ids:
            return schema.empty_table()
        for attempt in range(3):
            try:
                delta = self._open(table)
                return (
                    self._rows(delta, table, recording_ids).to_table(names).cast(schema)
                    if delta
                    else schema.empty_table()
                )
            except (OSError, pa.ArrowException) as error:
                # Files may have been vacuumed after the log was read: the next attempt reads the newer ones.
                if attempt == 2 or not isinstance(error, FileNotFoundError):
                    raise self._explain(table, error) from error
        raise AssertionError("unreachable")

    def scan(self, table: Table, recording_ids: Sequence[str] | None) -> Dataset:
        """A dataset of rows of some recordings, in no particular order, read from disk lazily.

        Args:
            table: The declaration of the table.
            recording_ids: Recordings whose rows are read; None reads all.
        """
        delta = self._open(table)
        try:
            return self._rows(delta, table, recording_ids) if delta else dataset(table.arrow_schema.empty_table())
        except OSError as error:
            raise self._explain(table, error) from error

    def _rows(self, delta: DeltaTable, table: Table, recording_ids: Sequence[str] | None) -> Dataset:
        files = pa.table(delta.get_add_actions(flatten=True))
        if recording_ids is not None:
            files = select_files(files, recording_ids)
        paths = self.location.local_files(table.name, file_sizes(files))
        rows = dataset(paths, schema=table.arrow_schema, format="parquet")
        if recording_ids is None:
            return rows
        return rows.filter(field("recording_id").isin(pa.array(list(recording_ids), pa.string())))

    def row_count(self, table: Table) -> int:
        """Number of rows of the table, from its log alone."""
        delta = self._open(table)
        return sum(pa.table(delta.get_add_actions(flatten=True))["num_records"].to_pylist()) if delta else 0

    def has_tables(self) -> bool:
        """Whether there is any table."""
        with disk_errors(self.data_folder):
            return self.location.has_tables()

    def versions(self) -> dict[str, int]:
        """Newest version of every existing table, by table name."""
        versions = {}
        for table in self.tables():
            if (delta := self._open(table)) is not None:
                versions[table.name] = delta.version()
        return versions

    def commit_times(self) -> frozenset[tuple[str, int]]:
        """Time of every table's newest commit: changes with every commit, and is cheap to read."""
        return self.location.commit_times()

    def tables(self) -> list[Table]:
        """All declared tables, and the existing ones of further models and of stages of one's own."""
        with disk_errors(self.data_folder):
            table_names = self.location.table_names()
        further_tables = [find_stored_table(self.tables_folder, name) for name in table_names if name not in TABLES]
        return [*TABLES.values(), *(table for table in further_tables if table is not None)]

    def check_readable(self, table: Table) -> None:
        """Check the log of a table and the contents of all its files.

        Raises:
            PipelineError: The table is damaged.
        """
        if damage := check_table(self.location, table.name, contents=True).damage:
            raise PipelineError(damage.describe(self.data_folder))

    def files(self, table: Table) -> list[str]:
        """Absolute paths of the Parquet files with the table's current rows; copies of those in a bucket."""
        files = self.file_statistics(table)
        return [] if files is None else sorted(files["path"].to_pylist())

    def file_statistics(self, table: Table) -> pa.Table | None:
        """Absolute path, modification_time and flat statistics of a table's files; None if it does not exist."""
        delta = self._open(table)
        if delta is None:
            return None
        files = pa.table(delta.get_add_actions(flatten=True))
        with disk_errors(self.data_folder):
            paths = pa.array(self.location.local_files(table.name, file_sizes(files)), pa.string())
        return files.set_column(files.column_names.index("path"), "path", paths)

    def compact(self, table: Table) -> None:
        """Merge many small files into few, and delete old files that no reader needs any more."""
        if (delta := self._open(table)) is not None:
            compact_files(self.location, table.name, delta)

    def vacuum(self, table: Table) -> None:
        """Delete old files that no reader needs any more, also of tables that are too small for compaction."""
        if (delta := self._open(table)) is not None:
            vacuum_files(self.location, table.name, delta)

    def sync(self) -> None:
        """Wait until everything that was written to the data folder is on its disk.

        Raises:
            PipelineError: The disk does not accept the data.
        """
        started_s = time.time()
        sync_folders((self.data_folder, self.tables_folder, self.media_folder), self._synced_at_s)
        self._synced_at_s = started_s

    def _open(self, table: Table) -> DeltaTable | None:
        """The newest version of a table, None if it does not exist; an open table only reads its new log entries."""
        uri = self.location.uri(table.name)
        open_table = open_tables.tables.pop(uri, None)
        if open_table is None or not open_table.update():
            try:
                open_table = OpenTable(self.location, table.name, self.location.open(table.name))
            except TableNotFoundError:
                return None
            except (OSError, DeltaError) as error:
                raise self._explain(table, error) from error
        open_tables.tables[uri] = open_table
        return open_table.delta

    def _open_or_create(self, table: Table) -> DeltaTable:
        delta = self._open(table)
        if delta is not None:
            return delta
        self.check_format()
        with disk_errors(self.data_folder):
            write_format(self.location)
            return self.location.create(table)

    def _explain(self, table: Table, error: Exception) -> Exception:
        """The error to raise when a table cannot be used: a sentence if the reason is known, else the same error."""
        if sentence := disk_problem(error, self.data_folder):
            return PipelineError(sentence)
        try:
            self.check_readable(table)
        except PipelineError as damage:
            return damage
        return error

    def _commit_with_retries(self, table: Table, commit: Callable[[], _T]) -> _T:
        """Commit, and retry after conflicts.

        Raises:
            PipelineError: The disk is full or cannot be written, or the bucket cannot be reached.
        """
        for attempt in range(_COMMIT_ATTEMPTS):
            try:
                return commit()
            except CommitFailedError as error:
                if attempt == _COMMIT_ATTEMPTS - 1:
                    raise
                logger.info("A commit to %s conflicts with another one and is retried: %s", table.name, error)
                time.sleep(random.uniform(0.2, 1) * min(0.1 * (attempt + 1), _MAX_RETRY_PAUSE_S))
            except (OSError, DeltaError) as error:
                raise self._explain(table, error) from error
        raise AssertionError("unreachable")
