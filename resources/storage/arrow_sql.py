"""SQL over Arrow tables in memory."""

import functools
from collections.abc import Mapping

import duckdb
import pyarrow as pa
from pyarrow.dataset import Dataset


def select(
    query: str, tables: Mapping[str, pa.Table | Dataset], parameters: Mapping[str, object] | None = None
) -> pa.Table:
    """Run one query over Arrow tables.

    Args:
        query: SQL in DuckDB's dialect.
        tables: The tables, by their names in the query; only the needed columns and rows of a dataset are read.
        parameters: Values of the query's `$name` parameters.

    Returns:
        The result.
    """
    with _database().cursor() as connection:  # a separate connection, so that table names of threads do not collide
        for name, rows in tables.items():
            connection.register(name, rows)
        return connection.sql(query, params=dict(parameters or {})).to_arrow_table()


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """The in-memory database of this process: opening one takes longer than a query over a recording's rows."""
    return duckdb.connect()
