"""The process of one SQL query of the API: a single SELECT on the published results, without access to other files.

It reads a request as JSON from standard input and writes the rows as an Arrow stream to standard output. A refused or
wrong query is one sentence on standard error, with the exit status REFUSED_STATUS.
"""

import json
import os
import resource
import sys
from typing import Any, NoReturn

import duckdb
import pyarrow as pa

REFUSED_STATUS = 3
_BATCH_ROWS = 1000
_ADDRESS_SPACE_FACTOR = 8  # DuckDB reserves more than it uses
_THREADS = 2


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    limit_bytes = request["memory_mb"] * 1_000_000 * _ADDRESS_SPACE_FACTOR
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_s"], request["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _answer(request)
    except (duckdb.Error, pa.ArrowException, MemoryError) as error:
        _refuse(_first_line(error))
    _exit(0)


def _answer(request: dict[str, Any]) -> None:
    statement = _single_select(request["query"])
    with duckdb.connect(request["database"], read_only=True) as connection:
        connection.execute(f"SET memory_limit = '{request['memory_mb']}MB'")
        connection.execute(f"SET threads = {_THREADS}")
        connection.execute("SET temp_directory = ''")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET allowed_directories = ?", [[request["tables_folder"]]])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        reader = connection.sql(statement).to_arrow_reader(_BATCH_ROWS)
        _write_rows(reader, request["max_rows"])


def _single_select(query: str) -> duckdb.Statement:
    """The only statement of a query, which must be a SELECT."""
    statements = duckdb.extract_statements(query)
    if len(statements) != 1:
        _refuse(f"The query has {len(statements)} statements: send exactly one SELECT.")
    if statements[0].type != duckdb.StatementType.SELECT:
        _refuse(f"The statement {statements[0].type.name} is refused: send exactly one SELECT.")
    return statements[0]


def _write_rows(reader: pa.RecordBatchReader, max_rows: int) -> None:
    """Write at most some rows; one row more means that rows were left out."""
    row_count = 0
    with pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch.slice(0, max_rows + 1 - row_count))
            row_count += batch.num_rows
            if row_count > max_rows:
                break


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _refuse(sentence: str) -> NoReturn:
    sys.stderr.write(sentence)
    _exit(REFUSED_STATUS)


def _exit(status: int) -> NoReturn:
    """End the process without finalizing the interpreter, during which DuckDB prints reports of leaks."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
