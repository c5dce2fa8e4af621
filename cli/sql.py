"""SQL queries on the results: some statements, or a prompt."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import duckdb

from cli.options import QueryError
from cli.result_formats import print_csv, print_json, print_parquet, print_xlsx, replace_blobs
from cli.tables import print_tables
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.results_database import explained_errors, open_results

_MAX_TABLE_ROWS = 1000


def run_query(data_folder: Path, query: str, output: str = "table") -> None:
    """Run one or several SQL statements and print the result of each.

    Args:
        data_folder: The data folder.
        query: Statements in DuckDB's dialect, separated by semicolons, or `.tables`.
        output: table, csv, json, parquet or xlsx; parquet and xlsx are bytes on standard output.

    Raises:
        PipelineError: The data folder has no results yet, or a table is damaged.
        QueryError: A statement is wrong, or its result cannot be written in the format; the message says where.
    """
    with open_results(data_folder) as connection:
        if query.strip().rstrip(";") == ".tables":
            print_tables(connection)
            return
        try:
            with explained_errors(Store(data_folder)):
                _print_results(_results(connection, query), output)
        except duckdb.Error as error:
            raise QueryError(str(error).strip()) from error


def _print_results(results: Iterator[duckdb.DuckDBPyRelation], output: str) -> None:
    if output == "csv":
        print_csv(results)
    elif output == "json":
        print_json(results)
    elif output == "parquet":
        print_parquet(results)
    elif output == "xlsx":
        print_xlsx(results)
    else:
        for result in results:
            width = shutil.get_terminal_size((160, 24)).columns
            replace_blobs(result).show(max_rows=_MAX_TABLE_ROWS, max_width=width)


def _results(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[duckdb.DuckDBPyRelation]:
    """Run statements one after the other; yields the results of those that have one."""
    for statement in duckdb.extract_statements(query):
        result = connection.sql(statement)
        if result is not None and statement.type is not duckdb.StatementType.CREATE:  # it would be a number of rows
            yield result


def open_prompt(data_folder: Path) -> None:
    """Read and run queries until the end of input; each reads the newest results.

    Raises:
        PipelineError: The data folder has no results yet.
    """
    open_results(data_folder).close()
    click.echo(".tables lists all tables and views; DESCRIBE name; shows the columns of one.")
    click.echo("End a query with ; and quit with Ctrl-D.")
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing and a history
    while (text := _read_query()) is not None:
        try:
            run_query(data_folder, text)
        except PipelineError as error:
            click.echo(str(error), err=True)


def _read_query() -> str | None:
    """Read lines until one ends with a semicolon, or a command; None at the end of input."""
    lines: list[str] = []
    while True:
        try:
            line = input("...> " if lines else "sql> ")
        except EOFError:
            click.echo()
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:  # discards the typed lines, as other prompts do
            click.echo()
            lines = []
            continue
        word = line.strip().lower().rstrip(";")
        if not lines and word in ("exit", "quit", ".exit", ".quit"):
            return None
        if not lines and word == ".tables":
            return word
        if line.strip() or lines:
            lines.append(line)
        if line.rstrip().endswith(";"):
            return "\n".join(lines)
