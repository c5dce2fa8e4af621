"""Where rows live: one Delta Lake table per declared table, replaced per recording.

A write is one commit: readers see all of a recording's new rows or all of its old ones. Writers in different
processes may write different recordings at once; the loser of a conflict tries again.
"""

import errno
import fcntl
import logging
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow.dataset import Dataset, dataset, field

from resources.errors import PipelineError
from resources.schema import CAPTURED_AT_SOURCE, TABLES, Table, broken_rules, table_named
from resources.wall_clock import on_the_wall

logger = logging.getLogger(__name__)

_COMMIT_ATTEMPTS = 12
_COMPACT_ABOVE_FILES = 64
_KEEP_OLD_FILES = timedelta(hours=24)
_T = TypeVar("_T")


class Store:
    """The tables under one data folder.

    Args:
        data_folder: Absolute path; `tables/` and `media/` are made in it when first written.
    """

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.tables_folder = data_folder / "tables"
        self.media_folder = data_folder / "media"
        self.may_write: Callable[[], None] = lambda: None
        """Asked before each commit; raises where this process may not write any more."""

    @contextmanager
    def written_by(self, may_write: Callable[[], None]) -> Iterator[None]:
        """Ask before every commit of this block whether it may still be made.

        The question falls between reading a table's newest version and committing on top of it. So whoever is asked,
        then held up, and overtaken by another writer of the same recording conflicts, tries again, and is asked again.

        Args:
            may_write: Raises where this process may not write any more.
        """
        before, self.may_write = self.may_write, may_write
        try:
            yield
        finally:
            self.may_write = before

    def replace(
        self,
        table: Table,
        recording_ids: Sequence[str],
        rows: pa.Table | Sequence[pa.Table],
        only: Mapping[str, str] | None = None,
    ) -> int:
        """Replace all rows of the given recordings by `rows`, in one commit.

        Args:
            table: The declaration of the table.
            recording_ids: Every recording whose rows are replaced; one without new rows ends up with none. Of a table
                that is not per recording, all rows are replaced.
            rows: The new rows, with the declared columns; many may come in parts that have no key in common, which are
                checked and written one after the other.
            only: Values by column name; rows that have others are neither replaced nor written.

        Returns:
            The number of rows written.

        Raises:
            ValueError: The rows break the declaration, or belong to a recording not named.
            PipelineError: The data folder is full, read-only or out of reach.
        """
        schema = table.arrow_schema
        parts = [part.select(schema.names).cast(schema) for part in ([rows] if isinstance(rows, pa.Table) else rows)]
        for part in parts:
            if table.per_recording and (strangers := set(part["recording_id"].unique().to_pylist()) - {*recording_ids}):
                raise ValueError(f"{table.name}: rows of recordings that were not named: {sorted(strangers)}.")
            if broken := broken_rules(table, part):
                raise ValueError(" ".join(broken))
        conditions = [f"{name} = {_quoted(value)}" for name, value in (only or {}).items()]
        if table.per_recording:
            listed = ", ".join(_quoted(recording_id) for recording_id in recording_ids)
            conditions.append(f"recording_id IN ({listed})")
        predicate = " AND ".join(conditions) or None

        def commit() -> None:
            batches = (batch for part in parts for batch in part.to_batches())
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            newest = self._existing(table)
            self.may_write()
            write_deltalake(newest, reader, mode="overwrite", predicate=predicate, commit_properties=_NO_RETRY)

        self._retrying(table, commit)
        return sum(part.num_rows for part in parts)

    def outdated_tables(self) -> list[str]:
        """Tables whose stored columns are not those declared: another version of this program wrote them."""
        found = []
        for table in TABLES.values():
            try:
                stored = DeltaTable(str(self._folder(table))).schema()
            except TableNotFoundError:
                continue
            if {column.name for column in stored.fields} != set(table.arrow_schema.names):
                found.append(table.name)
        return found

    def update(self, table: Table, recording_ids: str | Sequence[str], values: Mapping[str, object]) -> None:
        """Change single columns of all rows of one recording or of several, in one commit.

        Args:
            table: The declaration of the table.
            recording_ids: The recording, or the recordings.
            values: New values by column name; strings, numbers, booleans or None.
        """
        unknown = set(values) - set(table.arrow_schema.names)
        if unknown:
            raise ValueError(f"{table.name} has no columns {sorted(unknown)}.")
        wanted = [recording_ids] if isinstance(recording_ids, str) else list(recording_ids)
        self.change(table, wanted, lambda rows: {name: [value] * rows.num_rows for name, value in values.items()})

    def change(
        self, table: Table, recording_ids: Sequence[str], changed: Callable[[pa.Table], Mapping[str, Any]]
    ) -> None:
        """Give columns of some recordings' rows the values that are made of these rows, in one commit.

        Args:
            table: The declaration of the table.
            recording_ids: The recordings.
            changed: Given all their rows as they are at the commit, new values by column name; may be asked again.
        """
        predicate = f"recording_id IN ({', '.join(_quoted(one) for one in recording_ids)})"

        # Not by Delta's own UPDATE: it writes strings as Arrow views, by which its readers then cannot filter.
        def commit() -> None:
            newest = self._existing(table)
            self.may_write()
            rows = self._rows(newest, table, recording_ids).to_table().cast(table.arrow_schema)
            for name, values in (changed(rows) if rows.num_rows else {}).items():
                column = table.arrow_schema.get_field_index(name)
                field_of = table.arrow_schema.field(column)
                rows = rows.set_column(column, field_of, pa.array(values, field_of.type))
            if rows.num_rows:
                write_deltalake(newest, rows, mode="overwrite", predicate=predicate, commit_properties=_NO_RETRY)

        self._retrying(table, commit)

    def set_clock(
        self,
        tables: Sequence[Table],
        recording_id: str,
        started_at_utc: datetime | None,
        started_at_source: str | None,
    ) -> None:
        """Let a recording's times on the wall clock count from another start; nothing else of its rows changes.

        Args:
            tables: Those to change; such as have no times on the wall clock are passed over.
            recording_id: The recording.
            started_at_utc: When its first frame was taken.
            started_at_source: Where that is known from.
        """
        source = {CAPTURED_AT_SOURCE.name: started_at_source}
        for table in tables:
            following = {column.name: column.since_start for column in table.columns if column.since_start}
            told = {name: value for name, value in source.items() if name in table.arrow_schema.names}
            names = {*following, *told, *(since for since, _ in following.values())}
            if not following or not self.row_count(table):
                continue
            set_times = partial(_on_the_wall, started_at_utc, following, told)
            rows = self.read(table, [recording_id], sorted(names))
            # Compared as numbers: what was reckoned by another way may differ by the last microsecond.
            if any(_differ(rows[name], pa.array(right, rows[name].type)) for name, right in set_times(rows).items()):
                self.change(table, [recording_id], set_times)

    def read(
        self, table: Table, recording_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read rows, in no particular order.

        Args:
            table: The declaration of the table.
            recording_ids: Only rows of these; None reads all.
            columns: Only these columns; None reads all that are declared.
        """
        names = list(columns or table.arrow_schema.names)
        schema = pa.schema([table.arrow_schema.field(name) for name in names])
        if recording_ids is not None and not recording_ids:
            return schema.empty_table()
        for attempt in range(3):
            try:
                return self.scan(table, recording_ids).to_table(names).cast(schema)
            except FileNotFoundError:
                # Vacuumed between reading the log and the files: the next look finds the newer ones.
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def scan(self, table: Table, recording_ids: Sequence[str] | None) -> Dataset:
        """Rows of some recordings, in no particular order, read from disk only as they are asked for.

        Args:
            table: The declaration of the table.
            recording_ids: Only rows of these; None means all.
        """
        delta = self._open(table)
        return self._rows(delta, table, recording_ids) if delta else dataset(table.arrow_schema.empty_table())

    def _rows(self, delta: DeltaTable, table: Table, recording_ids: Sequence[str] | None) -> Dataset:
        # Not by deltalake's own dataset, which sets up a filter for every file of the table to read one recording.
        files = pa.table(delta.get_add_actions(flatten=True))
        if recording_ids is not None:
            least, most = files["min.recording_id"], files["max.recording_id"]
            is_wanted = pc.is_null(least)  # no telling what is in it
            for recording_id in recording_ids:
                holds = pc.and_(pc.less_equal(least, recording_id), pc.greater_equal(most, recording_id))
                is_wanted = pc.or_(is_wanted, pc.fill_null(holds, True))
            files = files.filter(is_wanted)
        paths = [str(self._folder(table) / path) for path in files["path"].to_pylist()]
        rows = dataset(paths, schema=table.arrow_schema, format="parquet")
        return rows if recording_ids is None else rows.filter(field("recording_id").isin(list(recording_ids)))

    def row_count(self, table: Table) -> int:
        """How many rows the table holds, from its log alone."""
        delta = self._open(table)
        return sum(pa.table(delta.get_add_actions(flatten=True))["num_records"].to_pylist()) if delta else 0

    def versions(self) -> dict[str, int]:
        """The current commit of every table that exists, by table name."""
        versions = {}
        for table in self.tables():
            delta = self._open(table)
            if delta is not None:
                versions[table.name] = delta.version()
        return versions

    def commit_times(self) -> frozenset[tuple[str, int]]:
        """When the log of each table was last written to: it changes whenever any row does, and costs little.

        Not the newest entries themselves: a log holds thousands, which would all be listed twice a second.
        """
        return frozenset((str(log), log.stat().st_mtime_ns) for log in self.tables_folder.glob("*/_delta_log"))

    def tables(self) -> list[Table]:
        """Every declared table, and those of further models that have been written."""
        written = sorted(folder.name for folder in self.tables_folder.glob("*_*"))
        further = [table_named(name) for name in written if name not in TABLES]
        return [*TABLES.values(), *(table for table in further if table is not None)]

    def files(self, table: Table) -> list[str]:
        """Absolute paths of the Parquet files that hold the table's current rows."""
        delta = self._open(table)
        return sorted(delta.file_uris()) if delta is not None else []

    def compact(self, table: Table) -> None:
        """Merge many small files into few and delete files that no reader can still need."""
        delta = self._open(table)
        if delta is None or len(delta.file_uris()) <= _COMPACT_ABOVE_FILES:
            return
        try:
            delta.optimize.compact(commit_properties=_NO_RETRY)
            _vacuum(delta)
        except (CommitFailedError, DeltaError) as error:
            # Somebody wrote meanwhile; compaction is only ever a saving, so the next write tries again.
            logger.info("Compacting %s was put off: %s", table.name, error)

    def vacuum(self, table: Table) -> None:
        """Delete files that no reader can still need, of tables too that are too small to be compacted."""
        delta = self._open(table)
        if delta is None:
            return
        try:
            _vacuum(delta)
        except (CommitFailedError, DeltaError) as error:
            logger.info("Clearing up %s was put off: %s", table.name, error)

    def _folder(self, table: Table) -> Path:
        return self.tables_folder / table.name

    def _open(self, table: Table) -> DeltaTable | None:
        """The table as it is now, None while there is none; once opened it only reads on in its log."""
        folder = self._folder(table)
        held = _opened.tables.pop(folder, None)
        if held is None or not held.goes_on():
            try:
                held = _Opened(folder, DeltaTable(str(folder)))
            except TableNotFoundError:
                return None
        _opened.tables[folder] = held
        return held.delta

    def _existing(self, table: Table) -> DeltaTable:
        delta = self._open(table)
        if delta is not None:
            return delta
        with disk_errors(self.data_folder):
            self._folder(table).mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            str(self._folder(table)), table.arrow_schema, mode="ignore", description=table.comment, name=table.name
        )
        return DeltaTable(str(self._folder(table)))

    def _retrying(self, table: Table, commit: Callable[[], _T]) -> _T:
        """Run a commit again after a conflict; tell a full or read-only disk from a defect."""
        for attempt in range(_COMMIT_ATTEMPTS):
            try:
                return commit()
            except CommitFailedError as error:
                if attempt == _COMMIT_ATTEMPTS - 1:
                    raise
                logger.info("Commit to %s met another writer, trying again: %s", table.name, error)
                time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))
            except (OSError, DeltaError) as error:
                if sentence := disk_problem(error, self.data_folder):
                    raise PipelineError(sentence) from error
                raise
        raise AssertionError("unreachable")


