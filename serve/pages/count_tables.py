"""Counts of a recording per interval and by pair of lines, for tables on pages and as CSV and Excel files."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb

from serve.pages.result_rows import Row, fetch_rows

INTERVALS_MIN = (1, 5, 15, 60)
"""Lengths of the intervals that people can choose, in minutes."""

_COUNTED_SQL = """
    SELECT start_s AS time_s, 'objects' AS name, 'appears' AS event, class_name FROM tracks
        ANTI JOIN (SELECT recording_id, track_id FROM still_tracks WHERE is_left_out) USING (recording_id, track_id)
        WHERE recording_id = $id
    UNION ALL BY NAME
    SELECT time_s, coalesce(line_name, zone_name) AS name, event, class_name FROM zone_events WHERE recording_id = $id
"""


def read_interval_counts(connection: duckdb.DuckDBPyConnection, recording_id: str, minutes: int) -> list[Row]:
    """Count new objects, crossings, entries and exits per interval and class.

    Args:
        connection: The published results.
        recording_id: The recording.
        minutes: Length of an interval; intervals begin at full minutes of the clock where the clock is known.

    Returns:
        Rows with interval_start_s (not before 0), interval_start_utc (epoch milliseconds; None without a clock), name
        (line, zone or "objects"), event, class_name and count.
    """
    query = f"""
        WITH clock AS (
            SELECT epoch_us(started_at_utc) AS start_us FROM recording_clocks WHERE recording_id = $id
        ),
        counted AS (
            SELECT *, coalesce((SELECT any_value(start_us) FROM clock), 0) AS start_us,
                (coalesce((SELECT any_value(start_us) FROM clock), 0) + (time_s * 1e6)::BIGINT) // $unit_us AS unit
            FROM ({_COUNTED_SQL})
        )
        SELECT greatest((unit * $unit_us - start_us) / 1e6, 0) AS interval_start_s,
            CASE WHEN start_us > 0 THEN unit * $unit_us // 1000 END AS interval_start_utc,
            name, event, class_name, count(*) AS count
        FROM counted GROUP BY unit, start_us, name, event, class_name
        ORDER BY unit, name = 'objects' DESC, name, event, class_name
    """
    return fetch_rows(connection, query, {"id": recording_id, "unit_us": minutes * 60_000_000})


def read_line_pairs(connection: duckdb.DuckDBPyConnection, recording_id: str) -> list[Row]:
    """Read how many objects crossed one line first and another last, by class."""
    query = """
        SELECT origin_line, destination_line, class_name, track_count, median_travel_s FROM origin_destinations
        WHERE recording_id = $id ORDER BY ALL
    """
    return fetch_rows(connection, query, {"id": recording_id})


def read_heatmap(connection: duckdb.DuckDBPyConnection, recording_id: str) -> list[Row]:
    """Read the time that objects spent in each cell of the frame, by class."""
    query = """
        SELECT class_name, row_index, column_index, round(object_s, 2) AS object_s FROM heatmap_cells
        WHERE recording_id = $id
    """
    return fetch_rows(connection, query, {"id": recording_id})


def write_csv(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Write rows as CSV with a header; times of the clock are ISO 8601, UTC."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(name, row[name], is_text=True) for name in columns] for row in rows)
    return text.getvalue().encode()


def write_xlsx(sheets: Sequence[tuple[str, Sequence[Row], Sequence[str]]]) -> bytes:
    """Write an Excel file.

    Args:
        sheets: Name, rows and columns of each sheet.
    """
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    for name, rows, columns in sheets:
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"
        sheet.append(list(columns))
        for row in rows:
            cells = []
            for column in columns:
                cell = WriteOnlyCell(sheet, _cell(column, row[column], is_text=False))
                if isinstance(row[column], str):
                    cell.data_type = "s"  # a name that starts with = is no formula
                cells.append(cell)
            sheet.append(cells)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _cell(column: str, value: Any, *, is_text: bool) -> Any:
    if column.endswith("_utc") and value is not None:
        time = datetime.fromtimestamp(value / 1000, UTC)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ") if is_text else time.replace(tzinfo=None)
    return value
