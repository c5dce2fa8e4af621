"""Check rows against the declaration of their table."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.dataset import Dataset

from resources.schema.columns import FLOAT, Column, Table


def broken_rules(table: Table, rows: pa.Table | Dataset) -> list[str]:
    """The rules of a table that rows break, as one sentence each; empty if they satisfy the declaration.

    Args:
        table: The declaration.
        rows: Rows with the declared columns, in any order.
    """
    if missing_columns := [column.name for column in table.stored_columns if column.name not in rows.schema.names]:
        return [f"{table.name}: the columns {', '.join(missing_columns)} are missing."]
    total, violations = 0, Counter[str]()
    # Not in SQL: planning so many conditions takes ten times as long as checking the rows of a recording.
    for batch in rows.to_batches(columns=table.arrow_schema.names) if isinstance(rows, Dataset) else rows.to_batches():
        total += batch.num_rows
        for column in table.stored_columns:
            violations.update(dict(_count_violations(column, batch.column(column.name))))
    sentences = [
        f"{table.name}: {count} of {total} rows break the rule: {rule}." for rule, count in violations.items() if count
    ]
    keys = rows.to_table(columns=list(table.key)) if isinstance(rows, Dataset) else rows.select(list(table.key))
    counts = keys.group_by(list(table.key)).aggregate([([], "count_all")])["count_all"]
    if repeated_key_count := len(counts.filter(pc.greater(counts, 1))):
        sentences.append(f"{table.name}: {repeated_key_count} keys ({', '.join(table.key)}) are in more than one row.")
    return sentences


def _count_violations(column: Column, values: pa.Array) -> Iterator[tuple[str, int]]:
    """Count the values that break each rule of a column; a NULL breaks only the rule that the column is never NULL.

    Yields:
        Rule and number of values.
    """
    if not column.nullable:
        yield f"{column.name} is never NULL", values.null_count
    if column.type == FLOAT:
        yield f"{column.name} is a finite number", pc.invert(pc.is_finite(values)).true_count
    if column.minimum is not None:
        yield f"{column.name} is at least {column.minimum}", pc.less(values, column.minimum).true_count
    if column.maximum is not None:
        yield f"{column.name} is at most {column.maximum}", pc.greater(values, column.maximum).true_count
    if column.allowed:
        is_disallowed = pc.and_(pc.invert(pc.is_in(values, pa.array(column.allowed))), pc.is_valid(values))
        yield f"{column.name} is one of {', '.join(map(repr, column.allowed))}", is_disallowed.true_count
