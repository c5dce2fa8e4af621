"""results.duckdb: the database that people query, made as a new file and swapped in, never written in place.

It contains views of the current Parquet files of the large tables, the small tables themselves, views across tables,
and a comment on every table and column. Wall-clock times are columns of the views, computed from recording_clocks. A
published file is never changed, so no open client blocks the pipeline, and no run breaks a query. Where only rows of
some tables have changed, the new file is a copy of the last one with these tables replaced.
"""

import functools
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from resources.config.settings import Settings, settings_version
from resources.errors import PipelineError
from resources.schema.columns import Table
from resources.schema.correction_tables import CORRECTED_TRACKS
from resources.schema.recording_tables import RECORDING_CLOCKS, RECORDING_CONTENTS, RECORDINGS, SOURCE_FILES
from resources.schema.table_registry import TABLES
from resources.schema.views import VIEWS, macro_between, macro_similar
from resources.start_times import clock_version
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors, disk_problem
from resources.storage.folder_access import read_only_mode
from resources.storage.locks import exclusive_lock
from resources.storage.recording_clocks import update_recording_clocks
from resources.storage.results_tables import comment, create_macro, escape_quotes, publish_table, publish_view

RESULTS_NAME = "results.duckdb"
_STORAGE_VERSION = "v1.4.0"  # DuckDB clients from 1.4 on can open the file
_KEEP_OLD_S = 600.0  # under load there is a new file every few seconds; a client that has one open keeps it
_FIRST_TABLES = (SOURCE_FILES.name, RECORDINGS.name, RECORDING_CLOCKS.name)  # all others need the last of them
_SIZE = "database_bytes"
CATALOG = "published_tables"
"""Name of the table that lists all others."""
_CONTENTS = {"data_folder", "versions", "clock_version", "declaration_version", "has_corrections", _SIZE}
_CATALOG_COMMENTS = {
    "": "One row per table or view: grain, key, row count, version and publication time. Key: table_name.",
    "table_name": "Name of the table or view",
    "grain": "Meaning of one row",
    "key": "Columns that identify a row",
    "row_count": "Number of rows; NULL for views that are computed when queried",
    "delta_version": "Version of the Delta table; NULL for views across tables",
    "published_at_utc": "Time of publication [UTC]",
}


def results_path(data_folder: Path) -> Path:
    """Path of results.duckdb, a symbolic link to the newest published file."""
    return data_folder / RESULTS_NAME


def publish(store: Store, settings: Settings) -> bool:
    """Publish the current rows of all tables in results.duckdb, with the wall clock of the settings.

    Safe to call from several processes at once: a lock makes them take turns, and each publishes the newest rows.

    Args:
        store: The tables.
        settings: Decide the wall clock of recordings.

    Returns:
        Whether anything has changed since the last publication: rows, the wall clock, or the declared tables.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible, or a table is damaged.
    """
    with disk_errors(store.data_folder), explained_errors(store), exclusive_lock(store.data_folder, "publish"):
        versions = store.versions()
        contents = {
            "data_folder": str(store.data_folder),
            "versions": versions,
            "clock_version": clock_version(settings),
            "declaration_version": _declaration_version(),
            "has_corrections": CORRECTED_TRACKS.name in versions and store.row_count(CORRECTED_TRACKS) > 0,
        }
        published = _read_contents(store.data_folder)
        if published is not None and contents == {name: published[name] for name in contents}:
            return False
        store.sync()  # so that the commits whose versions are published are on the disk
        # The version of the clocks alone is read again: rows that others have committed since then are published next.
        if _have_clocks_changed(contents, published) and update_recording_clocks(store, settings):
            versions[RECORDING_CLOCKS.name] = store.versions()[RECORDING_CLOCKS.name]
        folder = store.data_folder / "published"
        folder.mkdir(exist_ok=True)
        mode = read_only_mode(store.data_folder)
        database = folder / f"results-{time.time_ns():x}.duckdb"
        changed = _changed_tables(contents, published, results_path(store.data_folder).resolve())
        changed_tables = [table for table in store.tables() if changed is None or table.name in changed]
        try:
            if changed is None:
                _build(database, store, contents)
            else:
                shutil.copyfile(results_path(store.data_folder), database)
                _replace_tables(database, store, versions, changed_tables)
            database.chmod(mode)
            database.with_suffix(".json").write_text(json.dumps(contents | {_SIZE: database.stat().st_size}))
            database.with_suffix(".json").chmod(mode)
        except BaseException:
            database.unlink(missing_ok=True)
            database.with_suffix(".json").unlink(missing_ok=True)
            raise
        link = store.data_folder / f".{RESULTS_NAME}.next"
        link.unlink(missing_ok=True)
        link.symlink_to(database.relative_to(store.data_folder))
        link.replace(results_path(store.data_folder))
        _remove_old_files(folder, database)
    for table in changed_tables:
        store.compact(table)
    return True


