"""Recordings for the library: filters, pages and the calendar."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from serve.pages.result_rows import Row, fetch_rows

PAGE_SIZE = 48
"""Recordings of a page."""
NO_CAMERA = "-"
"""How addresses of pages name the recordings directly in the watched folder."""

_ROWS_SQL = """
    SELECT recording_id, camera, source_path, status, error, epoch_ms(started_at_utc) AS started_at_utc,
        started_at_source, duration_s_from_content AS duration_s, width_px, height_px, frame_count,
        video_path IS NOT NULL AS has_video, track_count
    FROM recordings LEFT JOIN (SELECT recording_id, track_count FROM summaries) USING (recording_id)
    ORDER BY started_at_utc DESC NULLS LAST, recording_id
"""


@dataclass(frozen=True)
class LibraryFilter:
    """Which recordings are asked for; empty values do not restrict.

    Attributes:
        camera: One camera; "-" means those without a camera.
        status: One status.
        day: Day of the start, YYYY-MM-DD, UTC.
        text: Part of the file's path or of the recording's id.
    """

    camera: str = ""
    status: str = ""
    day: str = ""
    text: str = ""

    def selects(self, row: Row, *, any_day: bool = False) -> bool:
        """Whether a recording fits.

        Args:
            row: The recording.
            any_day: Whether the day does not matter, as for the calendar.
        """
        return (
            (not self.camera or (row["camera"] or NO_CAMERA) == self.camera)
            and (not self.status or row["status"] == self.status)
            and (any_day or not self.day or row["day"] == self.day)
            and (not self.text or self.text.casefold() in row["search_text"])
        )


@dataclass
class Library:
    """All recordings of one published snapshot, newest first, kept in memory so that filters need no query.

    Attributes:
        snapshot: The published file.
        rows: Columns of `recordings` and track_count, with day and search_text.
    """

    snapshot: str
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection, snapshot: str) -> "Library":
        """Read all recordings."""
        rows = fetch_rows(connection, _ROWS_SQL)
        for row in rows:
            start_ms = row["started_at_utc"]
            row["day"] = None if start_ms is None else datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%d")
            row["search_text"] = f"{row['source_path']} {row['recording_id']}".casefold()
        return cls(snapshot, rows)

    def page(self, selection: LibraryFilter, number: int) -> tuple[list[Row], int]:
        """The recordings of one page, from 1, and the number of recordings that fit."""
        rows = [row for row in self.rows if selection.selects(row)]
        return rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE], len(rows)

    def days(self, selection: LibraryFilter) -> dict[str, int]:
        """Number of recordings per day that fit, whatever the day of the filter."""
        counts: dict[str, int] = {}
        for row in self.rows:
            if row["day"] and selection.selects(row, any_day=True):
                counts[row["day"]] = counts.get(row["day"], 0) + 1
        return counts

    def choices(self) -> dict[str, list[str]]:
        """Cameras and states that occur."""
        return {
            "cameras": sorted({row["camera"] or NO_CAMERA for row in self.rows}),
            "statuses": sorted({row["status"] for row in self.rows if row["status"]}),
        }

    def find(self, recording_id: str) -> Row | None:
        """The row of a recording; None if there is no such recording."""
        return next((row for row in self.rows if row["recording_id"] == recording_id), None)


def month_weeks(days: dict[str, int], month: str) -> list[list[dict[str, Any] | None]]:
    """Arrange the days of a month in weeks from Monday to Sunday.

    Args:
        days: Number of recordings by day.
        month: The month, YYYY-MM.

    Returns:
        Weeks of seven days, each with "day" (YYYY-MM-DD), "number" and "count"; None outside the month.
    """
    import calendar

    year, number = (int(part) for part in month.split("-"))
    return [
        [
            {"day": f"{month}-{day:02}", "number": day, "count": days.get(f"{month}-{day:02}", 0)} if day else None
            for day in week
        ]
        for week in calendar.Calendar().monthdayscalendar(year, number)
    ]


def neighbouring_months(days: dict[str, int], month: str) -> tuple[str | None, str | None]:
    """The nearest months before and after one that have recordings."""
    months = sorted({day[:7] for day in days})
    before, after = [name for name in months if name < month], [name for name in months if name > month]
    return before[-1] if before else None, after[0] if after else None
