"""Tables of zone and line events and their summaries."""

from dataclasses import replace

from resources.schema.columns import (
    CAPTURED_AT_UTC,
    CLASS_ID,
    CLASS_NAME,
    END_S,
    END_UTC,
    FLAG,
    FLOAT,
    FRAME_INDEX,
    INT,
    MINUTE_INDEX,
    MINUTE_START_UTC,
    RECORDING_CAMERA,
    RECORDING_ID,
    RECORDING_START_UTC,
    START_S,
    START_UTC,
    TEXT,
    TIME_MMSS,
    TIME_S,
    TRACK_ID,
    Column,
    Table,
    nullable,
    wall_clock_sql,
)

ZONE_NAME = Column("zone_name", TEXT, "Name of the zone in the settings")
LINE_NAME = Column("line_name", TEXT, "Name of the line in the settings")
TRANSITION_COLUMNS = (
    Column("enter_count", INT, "Entries, including objects already inside when first seen", minimum=0),
    Column("exit_count", INT, "Exits, including objects still inside when last seen", minimum=0),
    *(
        Column(
            f"dwell_p{percent}_s",
            FLOAT,
            f"{percent}th percentile of dwell_s of the exits",
            "s",
            nullable=True,
            minimum=0,
        )
        for percent in (50, 90)
    ),
)
"""Entries into and exits from a zone in an interval."""

DIRECTION = Column(
    "direction",
    TEXT,
    "in: from the line's left to its right, seen from its first point to its last; out: the other way",
    allowed=("in", "out"),
)
_ON_GROUND = "on the ground; NULL for cameras without ground"

ZONE_EVENTS = Table(
    "zone_events",
    "One row per entry into a zone, exit from a zone, or line crossing.",
    ("recording_id", "track_id", "event_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        Column("event_index", INT, "Index of the event in its track, from 0, in order of time", minimum=0),
        Column(
            "event",
            TEXT,
            "enter, exit: of a zone; in: crosses a line from its left to its right, seen from its first point to its "
            "last; out: crosses the other way",
            allowed=("enter", "exit", "in", "out"),
        ),
        nullable(ZONE_NAME, "Name of the zone in the settings; NULL for lines"),
        nullable(LINE_NAME, "Name of the line in the settings; NULL for zones"),
        FRAME_INDEX,
        TIME_S,
        TIME_MMSS,
        CAPTURED_AT_UTC,
        CLASS_ID,
        CLASS_NAME,
        Column("x_px", FLOAT, "Position of the object's anchor, from the left", "px"),
        Column("y_px", FLOAT, "Position of the object's anchor, from the top", "px"),
        Column("x_m", FLOAT, f"x position {_ON_GROUND}", "m", nullable=True),
        Column("y_m", FLOAT, f"y position {_ON_GROUND}", "m", nullable=True),
        Column("speed_px_s", FLOAT, "Mean speed over the second around the event", "px/s", minimum=0),
        Column(
            "speed_m_s",
            FLOAT,
            f"Mean speed over the second around the event, {_ON_GROUND}",
            "m/s",
            nullable=True,
            minimum=0,
        ),
        Column("dwell_s", FLOAT, "For exits: time since the entry", "s", nullable=True, minimum=0),
        Column(
            "is_at_track_end",
            FLAG,
            "Whether the object was already inside when first seen (enter) or still inside when last seen (exit), so "
            "the real time is unknown",
        ),
    ),
)

ZONE_SECONDS = Table(
    "zone_seconds",
    "One row per recording, zone and second of the recording: occupancy and queue over all classes.",
    ("recording_id", "zone_name", "second_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        ZONE_NAME,
        Column("second_index", INT, "Index of the second of media time, from 0", minimum=0),
        replace(
            MINUTE_START_UTC,
            name="second_start_utc",
            meaning=MINUTE_START_UTC.meaning.replace("minute", "second"),
            derived_sql=wall_clock_sql("second_index * 1e6"),
        ),
        Column("mean_occupancy", FLOAT, "Mean number of objects in the zone", minimum=0),
        Column("max_occupancy", INT, "Greatest number of objects in the zone at once", minimum=0),
        Column("mean_queue", FLOAT, "Mean number of queueing objects in the zone", minimum=0),
        Column("max_queue", INT, "Greatest number of queueing objects in the zone at once", minimum=0),
    ),
    published_name="recording_zone_seconds",
)

