"""Tables and views of results.duckdb: rows of one Delta table, a view across tables, their macros and comments."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import duckdb

from resources.schema.columns import Table, View
from resources.schema.recording_tables import RECORDING_CLOCKS
from resources.schema.views import CAMERAS_SQL, Macro
from resources.storage.delta_store import Store
from resources.storage.parquet_columns import find_missing_columns


@dataclass(frozen=True)
class PublishedRows:
    """The rows of a Delta table as results.duckdb has them.

    Attributes:
        table: The table.
        row_count: Number of rows.
        columns: SQL of its columns, given the start of the recording.
        source: SQL of its stored rows.
    """

    table: Table
    row_count: int
    columns: str
    source: str


def publish_table(connection: duckdb.DuckDBPyConnection, table: Table, store: Store) -> PublishedRows:
    """Create the table or the view with the rows of one Delta table, and its comments."""
    name = table.published_name or table.name
    files = None if table.is_small else store.file_statistics(table)
    has_clock = table.stored_columns != table.columns
    joined_clock = "LEFT JOIN recording_clocks AS clock USING (recording_id)" if has_clock else ""
    if table.name == RECORDING_CLOCKS.name:  # a recording without a clock has a camera all the same
        joined_clock = f"RIGHT JOIN ({CAMERAS_SQL}) AS clock USING (recording_id)"
    if files is None or files.num_rows == 0:
        rows = store.read(table)
        connection.register("stored_rows", rows)
        columns, order = ", ".join(_column_sql(table)), ", ".join(f'"{name}"' for name in table.key)
        connection.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM stored_rows {joined_clock} ORDER BY {order}")
        connection.unregister("stored_rows")
        kind, source, count = "TABLE", name, rows.num_rows
    else:
        missing = find_missing_columns(table, files)
        file_list = ", ".join(f"'{escape_quotes(file)}'" for file in sorted(files["path"].to_pylist()))
        # By default the first file decides the columns; otherwise every query opens all files before it starts.
        options = ", union_by_name = true" if missing.in_some_files else ""
        kind, source, count = "VIEW", f"read_parquet([{file_list}]{options})", store.row_count(table)
        replacements = _null_columns(connection, table, missing.in_all_files)
        newest_first = files.sort_by([("modification_time", "descending")])["path"].to_pylist()
        columns = ", ".join(_column_sql(table, replacements | _array_columns(connection, table, newest_first)))
        connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {source} AS stored_rows {joined_clock}")
    comment(connection, kind, name, _comments(table))
    return PublishedRows(table, count, columns, source)


def publish_view(connection: duckdb.DuckDBPyConnection, view: View, *, has_corrections: bool) -> None:
    """Create a view across tables, and its comments."""
    query = view.query if has_corrections else view.query_without_corrections or view.query
    connection.execute(f"CREATE VIEW {view.table.name} AS {query}")
    comment(connection, "VIEW", view.table.name, _comments(view.table))


def create_macro(connection: duckdb.DuckDBPyConnection, macro: Macro | None) -> None:
    """Create the macro for the rows of a camera between two times, if the table has wall-clock times."""
    if macro is not None:
        connection.execute(f"CREATE OR REPLACE MACRO {macro.name}{macro.definition}")
        connection.execute(f"COMMENT ON MACRO TABLE {macro.name} IS '{escape_quotes(macro.comment)}'")


def _null_columns(connection: duckdb.DuckDBPyConnection, table: Table, column_names: Collection[str]) -> dict[str, str]:
    """SQL of columns that are NULL in every row, by column name."""
    if not column_names:
        return {}
    connection.register("no_rows", table.empty)
    types = connection.execute("SELECT column_name, column_type FROM (DESCRIBE no_rows)").fetchall()
    connection.unregister("no_rows")
    return {name: f"NULL::{kind} AS {name}" for name, kind in types if name in column_names}


def _array_columns(connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence[str]) -> dict[str, str]:
    """SQL of vectors as arrays, by column name; Parquet has lists. A vector of another length is NULL.

    Args:
        connection: Any connection.
        table: The table.
        files: Its Parquet files, newest first: the first one with a vector has the length of the model in use.
    """
    arrays = {}
    for column in table.stored_columns:
        if column.is_vector:
            query = f"SELECT len({column.name}) FROM read_parquet(?) WHERE {column.name} IS NOT NULL LIMIT 1"
            lengths = (connection.execute(query, [file]).fetchone() for file in files)
            length = next((row[0] for row in lengths if row), 1)
            arrays[column.name] = f"TRY_CAST(stored_rows.{column.name} AS FLOAT[{length}]) AS {column.name}"
    return arrays


def _column_sql(table: Table, replacements: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The columns of a table in SQL, in the declared order.

    Args:
        table: The table.
        replacements: SQL of stored columns that no file has yet, because they were declared later, and of vectors, by
            column name.
    """
    return [
        f"{column.derived_sql} AS {column.name}"
        if column.derived_sql
        else replacements.get(
            column.name, column.name if column.name == "recording_id" else f"stored_rows.{column.name}"
        )
        for column in table.columns
    ]


def _comments(table: Table) -> dict[str, str]:
    """Comments by column name; that of the table itself has an empty name."""
    return {"": table.comment} | {column.name: column.comment for column in table.columns}


def comment(connection: duckdb.DuckDBPyConnection, kind: str, name: str, comments: Mapping[str, str]) -> None:
    """Comment a table, view or macro, and its columns; the comment of the thing itself has an empty name."""
    targets = {f"COLUMN {name}.{column}" if column else f"{kind} {name}": text for column, text in comments.items()}
    connection.execute(";".join(f"COMMENT ON {target} IS '{escape_quotes(text)}'" for target, text in targets.items()))


def escape_quotes(text: str) -> str:
    """Text for a quoted string of SQL."""
    return text.replace("'", "''")
