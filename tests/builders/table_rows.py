"""Rows of declared tables with only the columns that a test cares about."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from resources.schema.columns import Table
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.storage.delta_store import Store

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


def header_row(recording_id: str = "r", started_at_utc: datetime = STARTED_JUST_BEFORE_NINE) -> dict[str, Any]:
    """Build the row of `recordings` of a file from the camera `gate`, whose container has the time of its start."""
    source = {"camera": "gate", "source_path": "r", "fingerprint": "r", "size_bytes": 1, "mtime_utc": started_at_utc}
    return {"recording_id": recording_id, **source, "container_name": "matroska", "created_at_utc": started_at_utc}


def content_row(recording_id: str = "r") -> dict[str, Any]:
    """Build the row of `recording_contents` of an intact recording of 4 s, 320x200 px, at 10 fps."""
    size = {"width_px": 320, "height_px": 200, "rate_fps": 10.0, "rate_fps_num": 10, "rate_fps_den": 1}
    return {"recording_id": recording_id, **size, "frame_count": 40, "duration_s_from_content": 4.0}


def store_recordings(store: Store, *rows: dict[str, Any]) -> None:
    """Store recordings as `recordings` and `recording_contents` have them.

    Args:
        store: The tables.
        rows: By recording, values of columns of either table in addition to those of `header_row` and `content_row`;
            `started_at_utc` becomes the time in the container.
    """
    ids = [row["recording_id"] for row in rows]
    headers, contents = [], []
    for row in rows:
        started_at_utc = row.get("started_at_utc", STARTED_JUST_BEFORE_NINE)
        headers.append(header_row(row["recording_id"], started_at_utc) | _only(RECORDINGS, row))
        contents.append(content_row(row["recording_id"]) | _only(RECORDING_CONTENTS, row))
    store.replace(RECORDINGS, ids, sparse_rows(RECORDINGS, *headers))
    store.replace(RECORDING_CONTENTS, ids, sparse_rows(RECORDING_CONTENTS, *contents))


def _only(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in table.arrow_schema.names}
