"""Cameras for their pages: counts by hour over days, gaps between recordings, and health."""

from typing import Any

import duckdb

from serve.pages.result_rows import Row, fetch_rows

DAYS = 14
"""Days that the page of a camera shows at once."""
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_MIN_GAP_S = 1.0

_CAMERAS_SQL = """
    WITH health AS (
        SELECT recording_id, sum(duration_s) AS defect_s FROM stretches GROUP BY recording_id
    ),
    silence AS (
        SELECT camera, arg_max(kind, reported_at_utc) = 'no_data' AS is_silent FROM notifications
        WHERE kind IN ('no_data', 'data_resumed') GROUP BY camera
    )
    SELECT recordings.camera, count(*) AS recording_count, sum(duration_s_from_content) AS recorded_s,
        count(*) FILTER (WHERE status IN ('failed', 'rejected', 'quarantined')) AS failed_count,
        count(*) FILTER (WHERE status = 'partial') AS partial_count,
        coalesce(sum(defect_s), 0) AS defect_s,
        epoch_ms(min(started_at_utc)) AS first_utc,
        epoch_ms(max(make_timestamptz(epoch_us(started_at_utc) + (coalesce(duration_s_from_content, 0) * 1e6)::BIGINT)))
            AS last_utc,
        arg_max(recording_id, started_at_utc) FILTER (WHERE video_path IS NOT NULL) AS newest_recording_id,
        coalesce(bool_or(is_silent), false) AS is_silent
    FROM recordings LEFT JOIN health USING (recording_id)
        LEFT JOIN silence ON recordings.camera IS NOT DISTINCT FROM silence.camera
    GROUP BY recordings.camera ORDER BY recordings.camera NULLS FIRST
"""


def read_cameras(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Read all cameras with their totals, and whether the newest notification is that no data arrives."""
    return fetch_rows(connection, _CAMERAS_SQL)


def read_camera_days(connection: duckdb.DuckDBPyConnection, camera: str | None, first_day_ms: int) -> Row:
    """Read the hours of some days of a camera.

    Args:
        connection: The published results.
        camera: The camera; None for the recordings directly in the watched folder.
        first_day_ms: Start of the first day, in epoch milliseconds.

    Returns:
        "hours" (hour_ms, class_name, track_count, max_at_once), "recordings" (recording_id, start_ms, end_ms, status,
        error) in order of time, and "gaps" (start_ms, end_ms) between recordings.
    """
    values: dict[str, Any] = {"camera": camera, "first": first_day_ms, "end": first_day_ms + DAYS * _DAY_MS}
    hours = """
        SELECT epoch_ms(hour_utc) AS hour_ms, class_name, track_count, max_at_once FROM camera_hours
        WHERE camera IS NOT DISTINCT FROM $camera AND hour_utc >= make_timestamptz($first * 1000)
            AND hour_utc < make_timestamptz($end * 1000)
        ORDER BY ALL
    """
    recordings = """
        SELECT recording_id, status, error, epoch_ms(started_at_utc) AS start_ms,
            epoch_ms(started_at_utc) + (coalesce(duration_s_from_content, 0) * 1000)::BIGINT AS end_ms
        FROM recordings
        WHERE camera IS NOT DISTINCT FROM $camera AND started_at_utc < make_timestamptz($end * 1000)
            AND epoch_ms(started_at_utc) + (coalesce(duration_s_from_content, 0) * 1000)::BIGINT > $first
        ORDER BY started_at_utc, recording_id
    """
    rows = fetch_rows(connection, recordings, values)
    return {
        "first_day_ms": first_day_ms,
        "day_count": DAYS,
        "hours": fetch_rows(connection, hours, values),
        "recordings": rows,
        "gaps": find_gaps(rows),
    }


def find_gaps(rows: list[Row]) -> list[Row]:
    """Find the times without a recording between the first and the last of some recordings, sorted by start."""
    gaps, end_ms = [], None
    for row in rows:
        if end_ms is not None and row["start_ms"] - end_ms > _MIN_GAP_S * 1000:
            gaps.append({"start_ms": end_ms, "end_ms": row["start_ms"]})
        end_ms = row["end_ms"] if end_ms is None else max(end_ms, row["end_ms"])
    return gaps


def last_day_ms(connection: duckdb.DuckDBPyConnection, camera: str | None) -> int | None:
    """Start of the day of the camera's newest recording, in epoch milliseconds; None without recordings."""
    query = """
        SELECT epoch_ms(max(started_at_utc)) AS last_ms FROM recordings WHERE camera IS NOT DISTINCT FROM $camera
    """
    last_ms = fetch_rows(connection, query, {"camera": camera})[0]["last_ms"]
    return None if last_ms is None else last_ms - last_ms % _DAY_MS