ZONE_PRESENCE = Table(
    "zone_presence",
    "One row per recording, zone, class and interval with a constant number of objects of the class in the zone.",
    ("recording_id", "zone_name", "class_name", "start_s"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        ZONE_NAME,
        CLASS_NAME,
        START_S,
        END_S,
        START_UTC,
        END_UTC,
        Column("object_count", INT, "Objects of the class in the zone in each frame of the interval", minimum=1),
        Column("queue_count", INT, "Queueing objects among them", minimum=0),
    ),
)

LINE_TRIPS = Table(
    "line_trips",
    "One row per trip of an object from one line to the next different line.",
    ("recording_id", "track_id", "trip_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        Column("trip_index", INT, "Index of the trip in its track, from 0", minimum=0),
        CLASS_ID,
        CLASS_NAME,
        Column("from_line", TEXT, "Line at the start of the trip"),
        replace(DIRECTION, name="from_direction"),
        Column("to_line", TEXT, "Line at the end of the trip"),
        replace(DIRECTION, name="to_direction"),
        Column("start_s", FLOAT, "time_s of the first crossing", "s", minimum=0),
        replace(
            CAPTURED_AT_UTC,
            meaning="Wall-clock time of the first crossing; NULL if the recording's start time is unknown",
            derived_sql=wall_clock_sql("start_s * 1e6"),
        ),
        Column("travel_s", FLOAT, "Time from the first crossing to the second", "s", minimum=0),
        Column("distance_px", FLOAT, "Straight distance between the two crossings", "px", minimum=0),
        Column("speed_px_s", FLOAT, "distance_px divided by travel_s", "px/s", nullable=True, minimum=0),
        Column(
            "distance_m",
            FLOAT,
            f"Straight distance between the two crossings {_ON_GROUND}",
            "m",
            nullable=True,
            minimum=0,
        ),
        Column("speed_m_s", FLOAT, "distance_m divided by travel_s", "m/s", nullable=True, minimum=0),
    ),
)

GROUND_TRACKS = Table(
    "ground_tracks",
    "One row per track of a camera with ground: path and speeds in metres.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        RECORDING_START_UTC,
        TRACK_ID,
        CLASS_ID,
        CLASS_NAME,
        Column("path_m", FLOAT, "Length of the path", "m", minimum=0),
        Column("mean_speed_m_s", FLOAT, "Mean speed", "m/s", minimum=0),
        Column("max_speed_m_s", FLOAT, "Greatest speed over a second", "m/s", minimum=0),
        *(
            Column(f"{end}_{axis}_m", FLOAT, f"{axis} position on the ground when {end} seen", "m")
            for end in ("first", "last")
            for axis in "xy"
        ),
    ),
)

ZONE_MINUTES = Table(
    "zone_minutes",
    "One row per recording, zone and minute of the recording, over all classes.",
    ("recording_id", "zone_name", "minute_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        ZONE_NAME,
        MINUTE_INDEX,
        MINUTE_START_UTC,
        Column("mean_occupancy", FLOAT, "Mean number of objects in the zone", minimum=0),
        Column("max_occupancy", INT, "Greatest number of objects in the zone at once", minimum=0),
        Column("mean_queue", FLOAT, "Mean number of queueing objects in the zone", minimum=0),
        Column("max_queue", INT, "Greatest number of queueing objects in the zone at once", minimum=0),
        *TRANSITION_COLUMNS,
    ),
    is_small=True,
    published_name="recording_zone_minutes",
)

LINE_MINUTES = Table(
    "line_minutes",
    "One row per recording, line, direction, class and minute of the recording with a crossing.",
    ("recording_id", "line_name", "direction", "class_name", "minute_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        LINE_NAME,
        DIRECTION,
        CLASS_NAME,
        MINUTE_INDEX,
        MINUTE_START_UTC,
        Column("crossing_count", INT, "Number of crossings", minimum=1),
    ),
    is_small=True,
    published_name="recording_line_minutes",
)

ORIGIN_DESTINATIONS = Table(
    "origin_destinations",
    "One row per recording, class and pair of lines: objects that crossed the first line first and the second last.",
    ("recording_id", "class_name", "origin_line", "destination_line"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        RECORDING_START_UTC,
        CLASS_NAME,
        Column("origin_line", TEXT, "First line that the objects crossed"),
        Column(
            "destination_line",
            TEXT,
            "Last line that the objects crossed; equals origin_line for objects that crossed one line only",
        ),
        Column("track_count", INT, "Number of objects", minimum=1),
        Column("median_travel_s", FLOAT, "Median time from the first crossing to the last", "s", minimum=0),
    ),
    is_small=True,
)
