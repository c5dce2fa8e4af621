"""SQL over rows in memory."""

import functools
from collections.abc import Mapping

import duckdb
import pyarrow as pa
from pyarrow.dataset import Dataset


def select(
    query: str, tables: Mapping[str, pa.Table | Dataset], parameters: Mapping[str, object] | None = None
) -> pa.Table:
    """The answer to one query over Arrow tables.

    Args:
        query: SQL as DuckDB speaks it.
        tables: The tables by the names that the query gives them; of a dataset only what it needs is read.
        parameters: Values of the query's `$name` parameters.
    """
    with _database().cursor() as connection:  # a connection of its own, with names of its own
        for name, rows in tables.items():
            connection.register(name, rows)
        return connection.sql(query, params=dict(parameters or {})).to_arrow_table()


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """One database in memory per process: opening one costs more than a query over a recording's rows."""
    return duckdb.connect()