def publication_age_s(data_folder: Path) -> float:
    """Seconds since the last publication by any process; infinite if there is none."""
    try:
        return time.time() - results_path(data_folder).stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def published_versions(data_folder: Path) -> dict[str, int] | None:
    """The Delta version of every table in results.duckdb; None if it is missing or damaged, or its folder was moved."""
    contents = _read_contents(data_folder)
    if contents is None or contents["data_folder"] != str(data_folder):
        return None  # the views contain absolute paths in the previous data folder
    versions: dict[str, int] = contents["versions"]
    return versions


def publish_if_unusable(store: Store, settings: Settings) -> bool:
    """Publish results.duckdb if it is missing or damaged, or if it has the rows of another data folder.

    Args:
        store: The tables; without any table nothing is published.
        settings: Decide the wall clock of recordings.

    Returns:
        Whether it was published.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible, or a table is damaged.
    """
    if results_path(store.data_folder).is_dir():
        raise PipelineError(f"{results_path(store.data_folder)} is a folder, not the published results: move it away.")
    if published_versions(store.data_folder) is None and store.has_tables():
        store.check_format()
        return publish(store, settings)
    return False


def _read_contents(data_folder: Path) -> dict[str, Any] | None:
    """What results.duckdb was built from; None if it does not exist or is damaged."""
    # This is in a JSON file: a client that has the database open for writing locks out all others.
    database = results_path(data_folder).resolve()
    try:
        contents: dict[str, Any] = json.loads(database.with_suffix(".json").read_text())
        is_whole = contents.keys() >= _CONTENTS and contents[_SIZE] == database.stat().st_size
    except (OSError, ValueError, AttributeError):
        return None
    return contents if is_whole else None


@contextmanager
def explained_errors(store: Store) -> Iterator[None]:
    """Replace the error of a library that cannot read a table by a sentence, if the table is damaged.

    Raises:
        PipelineError: A table is damaged.
    """
    try:
        yield
    except (OSError, duckdb.IOException, duckdb.InvalidInputException, pa.ArrowException) as error:
        if disk_problem(error, store.data_folder) is None:
            for table in store.tables():
                store.check_readable(table)
        raise


@functools.cache
def _declaration_version() -> str:
    """Hash of the declared tables and views: a new program version publishes its views without any new rows."""
    return settings_version(repr(TABLES), repr(VIEWS))


def _have_clocks_changed(contents: dict[str, Any], published: dict[str, Any] | None) -> bool:
    decisive = ("clock_version", "declaration_version")  # a new program version may compute more columns
    if published is None or any(published[name] != contents[name] for name in decisive):
        return True
    tables = (RECORDINGS, RECORDING_CONTENTS, RECORDING_CLOCKS)
    return any(published["versions"].get(table.name) != contents["versions"].get(table.name) for table in tables)


def _changed_tables(contents: dict[str, Any], published: dict[str, Any] | None, path: Path) -> set[str] | None:
    """Names of tables whose rows alone are to be replaced in a copy of the published file; None if more has changed.

    Args:
        contents: What the new file has.
        published: What the published file has, if it is whole.
        path: The published file.
    """
    if published is None or any(
        contents[name] != published[name] for name in contents if name not in ("versions", _SIZE)
    ):
        return None
    old, new = published["versions"], contents["versions"]
    changed = {name for name in new if new[name] != old.get(name)}
    # A client may have opened the file for writing.
    is_written = path.stat().st_mtime_ns > path.with_suffix(".json").stat().st_mtime_ns or Path(f"{path}.wal").exists()
    if old.keys() != new.keys() or changed.intersection(_FIRST_TABLES) or is_written:
        return None
    return changed


