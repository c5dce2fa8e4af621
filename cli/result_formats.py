"""Results of SQL queries as CSV, JSON, Parquet and Excel files on standard output."""

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from cli.options import QueryError

_MAX_SHEET_ROWS = 1_048_576
_MAX_CELL_LENGTH = 32_767
_MAX_EXACT_INTEGER = 2**53  # Excel's numbers are 64-bit floats


def print_csv(results: Iterable[duckdb.DuckDBPyRelation]) -> None:
    """Print results as CSV with a header, separated by an empty line; a binary value is printed as its size."""
    with tempfile.TemporaryDirectory(prefix="cv-assets-sql-") as folder:
        for number, result in enumerate(results):
            file = Path(folder, "result.csv")
            replace_blobs(result).write_csv(str(file), header=True)
            if number:
                sys.stdout.buffer.write(b"\n")
            _print_file(file)


def print_json(results: Iterable[duckdb.DuckDBPyRelation]) -> None:
    """Print results as JSON, one object per row and line; a binary value is printed as its size."""
    for result in results:
        result = replace_blobs(result)
        for row in result.fetchall():
            values = dict(zip(result.columns, map(_finite, row), strict=True))
            print(json.dumps(values, separators=(",", ":"), ensure_ascii=False, default=_json_value))


def print_parquet(results: Iterable[duckdb.DuckDBPyRelation]) -> None:
    """Print one result as the bytes of a Parquet file, with the types of its columns.

    Raises:
        QueryError: Standard output is a terminal, or there are several results.
    """
    _check_no_terminal("parquet")
    with tempfile.TemporaryDirectory(prefix="cv-assets-sql-") as folder:
        files = list[Path]()
        for result in results:
            if files:
                raise QueryError(
                    "The format parquet holds the result of one query: give a single one, or --format xlsx."
                )
            files.append(Path(folder, "result.parquet"))
            result.write_parquet(str(files[0]))
        for file in files:
            _print_file(file)


def print_xlsx(results: Iterable[duckdb.DuckDBPyRelation]) -> None:
    """Print results as the bytes of an Excel file, a sheet for each; times are UTC, a binary value is its size.

    Raises:
        QueryError: Standard output is a terminal, or a sheet cannot hold a result.
    """
    _check_no_terminal("xlsx")
    relations = {f"result {number}" if number > 1 else "result": result for number, result in enumerate(results, 1)}
    if not relations:
        return
    with tempfile.TemporaryDirectory(prefix="cv-assets-sql-") as folder:
        file = Path(folder, "result.xlsx")
        write_xlsx(relations, file)
        _print_file(file)


def write_xlsx(relations: Mapping[str, duckdb.DuckDBPyRelation], file: Path) -> None:
    """Write results as the sheets of an Excel file; times are UTC, a binary value is its size.

    Args:
        relations: The results by the names of their sheets.
        file: The file.

    Raises:
        QueryError: A sheet cannot hold a result.
    """
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    # All rows are checked before the file is begun: an abandoned one would leave temporary files.
    sheets = {name: (result.columns, _excel_rows(replace_blobs(result))) for name, result in relations.items()}
    book = Workbook(write_only=True)
    for name, (columns, rows) in sheets.items():
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"
        header = [WriteOnlyCell(sheet, column) for column in columns]
        for cell in header:
            cell.font = Font(bold=True)
        sheet.append(header)
        for row in rows:
            sheet.append([_text_cell(sheet, value) if isinstance(value, str) else value for value in row])
    book.save(file)


def replace_blobs(result: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Replace binary values, such as JPEG images, by their size: no text shows them readably."""
    names = [name for name, kind in zip(result.columns, result.types, strict=True) if str(kind) == "BLOB"]
    if not names:
        return result
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    sizes = ", ".join(f"'<' || octet_length({name}) || ' bytes>' AS {name}" for name in quoted)
    return result.project(f"* REPLACE ({sizes})")


def _finite(value: Any) -> Any:
    """The value, or None for NaN and infinities, which JSON lacks."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_value(value: Any) -> Any:
    """Convert a value that JSON lacks: times to ISO 8601, whole numbers and decimals to numbers, others to text."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def _excel_rows(result: duckdb.DuckDBPyRelation) -> list[list[Any]]:
    """The rows of a result with values that Excel has: numbers, times in UTC, flags, and text for anything else.

    Raises:
        QueryError: A sheet cannot hold the rows.
    """
    rows = [[_excel_value(value) for value in row] for row in result.limit(_MAX_SHEET_ROWS).fetchall()]
    if len(rows) >= _MAX_SHEET_ROWS:
        raise QueryError(f"The result has more rows than an Excel sheet holds ({_MAX_SHEET_ROWS - 1:,}): add LIMIT.")
    return rows


def _excel_value(value: Any) -> Any:
    """Convert a value to one that Excel has.

    Raises:
        QueryError: A text is too long for a cell, or has a character that Excel cannot hold.
    """
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if isinstance(value, Decimal):
        value = _json_value(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if value is None or isinstance(value, bool | datetime | date | time):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) <= _MAX_EXACT_INTEGER:
        return value
    text = str(value)
    if len(text) > _MAX_CELL_LENGTH:
        raise QueryError(f"A text of the result has {len(text)} characters, an Excel cell holds {_MAX_CELL_LENGTH}.")
    if ILLEGAL_CHARACTERS_RE.search(text):
        raise QueryError(f"A text of the result has a character that Excel cannot hold: {text[:80]!r}.")
    return text


def _text_cell(sheet: Any, text: str) -> Any:
    """A cell with a text, which is no formula even if it starts with =."""
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(sheet, text)
    cell.data_type = "s"
    return cell


def _check_no_terminal(output: str) -> None:
    if sys.stdout.isatty():
        raise QueryError(f"The format {output} is binary: write it to a file, as in > result.{output}.")


def _print_file(file: Path) -> None:
    with file.open("rb") as content:
        shutil.copyfileobj(content, sys.stdout.buffer)
