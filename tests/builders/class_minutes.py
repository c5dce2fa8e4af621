"""Rows of the table class_minutes, for tests of storage."""

import pyarrow as pa

from resources.schema.summary_tables import CLASS_MINUTES


def class_minutes(recording_id: str, count: int, **values: object) -> pa.Table:
    """Rows of class_minutes for the minutes 0 to count - 1, whose track count is the minute's index.

    Args:
        recording_id: The recording.
        count: Number of rows.
        values: Values that replace the default ones in all rows, by column name.
    """
    rows = [
        {
            "recording_id": recording_id,
            "class_name": "car",
            "minute_index": minute,
            "track_count": minute,
            "new_track_count": 1,
            "max_at_once": 1,
            "mean_at_once": 0.5,
            **values,
        }
        for minute in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=CLASS_MINUTES.arrow_schema)
