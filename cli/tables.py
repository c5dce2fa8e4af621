"""The list of all tables and views of the results, and the columns of one."""

import difflib
import shutil
import textwrap

import click
import duckdb

from resources.errors import PipelineError

_MACROS_SQL = """
SELECT DISTINCT function_name FROM duckdb_functions()
WHERE function_type = 'table_macro' AND NOT internal ORDER BY function_name
"""
_COLUMNS_SQL = """
SELECT column_name, data_type, comment FROM duckdb_columns()
WHERE table_name = ? AND NOT internal ORDER BY column_index
"""


def print_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Print every table and view of the results with its number of rows and the meaning of a row.

    Args:
        connection: The results.
    """
    rows = connection.execute(
        "SELECT table_name, grain, row_count FROM published_tables ORDER BY table_name"
    ).fetchall()
    _print_list([(name, "view" if count is None else f"{count:,} rows", grain) for name, grain, count in rows])
    macros = [name for (name,) in connection.execute(_MACROS_SQL).fetchall()]
    click.echo(f"\nMacros (camera, from_utc, to_utc), for the rows of a camera between two times: {', '.join(macros)}.")
    click.echo("Columns of a table: cv-assets tables --columns NAME, or DESCRIBE NAME; in SQL.")


def print_columns(connection: duckdb.DuckDBPyConnection, table_name: str) -> None:
    """Print the columns of a table or view with their types and meanings.

    Args:
        connection: The results.
        table_name: Name of the table or view.

    Raises:
        PipelineError: The results have no table or view of this name; the error suggests the nearest one.
    """
    grains = dict(connection.execute("SELECT table_name, grain FROM published_tables").fetchall())
    if table_name not in grains:
        nearest = difflib.get_close_matches(table_name, grains, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}?" if nearest else "cv-assets tables lists all."
        raise PipelineError(f"The results have no table {table_name}; {hint}")
    click.echo(grains[table_name])
    _print_list(connection.execute(_COLUMNS_SQL, [table_name]).fetchall())


def _print_list(rows: list[tuple[str, str, str]]) -> None:
    """Print names with a short and a long text, the long one folded to the width of the terminal."""
    name_width, short_width = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    indent = name_width + short_width + 4
    text_width = max(30, shutil.get_terminal_size((120, 24)).columns - indent)
    for name, short, text in rows:
        lines = textwrap.wrap(text, text_width) or [""]
        click.echo(f"{name:<{name_width}}  {short:<{short_width}}  {lines[0]}")
        for line in lines[1:]:
            click.echo(" " * indent + line)
