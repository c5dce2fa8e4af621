"""v_events: what an analyst asks about an event first, in one row: when, where, what, and which object."""

from resources.schema.columns import (
    CAMERA,
    CAPTURED_AT_UTC,
    CLASS_NAME,
    FLOAT,
    LOCAL,
    RECORDING_ID,
    TEXT,
    TIME_MMSS,
    TIME_S,
    TRACK_ID,
    Column,
    Table,
    View,
)
from resources.schema.zone_tables import ZONE_EVENTS

_OF_EVENTS = {column.name: column for column in ZONE_EVENTS.columns}

EVENTS = View(
    Table(
        "v_events",
        "One row per zone or line event: its camera, time, place and object.",
        ("recording_id", "track_id", "event_index"),
        (
            RECORDING_ID,
            TRACK_ID,
            _OF_EVENTS["event_index"],
            CAMERA,
            Column("captured_at_local", LOCAL, "captured_at_utc in the camera's time zone", nullable=True),
            CAPTURED_AT_UTC,
            Column("place", TEXT, "Name of the zone or line"),
            Column("place_kind", TEXT, "What the place is", allowed=("zone", "line")),
            _OF_EVENTS["event"],
            CLASS_NAME,
            _OF_EVENTS["dwell_s"],
            Column("speed_km_h", FLOAT, "Speed on the ground; NULL for cameras without ground", "km/h", nullable=True),
            _OF_EVENTS["is_at_track_end"],
            TIME_S,
            TIME_MMSS,
        ),
    ),
    """
    SELECT recording_id, track_id, event_index, zone_events.camera,
        timezone(time_zone, captured_at_utc) AS captured_at_local, captured_at_utc,
        coalesce(line_name, zone_name) AS place, CASE WHEN line_name IS NULL THEN 'zone' ELSE 'line' END AS place_kind,
        event, class_name, dwell_s, speed_m_s * 3.6 AS speed_km_h, is_at_track_end, time_s, time_mmss
    FROM zone_events LEFT JOIN (SELECT recording_id, time_zone FROM recording_clocks) USING (recording_id)
    """,
)
