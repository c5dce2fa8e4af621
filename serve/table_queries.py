"""Queries on one published table: filters, order and pages, with every value as a parameter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from resources.schema.table_registry import TABLES, find_table
from resources.schema.views import VIEWS
from serve.problems import ProblemError

_CONDITION = re.compile(r"([A-Za-z_]\w*)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
_OPERATORS = {"!=": "IS DISTINCT FROM", "=": "="}
_NULL = "NULL"
_MAX_CONDITIONS = 50
_COLUMNS_SQL = """
SELECT column_name, data_type, comment FROM duckdb_columns()
WHERE database_name = current_database() AND table_name = ? ORDER BY column_index
"""


@dataclass(frozen=True)
class TableQuery:
    """A query on a published table.

    Attributes:
        sql: The statement.
        values: Its parameters.
    """

    sql: str
    values: Sequence[Any]


def list_tables(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """List the published tables and views: name, grain, key and row count (NULL for views)."""
    rows = cursor.execute("SELECT table_name, grain, key, row_count FROM published_tables ORDER BY table_name")
    return [dict(zip(("table_name", "grain", "key", "row_count"), row, strict=True)) for row in rows.fetchall()]


def describe_table(cursor: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    """Describe the columns of a published table: name, type, meaning.

    Raises:
        ProblemError: There is no such table.
    """
    is_published = cursor.execute("SELECT 1 FROM published_tables WHERE table_name = ?", [name]).fetchone()
    if is_published is None:
        raise ProblemError(404, f"Table {name!a} does not exist: GET /api/tables lists all.")
    rows = cursor.execute(_COLUMNS_SQL, [name]).fetchall()
    return [dict(zip(("name", "type", "meaning"), row, strict=True)) for row in rows]


def build_query(
    name: str,
    columns: Sequence[dict[str, Any]],
    *,
    selected: Sequence[str] = (),
    conditions: Sequence[str] = (),
    limit: int | None = None,
    offset: int = 0,
) -> TableQuery:
    """Build the query for the rows of a published table, ordered by its key.

    Args:
        name: Name of the table.
        columns: All of its columns.
        selected: Names of the columns to return; all if empty.
        conditions: Such as `class_name=car` or `time_s>=10`; all of them apply.
        limit: Number of rows at most; None means all.
        offset: Number of rows to leave out first.

    Raises:
        ProblemError: A column does not exist, or a condition is malformed.
    """
    types = {column["name"]: column["type"] for column in columns}
    for column in selected:
        _check_column(name, column, types)
    if len(conditions) > _MAX_CONDITIONS:
        raise ProblemError(
            422, f"query where: {len(conditions)} conditions are too many: give {_MAX_CONDITIONS} at most."
        )
    parsed = [_parse_condition(name, condition, types) for condition in conditions]
    values = [value for _, condition_values in parsed for value in condition_values]
    where = f" WHERE {' AND '.join(sql for sql, _ in parsed)}" if parsed else ""
    key = [column for column in _key_of(name) if column in types]
    order = f" ORDER BY {', '.join(map(_quote, key))}" if key else ""
    paging = (f" LIMIT {limit}" if limit is not None else "") + (f" OFFSET {offset}" if offset else "")
    names = ", ".join(map(_quote, selected or types))
    return TableQuery(f"SELECT {names} FROM {_quote(name)}{where}{order}{paging}", values)


def _parse_condition(table: str, text: str, types: dict[str, str]) -> tuple[str, list[Any]]:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ProblemError(422, f"Condition {text[:100]!a} is malformed: write column=value, or use != < <= > >=.")
    column, operator, value = match.groups()
    _check_column(table, column, types)
    if value == _NULL and operator in ("=", "!="):
        return f"{_quote(column)} IS {'NOT ' if operator == '!=' else ''}NULL", []
    return f"{_quote(column)} {_OPERATORS.get(operator, operator)} CAST(? AS {types[column]})", [value]


def _check_column(table: str, column: str, types: dict[str, str]) -> None:
    if column not in types:
        raise ProblemError(
            422, f"Table {table} has no column {column[:100]!a}: GET /api/tables/{table}/columns lists all."
        )


def _key_of(name: str) -> Sequence[str]:
    declared = {table.published_name or table.name: table for table in TABLES.values()}
    declared |= {view.table.name: view.table for view in VIEWS}
    table = declared.get(name) or find_table(name)
    return table.key if table else ()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
