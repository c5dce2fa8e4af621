"""Asking the results: one query, or a prompt."""

import sys
from contextlib import suppress
from pathlib import Path

import click
import duckdb

from resources.errors import PipelineError
from resources.results import open_results

_SHOWN_ROWS = 1000


def answer(data_folder: Path, query: str, output: str = "table") -> None:
    """Print the answer to one query.

    Args:
        data_folder: Whose results.
        query: SQL as DuckDB speaks it.
        output: table, csv, json (one object a line) or parquet (bytes to standard output).

    Raises:
        PipelineError: There are no results yet, or the query is wrong; says where.
    """
    with _opened(data_folder) as connection:
        try:
            relation = connection.sql(query)
            if relation is None:
                return
            if output == "table":
                relation.show(max_rows=_SHOWN_ROWS, max_width=_terminal_width())
                return
            frame = relation.to_df()
        except duckdb.Error as error:
            raise PipelineError(str(error).strip()) from error
    if output == "csv":
        click.echo(frame.to_csv(index=False), nl=False)
    elif output == "json":
        click.echo(frame.to_json(orient="records", lines=True, date_format="iso"), nl=False)
    else:
        frame.to_parquet(sys.stdout.buffer, index=False)


def prompt(data_folder: Path) -> None:
    """Ask query after query; each sees the newest results.

    Raises:
        PipelineError: There are no results yet.
    """
    with _opened(data_folder) as connection:
        names = [row[0] for row in connection.execute("SELECT table_name FROM published_tables").fetchall()]
    click.echo(f"Tables: {', '.join(names)}. DESCRIBE table shows its columns; end with Ctrl-D.")
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history
    while True:
        try:
            query = input("sql> ").strip().rstrip(";")
        except EOFError:
            click.echo()
            return
        if query.lower() in ("exit", "quit", ".exit", ".quit"):
            return
        if query:
            try:
                answer(data_folder, query)
            except PipelineError as error:
                click.echo(str(error), err=True)


def _opened(data_folder: Path) -> duckdb.DuckDBPyConnection:
    try:
        return open_results(data_folder)
    except FileNotFoundError as error:
        raise PipelineError(str(error)) from error


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((160, 24)).columns
