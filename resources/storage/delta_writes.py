"""Writes to one Delta table: each is one commit, after which the checksums of its new files are stored."""

import logging
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from resources.storage.tables_location import TablesLocation, log_entry

logger = logging.getLogger(__name__)
_COMPACT_ABOVE_FILES = 64
_KEEP_OLD_FILES = timedelta(hours=24)
_COMMIT_ID = "cv_assets_commit"
_NO_RETRY = CommitProperties(max_commit_retries=0)


def write_rows(
    location: TablesLocation,
    table_name: str,
    delta: DeltaTable,
    rows: pa.Table | pa.RecordBatchReader,
    mode: Literal["append", "overwrite"],
    predicate: str | None = None,
) -> int:
    """Commit rows.

    Args:
        location: The location of the table.
        table_name: Its name.
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
    commit_id = uuid.uuid4().hex
    properties = CommitProperties(max_commit_retries=0, custom_metadata={_COMMIT_ID: commit_id})
    try:
        # "merge" adds columns that were declared later, and fills those that the program does not declare with NULL.
        write_deltalake(delta, rows, mode=mode, predicate=predicate, schema_mode="merge", commit_properties=properties)
    except (CommitFailedError, OSError):
        # On a network, the answer to a commit may be lost, and its repetition is then refused.
        if commit_id not in (location.read_text(log_entry(table_name, version)) or ""):
            raise
    location.finish_commit(table_name, version)
    return version


def compact_files(location: TablesLocation, table_name: str, delta: DeltaTable) -> None:
    """Merge many small files into few, and delete old files that no reader needs any more."""
    if len(delta.file_uris()) <= _COMPACT_ABOVE_FILES:
        return
    version = delta.version() + 1
    try:
        delta.optimize.compact(commit_properties=_NO_RETRY)
        location.finish_commit(table_name, version)
    except (CommitFailedError, DeltaError) as error:
        # Another process committed meanwhile; compaction is optional, so the next publication retries it.
        logger.info("Compaction of %s is postponed: %s", delta.table_uri, error)
        return
    vacuum_files(location, table_name, delta)


def vacuum_files(location: TablesLocation, table_name: str, delta: DeltaTable) -> None:
    """Delete old files that no reader needs any more, with their checksums."""
    hours = int(_KEEP_OLD_FILES.total_seconds() // 3600)
    try:
        delta.cleanup_metadata()
        delta.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=False)
    except (CommitFailedError, DeltaError) as error:
        logger.info("Vacuum of %s is postponed: %s", delta.table_uri, error)
        return
    location.remove_vacuumed(table_name)


def recordings_condition(recording_ids: Sequence[str]) -> str:
    """SQL of the rows of some recordings."""
    return f"recording_id IN ({', '.join(quote_text(recording_id) for recording_id in recording_ids)})"


def quote_text(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