def _differ(stored: pa.ChunkedArray, right: pa.Array) -> bool:
    """Whether a column's values are others; times that differ by a microsecond are the same."""
    if stored.null_count != right.null_count:
        return True
    if not pa.types.is_timestamp(right.type):
        return not stored.combine_chunks().equals(right)
    apart = pc.abs(pc.subtract(stored.cast(pa.int64()), right.cast(pa.int64())))
    return bool(pc.any(pc.greater(apart, 1)).as_py())


def _on_the_wall(
    started_at_utc: datetime | None,
    following: Mapping[str, tuple[str, float]],
    told: Mapping[str, str | None],
    rows: pa.Table,
) -> Mapping[str, Any]:
    """Columns of rows: times that follow others by so many seconds for one of these, and what is the same in each."""
    times = {
        name: on_the_wall(started_at_utc, rows[since].to_numpy() * unit_s)
        for name, (since, unit_s) in following.items()
    }
    return times | {name: [value] * rows.num_rows for name, value in told.items()}


_FULL = ("no space left", "quota exceeded", "database or disk is full")
_NOTHING_FREE_BYTES = 1_000_000  # with less, SQLite cannot even read: its index of the log is a file
_NO_RETRY = CommitProperties(max_commit_retries=0)


def _vacuum(delta: DeltaTable) -> None:
    hours = int(_KEEP_OLD_FILES.total_seconds() // 3600)
    delta.cleanup_metadata()
    delta.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=False)


