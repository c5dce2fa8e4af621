"""Rows as JSON, CSV, Parquet and Arrow, in memory that does not grow with their number."""

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi.responses import StreamingResponse

RowFormat = Literal["json", "csv", "parquet", "arrow"]
MEDIA_TYPES: dict[str, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
ROW_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The rows.", "content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}}
}
"""The media types of rows, for the OpenAPI document."""
_BATCH_ROWS, _CHUNK_BYTES = 10_000, 1_000_000


def read_batches(cursor: duckdb.DuckDBPyConnection, sql: str, values: Any) -> pa.RecordBatchReader:
    """Run a query; its rows are computed as they are read, in batches."""
    return cursor.sql(sql, params=values).to_arrow_reader(_BATCH_ROWS)


def json_rows(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    """Convert rows to values that JSON has: times in ISO 8601, NULL for NaN, the size of a binary value."""
    return [{name: _json_value(value) for name, value in row.items()} for batch in batches for row in batch.to_pylist()]


def stream_rows(
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    row_format: RowFormat,
    file_name: str,
    *,
    are_few: bool = False,
) -> StreamingResponse:
    """Build the response with rows in a format other than JSON.

    Args:
        schema: Schema of the rows.
        batches: The rows.
        row_format: csv, parquet or arrow.
        file_name: Name of the file without extension, for a browser that saves it.
        are_few: Whether all are written before the response begins, so that a value that the format cannot have is
            an error here.
    """
    writers = {"csv": _csv_chunks, "parquet": _parquet_chunks, "arrow": _arrow_chunks}
    headers = {"Content-Disposition": f'attachment; filename="{file_name}.{row_format}"'}
    chunks = writers[row_format](schema, batches)
    chunks = iter(list(chunks)) if are_few else chunks
    return StreamingResponse(chunks, media_type=MEDIA_TYPES[row_format], headers=headers)


def _csv_chunks(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(schema.names)
    for batch in batches:
        for row in batch.to_pylist():
            writer.writerow([_csv_value(value) for value in row.values()])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _arrow_chunks(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield _take(buffer)
    yield _take(buffer)


def _parquet_chunks(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    # A Parquet file ends with its index, so it is written first.
    with tempfile.TemporaryFile(prefix="cv-assets-rows-") as file:
        with pq.ParquetWriter(file, schema, compression="snappy") as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _take(buffer: io.BytesIO) -> bytes:
    """The content of a buffer, which is empty afterwards."""
    content = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return content


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        # UTC, in whatever zone the reader of the rows is.
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return str(value)


def _csv_value(value: Any) -> Any:
    converted = _json_value(value)
    if isinstance(converted, dict | list):
        return json.dumps(converted, ensure_ascii=False)
    return "" if converted is None else converted
