"""results.duckdb: the database that people query, built as a new file and swapped in, never written in place.

It contains views of the current Parquet files of the large tables, the small tables themselves, and a comment on every
table and column. A published file is never changed, so no open client blocks the pipeline, and no run breaks a query.
"""

import json
import os
import time
from pathlib import Path

import duckdb

from resources.schema.columns import Table
from resources.schema.views import CAMERA_TIMELINE, CAMERA_TIMELINE_COMMENTS, DERIVED_SQL
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.locks import exclusive_lock

RESULTS_NAME = "results.duckdb"
_STORAGE_VERSION = "v1.4.0"  # DuckDB clients from 1.4 on can open the file
_KEEP_OLD_S = 600.0  # under load there is a new file every few seconds; a client that has one open keeps it
_CATALOG = "published_tables"


def results_path(data_folder: Path) -> Path:
    """Path of results.duckdb, a symbolic link to the newest published file."""
    return data_folder / RESULTS_NAME


def publish(store: Store) -> bool:
    """Publish the current rows of all tables in results.duckdb.

    Safe to call from several processes at once: a lock makes them take turns, and each publishes the newest rows.

    Returns:
        Whether there were new commits to publish.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible.
    """
    with disk_errors(store.data_folder), exclusive_lock(store.data_folder, "publish"):
        versions = store.versions()
        if versions == published_versions(store.data_folder):
            return False
        folder = store.data_folder / "published"
        folder.mkdir(exist_ok=True)
        database = folder / f"results-{time.time_ns():x}.duckdb"
        try:
            _build(database, store, versions)
            contents = {"data_folder": str(store.data_folder), "versions": versions}
            database.with_suffix(".json").write_text(json.dumps(contents))
        except BaseException:
            database.unlink(missing_ok=True)
            raise
        link = store.data_folder / f".{RESULTS_NAME}.next"
        link.unlink(missing_ok=True)
        link.symlink_to(database.relative_to(store.data_folder))
        link.replace(results_path(store.data_folder))
        _remove_old_files(folder, database)
    for table in store.tables():
        store.compact(table)
    return True


def published_versions(data_folder: Path) -> dict[str, int] | None:
    """The Delta version of every table in results.duckdb; None if it does not exist or the data folder was moved."""
    # The versions are in a JSON file: a client that has the database open for writing locks out all others.
    try:
        contents = json.loads(results_path(data_folder).resolve().with_suffix(".json").read_text())
    except FileNotFoundError:
        return None
    if contents["data_folder"] != str(data_folder):
        return None  # the views contain absolute paths in the previous data folder
    versions: dict[str, int] = contents["versions"]
    return versions


def _build(path: Path, store: Store, versions: dict[str, int]) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{_escape_quotes(str(path))}' AS results (STORAGE_VERSION '{_STORAGE_VERSION}')")
        connection.execute("USE results")
        connection.execute("BEGIN")  # otherwise every comment would be a write to the disk of its own
        counts = {table.name: _publish_table(connection, table, store) for table in store.tables()}
        counts |= {table.name: _derive(connection, table, query) for table, query in DERIVED_SQL.values()}
        connection.execute(CAMERA_TIMELINE)
        for column, comment in CAMERA_TIMELINE_COMMENTS.items():
            target = f"COLUMN camera_timeline.{column}" if column else "VIEW camera_timeline"
            connection.execute(f"COMMENT ON {target} IS '{_escape_quotes(comment)}'")
        connection.execute(
            f"CREATE TABLE {_CATALOG} (table_name TEXT, grain TEXT, key TEXT, row_count BIGINT, delta_version BIGINT, "
            "published_at_utc TIMESTAMPTZ)"
        )
        for table in (*store.tables(), *(derived for derived, _ in DERIVED_SQL.values())):
            connection.execute(
                f"INSERT INTO {_CATALOG} VALUES (?, ?, ?, ?, ?, now())",
                [
                    table.name,
                    table.grain,
                    ", ".join(table.key),
                    counts[table.name],
                    versions.get(table.name),
                ],
            )
        connection.execute(
            f"COMMENT ON TABLE {_CATALOG} IS 'One row per table: grain, key, row count, version and publication time.'"
        )
        connection.execute("COMMIT")
        connection.execute("USE memory")
        connection.execute("DETACH results")


def _publish_table(connection: duckdb.DuckDBPyConnection, table: Table, store: Store) -> int:
    files = store.files(table)
    if table.is_small or not files:
        rows = store.read(table)
        connection.register("current_rows", rows)
        connection.execute(f"CREATE TABLE {table.name} AS SELECT * FROM current_rows ORDER BY {', '.join(table.key)}")
        connection.unregister("current_rows")
        kind, count = "TABLE", rows.num_rows
    else:
        file_list = ", ".join(f"'{_escape_quotes(file)}'" for file in files)
        names = ", ".join(column.name for column in table.columns)
        connection.execute(f"CREATE VIEW {table.name} AS SELECT {names} FROM read_parquet([{file_list}])")
        kind = "VIEW"
        count = connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0]
    _comment(connection, kind, table)
    return int(count)


def _derive(connection: duckdb.DuckDBPyConnection, table: Table, query: str) -> int:
    """Create a table from those already in the database."""
    connection.execute(f"CREATE TABLE {table.name} AS {query}")
    _comment(connection, "TABLE", table)
    return int(connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0])


def _comment(connection: duckdb.DuckDBPyConnection, kind: str, table: Table) -> None:
    connection.execute(f"COMMENT ON {kind} {table.name} IS '{_escape_quotes(table.comment)}'")
    for column in table.columns:
        connection.execute(f"COMMENT ON COLUMN {table.name}.{column.name} IS '{_escape_quotes(column.comment)}'")


def _remove_old_files(folder: Path, current: Path) -> None:
    """Delete published files that are too old for a client to be about to open them."""
    for file in folder.glob("results-*.duckdb"):
        if file != current and time.time() - file.stat().st_mtime > _KEEP_OLD_S:
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
            Path(f"{file}.wal").unlink(missing_ok=True)


def _escape_quotes(text: str) -> str:
    return text.replace("'", "''")


def open_results(data_folder: Path) -> duckdb.DuckDBPyConnection:
    """Open the newest results for reading.

    Raises:
        FileNotFoundError: The data folder has no results.duckdb yet.
    """
    path = results_path(data_folder)
    if not path.exists():
        raise FileNotFoundError(f"The data folder {data_folder} has no results yet: process some recordings first.")
    return duckdb.connect(os.path.realpath(path), read_only=True)
