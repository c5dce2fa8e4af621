"""What the timeline of a recording shows: objects per class, occupancy of zones, events, cuts and defects."""

import math
from typing import Any

import duckdb
import numpy as np

from serve.pages.result_rows import Row, fetch_rows

MAX_BINS = 800
"""Bins of a lane; a screen has few more pixels for it."""
MAX_EVENTS = 5000
"""Events of the timeline and the table; the CSV file has all."""

_EVENTS_SQL = """
    SELECT time_s, event, coalesce(line_name, zone_name) AS name, line_name IS NOT NULL AS is_line, class_name,
        track_id, frame_index, dwell_s, speed_m_s * 3.6 AS speed_km_h, is_at_track_end
    FROM zone_events WHERE recording_id = $id ORDER BY time_s, track_id, event_index LIMIT $limit
"""


def read_timeline(
    connection: duckdb.DuckDBPyConnection, recording_id: str, duration_s: float, max_events: int = MAX_EVENTS
) -> Row:
    """Read the lanes, events and marks of one recording.

    Args:
        connection: The published results.
        recording_id: The recording.
        duration_s: Its duration.
        max_events: How many events to read.

    Returns:
        "bin_s" (length of a bin), "classes" and "zones" (name and peak count per bin), "events" and "event_count",
        "cuts" (seconds), "marks" (kind, start_s and end_s of defects, missing stretches and gaps).
    """
    bin_s = max(duration_s / MAX_BINS, 1e-3)
    counts = fetch_rows(
        connection, "SELECT count(*) AS count FROM zone_events WHERE recording_id = $id", {"id": recording_id}
    )
    return {
        "bin_s": bin_s,
        "classes": _read_lanes(connection, recording_id, "class_presence", "class_name", bin_s),
        "zones": _read_lanes(connection, recording_id, "zone_presence", "zone_name", bin_s),
        "events": fetch_rows(connection, _EVENTS_SQL, {"id": recording_id, "limit": max_events}),
        "event_count": counts[0]["count"],
        "cuts": _read_cuts(connection, recording_id),
        "marks": _read_marks(connection, recording_id),
    }


def _read_lanes(
    connection: duckdb.DuckDBPyConnection, recording_id: str, table: str, name: str, bin_s: float
) -> list[Row]:
    """Read the greatest number of objects per bin, for every class or zone."""
    query = f"""
        SELECT {name} AS name, start_s, end_s, object_count FROM {table} WHERE recording_id = $id
        ORDER BY {name}, start_s
    """
    intervals: dict[str, list[tuple[float, float, int]]] = {}
    for row in fetch_rows(connection, query, {"id": recording_id}):
        intervals.setdefault(row["name"], []).append((row["start_s"], row["end_s"], row["object_count"]))
    return [{"name": key, "peaks": _peaks(values, bin_s)} for key, values in intervals.items()]


def _peaks(intervals: list[tuple[float, float, int]], bin_s: float) -> list[int]:
    """The greatest sum of the counts of overlapping intervals in each bin."""
    times = sorted({time_s for start_s, end_s, _ in intervals for time_s in (start_s, end_s)})
    position = {time_s: index for index, time_s in enumerate(times)}
    steps = np.zeros(len(times) + 1, np.int64)
    for start_s, end_s, count in intervals:
        steps[position[start_s]] += count
        steps[position[end_s]] -= count
    level = np.cumsum(steps)
    peaks = np.zeros(MAX_BINS + 1, np.int64)
    for index, time_s in enumerate(times[:-1]):
        first, last = int(time_s / bin_s), math.ceil(times[index + 1] / bin_s)
        peaks[first:last] = np.maximum(peaks[first:last], level[index])
    return [int(peak) for peak in peaks[:MAX_BINS]]


def _read_cuts(connection: duckdb.DuckDBPyConnection, recording_id: str) -> list[float]:
    query = "SELECT start_s FROM scenes WHERE recording_id = $id AND scene_index > 0 ORDER BY start_s"
    return [row["start_s"] for row in fetch_rows(connection, query, {"id": recording_id})]


def _read_marks(connection: duckdb.DuckDBPyConnection, recording_id: str) -> list[Row]:
    """Read the stretches that are black, frozen, blurred or missing, and the gaps of the source."""
    query = """
        SELECT kind, start_s, end_s FROM stretches WHERE recording_id = $id
        UNION ALL BY NAME
        SELECT 'missing' AS kind, stretch.start_s AS start_s, stretch.end_s AS end_s
        FROM (SELECT unnest(missing_s) AS stretch FROM recording_contents WHERE recording_id = $id)
        UNION ALL BY NAME
        SELECT 'gap' AS kind, time_s - gap_s AS start_s, time_s AS end_s
        FROM frames WHERE recording_id = $id AND gap_s > 0
        ORDER BY start_s, kind LIMIT 2000
    """
    return fetch_rows(connection, query, {"id": recording_id})


def read_tracks(connection: duckdb.DuckDBPyConnection, recording_id: str) -> dict[str, list[Any]]:
    """Read the tracks of a recording as columns: track_id, class_name, start_s, end_s, first_frame_index, doubtful."""
    query = """
        SELECT track_id, class_name, round(start_s, 3) AS start_s, round(end_s, 3) AS end_s, first_frame_index,
            coalesce(is_doubtful, false) OR coalesce(class_share < 0.6, false) AS is_doubtful, is_corrected
        FROM tracks WHERE recording_id = $id ORDER BY start_s, track_id
    """
    result = connection.execute(query, {"id": recording_id}).fetchnumpy()
    return {name: values.tolist() for name, values in result.items()}
