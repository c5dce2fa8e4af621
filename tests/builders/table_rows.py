"""Rows of declared tables with only the columns that a test cares about."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from resources.schema.columns import Table

STARTED_JUST_BEFORE_NINE = datetime(2026, 3, 1, 8, 59, 58, tzinfo=UTC)


def sparse_rows(table: Table, *rows: dict[str, Any], **shared: Any) -> pa.Table:
    """Build rows in which columns without a value are NULL; they are not stored, so the table's rules need not hold.

    Args:
        table: The declared table.
        rows: Values by column.
        shared: Values that all rows have.
    """
    names = table.arrow_schema.names
    schema = pa.schema([pa.field(field.name, field.type) for field in table.arrow_schema])
    return pa.Table.from_pylist([dict.fromkeys(names) | shared | row for row in rows], schema=schema)


def recording_row(
    recording_id: str = "r", started_at_utc: datetime | None = STARTED_JUST_BEFORE_NINE
) -> dict[str, Any]:
    """Build the row of an intact recording of 4 s, 320x200 px, at 10 fps, from the camera `gate`."""
    source = {"source_path": "r", "fingerprint": "r", "size_bytes": 1, "mtime_utc": STARTED_JUST_BEFORE_NINE}
    content = {"width_px": 320, "height_px": 200, "rate_fps": 10.0, "frame_count": 40, "duration_s_from_content": 4.0}
    row = {"recording_id": recording_id, "camera": "gate", "status": "ok", "started_at_utc": started_at_utc}
    return {**row, **source, **content}
