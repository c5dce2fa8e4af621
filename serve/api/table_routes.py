"""Rows of the published tables: GET /api/tables and GET /api/recordings/{recording_id}/tables/{table}."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any

import duckdb
import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from serve.app_state import AppState, State
from serve.problems import PROBLEM_RESPONSES, ProblemError
from serve.row_formats import ROW_RESPONSES, RowFormat, json_rows, read_batches, stream_rows
from serve.table_queries import build_query, describe_table, list_tables

table_router = APIRouter(tags=["tables"], responses=PROBLEM_RESPONSES)
DEFAULT_LIMIT, MAX_JSON_ROWS, _MAX_LIMIT = 1000, 10_000, 100_000_000
_ERROR_PREFIX = re.compile(r"^[A-Za-z ]+Error: ")

Columns = Annotated[str, Query(description="Names of the columns to return, separated by commas; all if empty.")]
Conditions = Annotated[
    list[str],
    Query(description="Condition such as class_name=car, time_s>=10 or error!=NULL; repeat it, and all of them apply."),
]
Format = Annotated[RowFormat, Query(alias="format", description="Format of the rows.")]
Limit = Annotated[
    int | None,
    Query(ge=1, le=_MAX_LIMIT, description="Rows at most; by default 1,000 in JSON (up to 10,000) and else all."),
]
Offset = Annotated[int, Query(ge=0, le=2**53, description="Rows to leave out first, ordered by the table's key.")]


@table_router.get("/api/tables")
def read_tables(state: State) -> dict[str, Any]:
    """List the tables of the results, with the meaning of a row, the key and the number of rows."""
    with state.results.cursor() as cursor:
        return {"tables": list_tables(cursor)}


@table_router.get("/api/tables/{table}/columns")
def read_columns(table: str, state: State) -> dict[str, Any]:
    """List the columns of a table with type, meaning and unit."""
    with state.results.cursor() as cursor:
        return {"table": table, "columns": describe_table(cursor, table)}


@table_router.get("/api/tables/{table}", responses=ROW_RESPONSES, response_class=Response)
def read_rows(
    table: str,
    state: State,
    request: Request,
    columns: Columns = "",
    where: Conditions = [],  # noqa: B006 - FastAPI copies defaults
    row_format: Format = "json",
    limit: Limit = None,
    offset: Offset = 0,
) -> Response:
    """Read rows of a table, of all recordings."""
    return _respond(state, request, table, columns, where, row_format, limit, offset)


@table_router.get("/api/recordings/{recording_id}/tables/{table}", responses=ROW_RESPONSES, response_class=Response)
def read_rows_of_recording(
    recording_id: str,
    table: str,
    state: State,
    request: Request,
    columns: Columns = "",
    where: Conditions = [],  # noqa: B006 - FastAPI copies defaults
    row_format: Format = "json",
    limit: Limit = None,
    offset: Offset = 0,
) -> Response:
    """Read rows of a table, of one recording."""
    with state.results.cursor() as cursor:
        if not any(column["name"] == "recording_id" for column in describe_table(cursor, table)):
            raise ProblemError(404, f"Table {table} has no rows of recordings: read it at /api/tables/{table}.")
        known = cursor.execute("SELECT 1 FROM recordings WHERE recording_id = ?", [recording_id]).fetchone()
    if known is None:
        raise ProblemError(404, f"Recording {recording_id[:200]!a} has no results: GET /api/recordings lists all.")
    where = [*where, f"recording_id={recording_id}"]
    return _respond(state, request, table, columns, where, row_format, limit, offset)


def _respond(
    state: AppState,
    request: Request,
    table: str,
    columns: str,
    conditions: list[str],
    row_format: RowFormat,
    limit: int | None,
    offset: int,
) -> Response:
    if row_format == "json":
        limit = DEFAULT_LIMIT if limit is None else limit
        if limit > MAX_JSON_ROWS:
            raise ProblemError(
                422, f"query limit: JSON has at most {MAX_JSON_ROWS:,} rows: use offset, or another format."
            )
    selected = [name.strip() for name in columns.split(",") if name.strip()]
    with ExitStack() as stack:
        cursor = stack.enter_context(state.results.cursor())
        described = describe_table(cursor, table)
        # One more row tells whether there is a next page.
        row_limit = limit + 1 if limit is not None and row_format == "json" else limit
        query = build_query(table, described, selected=selected, conditions=conditions, limit=row_limit, offset=offset)
        try:
            reader = read_batches(cursor, query.sql, list(query.values))
            first = next(iter(reader), None)  # an invalid value is found here, before the response begins
        except duckdb.Error as error:
            raise ProblemError(422, f"query where: {_sentence(error)}") from error
        if row_format == "json":
            assert limit is not None
            rows = json_rows(_chain(first, reader))
            has_more = len(rows) > limit
            following = str(request.url.include_query_params(offset=offset + limit, limit=limit)) if has_more else None
            return JSONResponse({"table": table, "rows": rows[:limit], "next": following})
        kept = stack.pop_all()
    return stream_rows(reader.schema, _closing(_chain(first, reader), kept), row_format, table)


def _chain(first: pa.RecordBatch | None, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    if first is not None:
        yield first
        yield from reader


def _closing(batches: Iterator[pa.RecordBatch], resources: ExitStack) -> Iterator[pa.RecordBatch]:
    """Yield batches, and close what they need at their end or with an aborted download."""
    with resources:
        yield from batches


def _sentence(error: duckdb.Error) -> str:
    """The first line of an error of DuckDB as a sentence."""
    text = _ERROR_PREFIX.sub("", str(error).strip().splitlines()[0])
    return text if text.endswith((".", "!", "?")) else f"{text}."
