"""Declarations of the tables of stages of one's own, stored beside their rows.

The stages are in the settings, and the rows outlive them: a data folder that is opened later has the table with its
types and comments all the same.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from resources.errors import RecordingError
from resources.schema.columns import BIG, FLAG, FLOAT, INT, TEXT, UTC, Column, Table
from resources.schema.table_registry import find_table

_DECLARATION_NAME = "_declaration.json"  # Delta takes files with an underscore for none of its own
_TYPES: dict[str, pa.DataType] = {str(kind): kind for kind in (TEXT, FLOAT, INT, BIG, FLAG, UTC)}


def find_stored_table(tables_folder: Path, name: str) -> Table | None:
    """The declaration of a table, including those of stages of one's own; None if no table has this name.

    Args:
        tables_folder: Folder of the tables.
        name: Name of the table.
    """
    return find_table(name) or _read_declaration(tables_folder / name / _DECLARATION_NAME)


def store_own_table(tables_folder: Path, table: Table) -> None:
    """Store the declaration of a table, before its first rows and after each change.

    Raises:
        RecordingError: The stored rows have another key, or a column has another type.
    """
    file = tables_folder / table.name / _DECLARATION_NAME
    stored = _read_declaration(file)
    if stored == table:
        return
    if stored is not None:
        _check_compatible(stored, table)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [asdict(column) | {"type": str(column.type)} for column in table.columns]
    content = {"name": table.name, "grain": table.grain, "key": table.key, "columns": columns}
    draft = file.with_suffix(".next")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(file)


def _check_compatible(stored: Table, table: Table) -> None:
    if stored.key != table.key:
        raise RecordingError(
            f"{table.name}: the key was {', '.join(stored.key)} and is now {', '.join(table.key)}, and stored rows "
            "have the former: give the function another name."
        )
    types = {column.name: column.type for column in stored.stored_columns}
    for column in table.stored_columns:
        before = types.get(column.name, column.type)
        if before != column.type:
            raise RecordingError(
                f"{table.name}: the column {column.name} was {before} and is now {column.type}, and stored rows have "
                "the former: give the column or the function another name."
            )


def _read_declaration(file: Path) -> Table | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        columns = tuple(Column(**column | {"type": _TYPES[column["type"]]}) for column in content["columns"])
        return Table(content["name"], content["grain"], tuple(content["key"]), columns)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the table of a stage that has stored nothing yet
