"""results.duckdb: the front that people open, built beside and swapped in, never written in place.

It holds views over the current Parquet files of the large tables, the small tables themselves, and a comment on every
table and column. Because the file that people hold open is never touched again, no open client can block the pipeline
and no run can break a query.
"""

import json
import os
import time
from pathlib import Path

import duckdb

from resources.schema import DERIVED_SQL, Table
from resources.storage import Store, disk_errors, one_at_a_time

RESULTS_NAME = "results.duckdb"
_STORAGE_VERSION = "v1.4.0"  # so that DuckDB clients from 1.4 on can open it
_KEEP_OLD_S = 600.0  # while much is being done a new one comes every few seconds; who has one open keeps it
_CATALOG = "published_tables"
_CAMERA_TIMELINE = """
CREATE VIEW camera_timeline AS
SELECT
    camera,
    recording_id,
    started_at_utc,
    ended_at_utc,
    date_diff('microseconds', min(started_at_utc) OVER all_of_it, started_at_utc) / 1e6 AS timeline_start_s,
    lag(recording_id) OVER in_order AS previous_recording_id,
    date_diff('microseconds', lag(ended_at_utc) OVER in_order, started_at_utc) / 1e6 AS gap_s
FROM (
    SELECT *, started_at_utc + to_microseconds((duration_s_from_content * 1e6)::BIGINT) AS ended_at_utc
    FROM recordings
    WHERE started_at_utc IS NOT NULL AND duration_s_from_content IS NOT NULL
)
WINDOW all_of_it AS (PARTITION BY camera), in_order AS (PARTITION BY camera ORDER BY started_at_utc, recording_id)
"""
_CAMERA_TIMELINE_COMMENTS = {
    "": "The recordings of each camera on one time line. Key: recording_id.",
    "camera": "First folder under the watched folder; NULL for files beside the folders",
    "recording_id": "The recording",
    "started_at_utc": "Wall-clock time of its first frame [UTC]",
    "ended_at_utc": "Wall-clock time of its end [UTC]",
    "timeline_start_s": "Where the recording begins on it; add time_s of a frame [s]",
    "gap_s": "From the end of the recording before; negative where they overlap [s]",
    "previous_recording_id": "The recording before it; NULL for the camera's first",
}


def results_path(data_folder: Path) -> Path:
    """Where people find the results: a symbolic link to the newest published file."""
    return data_folder / RESULTS_NAME


def publish(store: Store) -> bool:
    """Make results.duckdb show the tables' current rows.

    Safe to call from several processes at once: they take turns, and each publishes what is newest at its turn.

    Returns:
        Whether there was anything new to publish.

    Raises:
        PipelineError: The data folder is full, read-only or out of reach.
    """
    with disk_errors(store.data_folder), one_at_a_time(store.data_folder, "publish"):
        versions = store.versions()
        if versions == published_versions(store.data_folder):
            return False
        folder = store.data_folder / "published"
        folder.mkdir(exist_ok=True)
        built = folder / f"results-{time.time_ns():x}.duckdb"
        try:
            _build(built, store, versions)
            told = {"data_folder": str(store.data_folder), "versions": versions}
            built.with_suffix(".json").write_text(json.dumps(told))
        except BaseException:
            built.unlink(missing_ok=True)
            raise
        link = store.data_folder / f".{RESULTS_NAME}.next"
        link.unlink(missing_ok=True)
        link.symlink_to(built.relative_to(store.data_folder))
        link.replace(results_path(store.data_folder))
        _remove_old(folder, built)
    for table in store.tables():
        store.compact(table)
    return True


def published_versions(data_folder: Path) -> dict[str, int] | None:
    """The table versions that results.duckdb shows; None while there is none, or it belongs to another place."""
    # Not read from the database itself: whoever has it open for writing locks everybody else out.
    try:
        shown = json.loads(results_path(data_folder).resolve().with_suffix(".json").read_text())
    except FileNotFoundError:
        return None
    if shown["data_folder"] != str(data_folder):
        return None  # the data folder was moved: views hold absolute paths
    versions: dict[str, int] = shown["versions"]
    return versions


def _build(path: Path, store: Store, versions: dict[str, int]) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{_escaped(str(path))}' AS results (STORAGE_VERSION '{_STORAGE_VERSION}')")
        connection.execute("USE results")
        connection.execute("BEGIN")  # or every comment would be written to the disk by itself
        counts = {table.name: _publish_table(connection, table, store) for table in store.tables()}
        counts |= {table.name: _derive(connection, table, query) for table, query in DERIVED_SQL.values()}
        connection.execute(_CAMERA_TIMELINE)
        for column, comment in _CAMERA_TIMELINE_COMMENTS.items():
            of = f"COLUMN camera_timeline.{column}" if column else "VIEW camera_timeline"
            connection.execute(f"COMMENT ON {of} IS '{_escaped(comment)}'")
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
        connection.execute(f"COMMENT ON TABLE {_CATALOG} IS 'What this file shows, and since when.'")
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
        listed = ", ".join(f"'{_escaped(file)}'" for file in files)
        names = ", ".join(column.name for column in table.columns)
        connection.execute(f"CREATE VIEW {table.name} AS SELECT {names} FROM read_parquet([{listed}])")
        kind = "VIEW"
        count = connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0]
    _comment(connection, kind, table)
    return int(count)


def _derive(connection: duckdb.DuckDBPyConnection, table: Table, query: str) -> int:
    """Make a table from those that are published already."""
    connection.execute(f"CREATE TABLE {table.name} AS {query}")
    _comment(connection, "TABLE", table)
    return int(connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0])


def _comment(connection: duckdb.DuckDBPyConnection, kind: str, table: Table) -> None:
    connection.execute(f"COMMENT ON {kind} {table.name} IS '{_escaped(table.comment)}'")
    for column in table.columns:
        connection.execute(f"COMMENT ON COLUMN {table.name}.{column.name} IS '{_escaped(column.comment)}'")


def _remove_old(folder: Path, current: Path) -> None:
    """Delete published files that nobody can still be about to open."""
    for file in folder.glob("results-*.duckdb"):
        if file != current and time.time() - file.stat().st_mtime > _KEEP_OLD_S:
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
            Path(f"{file}.wal").unlink(missing_ok=True)


def _escaped(text: str) -> str:
    return text.replace("'", "''")


def open_results(data_folder: Path) -> duckdb.DuckDBPyConnection:
    """Open the newest results for reading.

    Raises:
        FileNotFoundError: Nothing has been published in this data folder yet.
    """
    path = results_path(data_folder)
    if not path.exists():
        raise FileNotFoundError(f"There are no results in {data_folder} yet: process some recordings first.")
    return duckdb.connect(os.path.realpath(path), read_only=True)