class _Opened:
    """A table that this process has opened, and the commit at which it last saw it."""

    def __init__(self, folder: Path, delta: DeltaTable) -> None:
        self.delta, self._log = delta, folder / "_delta_log"
        self._remember()

    def goes_on(self) -> bool:
        """Read what was committed since; False if the table is not the one that was opened."""
        if self._identity(self._version) != self._seen:
            return False
        try:
            self.delta.update_incremental()
        except DeltaError as error:
            logger.info("%s is opened anew: %s", self._log.parent, error)
            return False
        self._remember()
        return True

    def _remember(self) -> None:
        self._version = self.delta.version()
        self._seen = self._identity(self._version)

    def _identity(self, version: int) -> tuple[int, int] | None:
        try:
            commit = (self._log / f"{version:020}.json").stat()
        except FileNotFoundError:
            return None
        return commit.st_ino, commit.st_mtime_ns


class _OpenedTables(threading.local):
    """Of each thread its own, so that none sees a table move on under its hands."""

    def __init__(self) -> None:
        self.tables: dict[Path, _Opened] = {}


_opened = _OpenedTables()


@contextmanager
def one_at_a_time(data_folder: Path, what: str) -> Iterator[None]:
    """Do something with a data folder that only one process may do at a time; whoever comes later waits.

    Args:
        data_folder: Made if it is not there.
        what: Names the lock file.
    """
    data_folder.mkdir(parents=True, exist_ok=True)
    with (data_folder / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into the one sentence that says so.

    Raises:
        PipelineError: Instead of the error, of whatever library, that means one of these.
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
    """The sentence for an error that means the disk refuses to be written; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()  # delta-rs and SQLite wrap the system's error and keep only its text
    is_full = number in (errno.ENOSPC, errno.EDQUOT) or any(told in text for told in _FULL)
    if is_full or ("disk i/o error" in text and shutil.disk_usage(folder).free < _NOTHING_FREE_BYTES):
        return f"The disk of the data folder {folder} is full: make space, then start again; finished work is kept."
    if number == errno.EROFS or "read-only file system" in text:
        return f"The data folder {folder} is on a read-only file system: remount it writable or choose another."
    if number in (errno.EACCES, errno.EPERM) or "permission denied" in text:
        return f"The data folder {folder} may not be written by this user: change its permissions or choose another."
    return None


def check_data_folder(folder: Path, min_free_bytes: int = 200_000_000) -> None:
    """Make the data folder if need be and prove that it can be written.

    Raises:
        PipelineError: It cannot be made or written, or has less than `min_free_bytes` free.
    """
    probe = folder / f".write-probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        sentence = disk_problem(error, folder)
        raise PipelineError(
            sentence or f"The data folder {folder} cannot be used: {error.strerror or error}."
        ) from error
    free_bytes = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free_bytes < min_free_bytes:
        raise PipelineError(
            f"The disk of the data folder {folder} has only {free_bytes // 1_000_000} MB free, "
            f"and {min_free_bytes // 1_000_000} MB are needed: make space or choose another folder with --data."
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
