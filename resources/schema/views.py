"""Views and derived tables that span recordings, computed at each publication of results.duckdb."""

from resources.schema.columns import Table
from resources.schema.summary_tables import CAMERA_HOURS

# Tables computed from others at each publication: they span recordings, so no recording owns their rows.
DERIVED_SQL: dict[str, tuple[Table, str]] = {
    CAMERA_HOURS.name: (
        CAMERA_HOURS,
        """
        WITH continued AS (
            SELECT recording_id, class_name,
                to_timestamp(floor(epoch(started_at_utc + to_seconds(start_s)) / 3600) * 3600) AS hour_utc,
                count(*) AS continued_count
            FROM track_links JOIN tracks USING (recording_id, track_id) JOIN recordings USING (recording_id)
            GROUP BY recording_id, class_name, hour_utc
        )
        SELECT camera, hour_utc, class_name,
            (sum(new_track_count) - coalesce(sum(continued_count), 0))::INTEGER AS track_count,
            max(max_at_once) AS max_at_once, sum(object_s) AS object_s
        FROM recording_hours LEFT JOIN continued USING (recording_id, hour_utc, class_name)
        GROUP BY camera, hour_utc, class_name ORDER BY camera, hour_utc, class_name
        """,
    )
}

CAMERA_TIMELINE = """
CREATE VIEW camera_timeline AS
SELECT
    camera,
    recording_id,
    started_at_utc,
    ended_at_utc,
    date_diff('microseconds', min(started_at_utc) OVER whole_timeline, started_at_utc) / 1e6 AS timeline_start_s,
    lag(recording_id) OVER in_time_order AS previous_recording_id,
    date_diff('microseconds', lag(ended_at_utc) OVER in_time_order, started_at_utc) / 1e6 AS gap_s
FROM (
    SELECT *, started_at_utc + to_microseconds((duration_s_from_content * 1e6)::BIGINT) AS ended_at_utc
    FROM recordings
    WHERE started_at_utc IS NOT NULL AND duration_s_from_content IS NOT NULL
)
WINDOW
    whole_timeline AS (PARTITION BY camera),
    in_time_order AS (PARTITION BY camera ORDER BY started_at_utc, recording_id)
"""

CAMERA_TIMELINE_COMMENTS = {
    "": "One row per recording: its position on the time line of its camera. Key: recording_id.",
    "camera": "First folder under the watched folder; NULL for files directly in it",
    "recording_id": "The recording",
    "started_at_utc": "Wall-clock time of the first frame [UTC]",
    "ended_at_utc": "Wall-clock time of the end [UTC]",
    "timeline_start_s": "Start of the recording on the camera's time line; add time_s for the position of a frame [s]",
    "gap_s": "Time from the end of the previous recording; negative if they overlap [s]",
    "previous_recording_id": "The camera's previous recording; NULL for its first",
}
