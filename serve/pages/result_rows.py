"""Rows of the published results as plain values for pages, and answers in JSON."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import duckdb
from starlette.responses import Response

Row = dict[str, Any]


def fetch_rows(
    connection: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, object] | None = None
) -> list[Row]:
    """Run a query and return its rows, each as values by column.

    Args:
        connection: The published results.
        query: One SELECT; its times should be epoch milliseconds.
        values: Values of its named parameters.
    """
    result = connection.execute(query, dict(values or {}))
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def json_response(value: object) -> Response:
    """Answer with lists, mappings, numbers and texts as JSON; NaN and infinities become null."""
    text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, default=_json_value)
    return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})


def script_json(value: object) -> str:
    """Write a value as JSON for a script element: without a character that could end the element."""
    return json.dumps(_finite(value), ensure_ascii=False, default=_json_value).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
