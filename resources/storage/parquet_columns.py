"""Stored columns that some Parquet files of a table lack, because the files are older than the columns."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from resources.schema.columns import Table


@dataclass(frozen=True)
class MissingColumns:
    """Declared columns that files lack.

    Attributes:
        in_all_files: Columns that no file has.
        in_some_files: Columns that only some files have.
    """

    in_all_files: frozenset[str] = frozenset()
    in_some_files: frozenset[str] = frozenset()


def find_missing_columns(table: Table, add_actions: pa.Table) -> MissingColumns:
    """Find the declared columns that the files of a table lack, without opening the files where the log suffices.

    Args:
        table: The declaration.
        add_actions: The files of the table according to its log, with absolute paths and flat statistics.
    """
    in_all, in_some, without_statistics = set(), set(), []
    for column in table.stored_columns:
        name = f"null_count.{column.name}"
        counts = add_actions[name] if name in add_actions.column_names else pa.nulls(add_actions.num_rows)
        if counts.null_count == 0:
            continue
        if counts.null_count < len(counts):
            in_some.add(column.name)
        elif pa.types.is_binary(column.type) or pa.types.is_nested(column.type):
            without_statistics.append(column.name)  # Delta has statistics of no such column
        else:
            in_all.add(column.name)
    if without_statistics:
        # A column is never removed again, so the oldest and the newest file show whether it was added meanwhile.
        paths = add_actions.sort_by("modification_time")["path"].to_pylist()
        names_of_ends = [set(pq.read_schema(path).names) for path in (paths[0], paths[-1])]
        if not all(names >= {*without_statistics} for names in names_of_ends):
            names_of_all = [set(pq.read_schema(path).names) for path in paths]
            in_some |= {name for name in without_statistics if not all(name in names for names in names_of_all)}
            in_all |= {name for name in without_statistics if not any(name in names for names in names_of_all)}
    return MissingColumns(frozenset(in_all), frozenset(in_some - in_all))
