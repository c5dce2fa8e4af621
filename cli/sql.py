"""SQL queries on the results: one query, or a prompt."""

import sys
from contextlib import suppress
from pathlib import Path

import click
import duckdb

from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.results_database import explained_errors, open_results

_MAX_TABLE_ROWS = 1000


def run_query(data_folder: Path, query: str | duckdb.Statement, output: str = "table") -> None:
    """Run one query and print its result.

    Args:
        data_folder: The data folder.
        query: SQL in DuckDB's dialect; of several statements, the last one's result is printed.
        output: table, csv, json (one object per line) or parquet (bytes to standard output).

    Raises:
        PipelineError: The data folder has no results yet, the query is invalid, or a table is damaged; the message
            says where.
    """
    with _open_results(data_folder) as connection:
        try:
            with explained_errors(Store(data_folder)):
                relation = connection.sql(query)
                if relation is None:
                    return
                if output == "table":
                    relation.show(max_rows=_MAX_TABLE_ROWS, max_width=_terminal_width())
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


def open_prompt(data_folder: Path) -> None:
    """Read and run queries until the end of input; each reads the newest results.

    Raises:
        PipelineError: The data folder has no results yet.
    """
    with _open_results(data_folder) as connection:
        query = "SELECT table_name FROM information_schema.tables ORDER BY table_name"
        names = [row[0] for row in connection.execute(query).fetchall()]
    click.echo(f"Tables: {', '.join(names)}.")
    click.echo("DESCRIBE table; shows its columns. End a query with ; and quit with Ctrl-D.")
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing and a history
    while (text := _read_query()) is not None:
        try:
            for statement in duckdb.extract_statements(text):
                run_query(data_folder, statement)
        except (PipelineError, duckdb.Error) as error:
            click.echo(str(error).strip(), err=True)


def _read_query() -> str | None:
    """Read lines until one ends with a semicolon; None at the end of input."""
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
        if not lines and line.strip().lower().rstrip(";") in ("exit", "quit", ".exit", ".quit"):
            return None
        if line.strip() or lines:
            lines.append(line)
        if line.rstrip().endswith(";"):
            return "\n".join(lines)


def _open_results(data_folder: Path) -> duckdb.DuckDBPyConnection:
    try:
        return open_results(data_folder)
    except FileNotFoundError as error:
        raise PipelineError(str(error)) from error


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((160, 24)).columns
