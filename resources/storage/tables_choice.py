"""Which location the tables of a data folder have: recorded in the data folder, decided once by the setting tables_url.

So every command finds the tables, and nothing is computed again because a setting was lost or mistyped.
"""

import uuid
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from resources.errors import PipelineError
from resources.storage.bucket_problems import URL_FILE_NAME, bucket_problem, read_tables_url
from resources.storage.bucket_tables import BucketTables
from resources.storage.format_version import check_format
from resources.storage.tables_location import TablesLocation

_FOLDER_NAME = "tables"
_CHECK_PATIENCE_S = 3.0
_NO_RETRY = CommitProperties(max_commit_retries=0)


def tables_location(data_folder: Path) -> TablesLocation:
    """The location of the tables of a data folder."""
    folder, url = data_folder / _FOLDER_NAME, read_tables_url(data_folder)
    return BucketTables(folder, url) if url else TablesLocation(folder)


def check_tables_url(data_folder: Path, url: str | None) -> None:
    """Check that the setting names the tables of a data folder, and that a bucket can be used.

    Args:
        data_folder: The data folder.
        url: The setting `tables_url`.

    Raises:
        PipelineError: The tables are elsewhere, or have another format; or the bucket, the credentials or the endpoint
            cannot be used.
    """
    folder, recorded_url = data_folder / _FOLDER_NAME, read_tables_url(data_folder)
    if recorded_url not in (None, url):
        raise PipelineError(
            f"tables_url is {url or 'not set'}, but the tables of the data folder {data_folder} are at {recorded_url}: "
            f"set it to that; or copy them to {url or folder}, and delete the file {data_folder / URL_FILE_NAME}."
        )
    if url is None:
        return
    if TablesLocation(folder).has_tables():
        raise PipelineError(
            f"tables_url is {url}, but the tables of the data folder {data_folder} are in {folder}: copy its content "
            "to that address and move the folder away, or remove the setting."
        )
    tables = BucketTables(folder, url, _CHECK_PATIENCE_S)
    try:
        check_format(tables)
        if recorded_url is None:
            _check_conditional_put(tables)
    except (OSError, CommitFailedError) as error:
        if sentence := bucket_problem(error, url):
            raise PipelineError(sentence) from error
        raise


def record_tables_url(data_folder: Path, url: str | None) -> None:
    """Record where the tables of a data folder are; see `check_tables_url`, which is called first."""
    if url is not None and read_tables_url(data_folder) is None:
        TablesLocation(data_folder).write_text(URL_FILE_NAME, f"{url}\n")


def _check_conditional_put(tables: BucketTables) -> None:
    """Check that of two commits with one number the later is refused, and that objects can be written and deleted.

    Raises:
        PipelineError: The storage replaces objects although it must not.
    """
    name = f"write-probe-{uuid.uuid4().hex}"
    rows = pa.table({"number": [1]})
    try:
        write_deltalake(tables.uri(name), rows, storage_options=tables.storage_options)
        first, second = tables.open(name), tables.open(name)
        write_deltalake(first, rows, mode="append", commit_properties=_NO_RETRY)
        try:
            write_deltalake(second, rows, mode="append", commit_properties=_NO_RETRY)
        except CommitFailedError:
            return
    finally:
        tables.delete_table(name)
    raise PipelineError(
        f"tables_url: the storage of {tables.address} ignores If-None-Match, so that two writers would lose rows: use "
        "one that has conditional writes."
    )