@contextmanager
def _results_transaction(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """One transaction in the file: otherwise every comment would be a write to the disk of its own."""
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{escape_quotes(str(path))}' AS results (STORAGE_VERSION '{_STORAGE_VERSION}')")
        connection.execute("USE results")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
        connection.execute("USE memory")
        connection.execute("DETACH results")


def _replace_tables(path: Path, store: Store, versions: dict[str, int], tables: Collection[Table]) -> None:
    with _results_transaction(path) as connection:
        views = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
        for table in tables:
            name = table.published_name or table.name
            connection.execute(f"DROP {'VIEW' if name in views else 'TABLE'} {name}")
            rows = publish_table(connection, table, store)
            create_macro(connection, macro_between(table, rows.columns, rows.source))
            create_macro(connection, macro_similar(table))
            _, *values = _catalog_row(table, rows.row_count, versions[table.name])  # a stage may declare another grain
            connection.execute(
                f"UPDATE {CATALOG} SET grain = ?, key = ?, row_count = ?, delta_version = ? WHERE table_name = ?",
                [*values, name],
            )
        connection.execute(f"UPDATE {CATALOG} SET published_at_utc = now()")


def _build(path: Path, store: Store, contents: Mapping[str, Any]) -> None:
    versions = contents["versions"]
    with _results_transaction(path) as connection:
        tables = store.tables()
        tables.sort(key=lambda table: _FIRST_TABLES.index(table.name) if table.name in _FIRST_TABLES else 3)
        published = [publish_table(connection, table, store) for table in tables]
        catalog = [_catalog_row(rows.table, rows.row_count, versions.get(rows.table.name)) for rows in published]
        for view in VIEWS:
            publish_view(connection, view, has_corrections=contents["has_corrections"])
        catalog += [_catalog_row(view.table, None, None) for view in VIEWS]
        catalog.append((CATALOG, "One row per table or view of the results.", "table_name", len(catalog) + 1, None))
        for rows in published:
            create_macro(connection, macro_between(rows.table, rows.columns, rows.source))
            create_macro(connection, macro_similar(rows.table))
        for view in VIEWS:
            create_macro(connection, macro_between(view.table, "stored_rows.*", view.table.name))
        connection.execute(
            f"CREATE TABLE {CATALOG} (table_name TEXT, grain TEXT, key TEXT, row_count BIGINT, delta_version BIGINT, "
            "published_at_utc TIMESTAMPTZ DEFAULT now())"
        )
        names = "table_name, grain, key, row_count, delta_version"
        connection.executemany(f"INSERT INTO {CATALOG} ({names}) VALUES (?, ?, ?, ?, ?)", catalog)
        comment(connection, "TABLE", CATALOG, _CATALOG_COMMENTS)


def _catalog_row(table: Table, row_count: int | None, version: int | None) -> tuple[object, ...]:
    return table.published_name or table.name, table.grain, ", ".join(table.key), row_count, version


def remove_old_publications(data_folder: Path) -> None:
    """Delete all published files except the newest at once, so that nothing in the data folder has their rows.

    Raises:
        PipelineError: The data folder is read-only or not accessible.
    """
    with disk_errors(data_folder), exclusive_lock(data_folder, "publish"):
        _remove_old_files(data_folder / "published", results_path(data_folder).resolve(), keep_s=float("-inf"))


def _remove_old_files(folder: Path, current: Path, keep_s: float = _KEEP_OLD_S) -> None:
    """Delete published files that are too old for a client to be about to open them."""
    for file in folder.glob("results-*.duckdb"):
        if file != current and time.time() - file.stat().st_mtime > keep_s:
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
            Path(f"{file}.wal").unlink(missing_ok=True)


def open_results(data_folder: Path) -> duckdb.DuckDBPyConnection:
    """Open the newest results for reading.

    Raises:
        PipelineError: The data folder has no results.duckdb yet, or another program has it open for writing.
    """
    path = results_path(data_folder)
    if not path.exists():
        raise PipelineError(
            f"The data folder {data_folder} has no results: process some recordings first, or name the folder that has "
            "them with --data."
        )
    try:
        return duckdb.connect(os.path.realpath(path), read_only=True)
    except duckdb.IOException as error:
        if "Could not set lock" not in str(error):
            raise
        holder = re.search(r"held in (.*? \(PID \d+\))", str(error))
        raise PipelineError(
            f"The results {path} are open for writing in {holder[1] if holder else 'another program'}: close them "
            "there, or open them there with read_only=True."
        ) from error
