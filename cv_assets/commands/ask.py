"""Asking the results: one query, or a prompt."""

import sys
from contextlib import suppress
from pathlib import Path

import click
import duckdb

from resources.errors import PipelineError
from resources.results import open_results

_SHOWN_ROWS = 1000


def answer(data_folder: Path, query: str | duckdb.Statement, output: str = "table") -> None:
    """Print the answer to one query.

    Args:
        data_folder: Whose results.
        query: SQL as DuckDB speaks it; of several statements, the last one's answer.
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
        found = "SELECT table_name FROM information_schema.tables ORDER BY table_name"
        names = [row[0] for row in connection.execute(found).fetchall()]
    click.echo(
        f"Tables: {', '.join(names)}. DESCRIBE table; shows its columns. A query ends with ; and you with Ctrl-D."
    )
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history
    while (query := _query()) is not None:
        try:
            for statement in duckdb.extract_statements(query):
                answer(data_folder, statement)
        except (PipelineError, duckdb.Error) as error:
            click.echo(str(error).strip(), err=True)


def _query() -> str | None:
    """What is typed until a line ends with a semicolon; None at the end."""
    lines: list[str] = []
    while True:
        try:
            line = input("...> " if lines else "sql> ")
        except EOFError:
            click.echo()
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:  # drops what was typed, as in other prompts
            click.echo()
            lines = []
            continue
        if not lines and line.strip().lower().rstrip(";") in ("exit", "quit", ".exit", ".quit"):
            return None
        if line.strip() or lines:
            lines.append(line)
        if line.rstrip().endswith(";"):
            return "\n".join(lines)


def _opened(data_folder: Path) -> duckdb.DuckDBPyConnection:
    try:
        return open_results(data_folder)
    except FileNotFoundError as error:
        raise PipelineError(str(error)) from error


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((160, 24)).columns
