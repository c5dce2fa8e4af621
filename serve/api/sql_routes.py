"""SQL on the published results: POST /api/sql."""

from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from serve.app_state import State
from serve.problems import PROBLEM_RESPONSES, ProblemError
from serve.row_formats import ROW_RESPONSES, RowFormat, json_rows, stream_rows
from serve.sql_runner import MAX_QUERY_LENGTH, MAX_ROWS

sql_router = APIRouter(tags=["tables"], responses=PROBLEM_RESPONSES)


class SqlQuery(BaseModel):
    """A query on the results."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY_LENGTH,
        description="Exactly one SELECT in DuckDB's dialect.",
        examples=["SELECT class_name, count(*) AS objects FROM tracks GROUP BY ALL"],
    )


@sql_router.post("/api/sql", responses=ROW_RESPONSES, response_class=Response)
async def run_sql(
    body: SqlQuery, state: State, row_format: Annotated[RowFormat, Query(alias="format")] = "json"
) -> Response:
    """Run one SELECT on the published results, for at most 10 s, with at most 10,000 rows.

    It can read only the tables: other statements, other files and changed limits are refused. Where rows are left out,
    JSON has truncated: true, and every other format the header X-Truncated: true.
    """
    result = await state.sql.run(body.query)
    batches = iter(result.rows.to_batches())
    try:
        if row_format == "json":
            rows: list[dict[str, Any]] = json_rows(batches)
            return JSONResponse({"rows": rows, "truncated": result.is_truncated, "max_rows": MAX_ROWS})
        response = stream_rows(result.rows.schema, batches, row_format, "query", are_few=True)
    except (OverflowError, ValueError, pa.ArrowException) as error:  # such as the time infinity
        raise ProblemError(
            422, f"The query has a value that {row_format} cannot have: cast its column to VARCHAR."
        ) from error
    response.headers["X-Truncated"] = str(result.is_truncated).lower()
    return response
