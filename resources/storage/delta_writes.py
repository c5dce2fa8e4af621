"""Writes to one Delta table: each is one commit, after which the checksums of its new files are stored."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from resources.storage.checksums import remove_old_checksums, write_checksums
from resources.storage.table_log import added_files

logger = logging.getLogger(__name__)
_COMPACT_ABOVE_FILES = 64
_KEEP_OLD_FILES = timedelta(hours=24)
_NO_RETRY = CommitProperties(max_commit_retries=0)


def write_rows(
    delta: DeltaTable,
    rows: pa.Table | pa.RecordBatchReader,
    mode: Literal["append", "overwrite"],
    predicate: str | None = None,
) -> int:
    """Commit rows.

    Args:
        delta: The table, at the version on which the commit is based.
        rows: The rows.
        mode: Whether the rows are added, or replace others.
        predicate: SQL of the rows that are replaced; None means all.

    Returns:
        The version of the commit.

    Raises:
        CommitFailedError: Another process has committed meanwhile.
        DeltaError: The table is damaged, or the disk is full or cannot be written.
    """
    version: int = delta.version() + 1  # a commit that is not retried has no other number
    # "merge" adds columns that were declared later, and fills those that the program does not declare with NULL.
    write_deltalake(delta, rows, mode=mode, predicate=predicate, schema_mode="merge", commit_properties=_NO_RETRY)
    _store_checksums(delta, version)
    return version


def compact_files(delta: DeltaTable) -> None:
    """Merge many small files into few, and delete old files that no reader needs any more."""
    if len(delta.file_uris()) <= _COMPACT_ABOVE_FILES:
        return
    version = delta.version() + 1
    try:
        delta.optimize.compact(commit_properties=_NO_RETRY)
        _store_checksums(delta, version)
    except (CommitFailedError, DeltaError) as error:
        # Another process committed meanwhile; compaction is optional, so the next publication retries it.
        logger.info("Compaction of %s is postponed: %s", delta.table_uri, error)
        return
    vacuum_files(delta)


def vacuum_files(delta: DeltaTable) -> None:
    """Delete old files that no reader needs any more, with their checksums."""
    hours = int(_KEEP_OLD_FILES.total_seconds() // 3600)
    try:
        delta.cleanup_metadata()
        delta.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=False)
    except (CommitFailedError, DeltaError) as error:
        logger.info("Vacuum of %s is postponed: %s", delta.table_uri, error)
        return
    remove_old_checksums(table_folder(delta))


def recordings_condition(recording_ids: Sequence[str]) -> str:
    """SQL of the rows of some recordings."""
    return f"recording_id IN ({', '.join(quote_text(recording_id) for recording_id in recording_ids)})"


def quote_text(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def table_folder(delta: DeltaTable) -> Path:
    """The folder of a table."""
    uri = delta.table_uri
    return Path(url2pathname(urlparse(uri).path)) if uri.startswith("file:") else Path(uri)


def _store_checksums(delta: DeltaTable, version: int) -> None:
    folder = table_folder(delta)
    write_checksums(folder, added_files(folder, version))
