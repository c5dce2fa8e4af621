"""Converts the rows that the function of a stage returns to an Arrow table."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

_MAX_QUOTE_LENGTH = 60


class WrongRowsError(Exception):
    """A function returned something that its declaration does not allow; the text is a clause without its subject."""


def rows_to_table(rows: Any, schema: pa.Schema) -> pa.Table:
    """Convert rows to a table.

    Args:
        rows: What the function returned: dictionaries, or an Arrow table.
        schema: The declared columns, without recording_id.

    Raises:
        WrongRowsError: These are no rows, or a row lacks a column, has another one, or a value of another type.
    """
    if isinstance(rows, pa.Table):
        _check_columns(rows.column_names, schema, "a table")
        try:
            return rows.select(schema.names).cast(schema)
        except (pa.ArrowException, ValueError) as error:
            raise WrongRowsError(f"returned a table of other types: {_shorten(error)}") from None
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise WrongRowsError(f"returned {_describe(rows)} instead of a list of rows")
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise WrongRowsError(f"returned {_describe(row)} as row {number}, not a dictionary of columns")
        _check_columns(list(row), schema, f"row {number}")
        for name in columns:
            columns[name].append(_to_python(row[name]))
    return pa.table([_to_array(columns[field.name], field) for field in schema], schema)


def _check_columns(names: list[Any], schema: pa.Schema, subject: str) -> None:
    if missing := [name for name in schema.names if name not in names]:
        raise WrongRowsError(f"returned {subject} without the column {missing[0]}")
    if extra := [name for name in names if name not in schema.names]:
        raise WrongRowsError(f"returned {subject} with {_describe(extra[0])}, which is not a declared column")


def _to_python(value: Any) -> Any:
    """Convert a scalar of numpy or torch; other values are kept."""
    return value.item() if isinstance(value, np.generic) or getattr(value, "shape", None) == () else value


def _to_array(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        return _convert(values, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        for number, value in enumerate(values, 1):
            try:
                _convert([value], field.type)
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                raise WrongRowsError(
                    f"returned {_describe(value)} as {field.name} of row {number}, whose type is {field.type}"
                ) from None
        raise


def _convert(values: list[Any], kind: pa.DataType) -> pa.Array:
    # Arrow would cut off the fraction of a float.
    if pa.types.is_integer(kind) and any(isinstance(value, float) and not value.is_integer() for value in values):
        raise ValueError("a fraction is no whole number")
    return pa.array(values, kind)


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape:
        return f"an array of shape {tuple(shape)}"
    return "None" if value is None else f"the {type(value).__name__} {_shorten(repr(value))}"


def _shorten(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_QUOTE_LENGTH else f"{text[: _MAX_QUOTE_LENGTH - 1]}…"
