"""Wall-clock columns of rows, computed from the start time of their recording."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def wall_clock_times(started_at_utc: datetime | None, offset_s: np.ndarray) -> pa.Array:
    """Convert offsets from the start of a recording to wall-clock times.

    Args:
        started_at_utc: Wall-clock time of the recording's first frame; None if unknown.
        offset_s: Offsets in seconds, shape (n,).

    Returns:
        n timestamps in microseconds and UTC; all NULL if the start is unknown.
    """
    timestamp_type = pa.timestamp("us", tz="UTC")
    if started_at_utc is None:
        return pa.nulls(len(offset_s), timestamp_type)
    start = np.datetime64(started_at_utc.astimezone(UTC).replace(tzinfo=None), "us")
    return pa.array(start + np.round(offset_s * 1e6).astype("timedelta64[us]")).cast(timestamp_type)


def add_wall_clock_times(rows: pa.Table, started_at_utc: datetime | None) -> pa.Table:
    """Replace captured_at_utc of one recording's rows by the recording's start plus time_s.

    A stage uses the start in the recording's row, because the times in the rows that it reads may be outdated: after a
    correction of the clock, `Store.set_clock` updates table after table.
    """
    column = rows.schema.get_field_index("captured_at_utc")
    times = wall_clock_times(started_at_utc, rows["time_s"].to_numpy())
    return rows.set_column(column, rows.schema.field(column), times)


def clock_columns(
    rows: pa.Table,
    started_at_utc: datetime | None,
    offset_columns: Mapping[str, tuple[str, float]],
    constants: Mapping[str, str | None],
) -> Mapping[str, Any]:
    """Compute the wall-clock columns of one recording's rows.

    Args:
        rows: Rows with the offset columns.
        started_at_utc: Wall-clock time of the recording's first frame; None if unknown.
        offset_columns: By wall-clock column, the column of its offset from the start and the seconds of one unit.
        constants: Values of columns that are equal in all rows, by column name.

    Returns:
        Values by column name.
    """
    times = {
        name: wall_clock_times(started_at_utc, rows[offset].to_numpy() * unit_s)
        for name, (offset, unit_s) in offset_columns.items()
    }
    return times | {name: [value] * rows.num_rows for name, value in constants.items()}


def is_column_changed(stored: pa.ChunkedArray, values: pa.Array) -> bool:
    """Whether new values of a column differ from the stored ones; times that differ by a microsecond are equal."""
    if stored.null_count != values.null_count:
        return True
    if not pa.types.is_timestamp(values.type):
        return not stored.combine_chunks().equals(values)
    difference_us = pc.abs(pc.subtract(stored.cast(pa.int64()), values.cast(pa.int64())))
    return bool(pc.any(pc.greater(difference_us, 1)).as_py())
