"""Views of results.duckdb per second, minute and hour of the wall clock, computed from intervals and events.

What is stored has media times, so a corrected clock changes these views and reruns nothing. An interval that spans
several units of time is cut at their borders.
"""

from dataclasses import replace

from resources.schema.columns import (
    CAMERA,
    CLASS_NAME,
    FLOAT,
    INT,
    MINUTE_UTC,
    RECORDING_ID,
    SECOND_UTC,
    Column,
    Table,
    View,
)
from resources.schema.summary_tables import CAMERA_HOURS, RECORDING_HOURS
from resources.schema.zone_tables import DIRECTION, LINE_NAME, TRANSITION_COLUMNS, ZONE_NAME

_SECOND_US = 1_000_000
_MINUTE_US = 60 * _SECOND_US
_HOUR_US = 60 * _MINUTE_US

_COUNTED_TRACKS = (
    "(SELECT tracks.* FROM tracks ANTI JOIN (SELECT recording_id, track_id FROM still_tracks WHERE is_left_out) AS "
    "left_out USING (recording_id, track_id))"
)


def _units_sql(unit_us: int) -> str:
    """SQL of the numbers of the units of time, since 1970, that an interval from first_us to end_us touches."""
    return f"unnest(range(first_us // {unit_us}, (end_us - 1) // {unit_us} + 1))"


def _overlap_sql(unit_us: int, start_us: str = "first_us", end_us: str = "end_us") -> str:
    """SQL of the microseconds that an interval shares with a unit of time."""
    return f"(least({end_us}, (unit + 1) * {unit_us}) - greatest({start_us}, unit * {unit_us}))"


def _recorded_sql(unit_us: int, max_count: str) -> str:
    """SQL of the microseconds of a recording within a unit of time, from its clock and its duration.

    Args:
        unit_us: Length of the unit.
        max_count: Column of the greatest number of objects at once: the last frame may end after the recording, but
            the mean number of objects never exceeds the greatest.
    """
    end_us = "epoch_us(clock.started_at_utc) + (duration_s_from_content * 1e6)::BIGINT"
    return f"greatest({_overlap_sql(unit_us, 'epoch_us(clock.started_at_utc)', end_us)}, object_us / {max_count})"


_CLASS_MINUTES = Table(
    "class_minutes",
    "One row per recording, class and minute of the wall clock with a track of the class.",
    ("recording_id", "class_name", "minute_utc"),
    (
        RECORDING_ID,
        CAMERA,
        CLASS_NAME,
        MINUTE_UTC,
        Column("track_count", INT, "Tracks in the minute", minimum=0),
        Column("new_track_count", INT, "Tracks that start in the minute", minimum=0),
        Column("max_at_once", INT, "Greatest number of tracks of the class in one frame", minimum=0),
        Column(
            "mean_at_once",
            FLOAT,
            "Mean number of tracks of the class, over the time of the recording within the minute",
            minimum=0,
        ),
        Column("object_s", FLOAT, "Time in view, summed over all tracks", "s", minimum=0),
    ),
)

_CAMERA_MINUTES = Table(
    "camera_minutes",
    "One row per camera, class and minute of the wall clock, over all recordings of the camera.",
    ("camera", "minute_utc", "class_name"),
    tuple(
        MINUTE_UTC if column.name == "hour_utc" else replace(column, meaning=column.meaning.replace("hour", "minute"))
        for column in CAMERA_HOURS.columns
    ),
    per_recording=False,
)


def _presence_view(table: Table, unit_us: int, unit_column: str) -> View:
    """Declare a view of the objects of each class per recording and unit of the wall clock."""
    values = {
        "recording_id": "presence.recording_id",
        "camera": "clock.camera",
        "class_name": "presence.class_name",
        unit_column: f"make_timestamptz(unit * {unit_us})",
        "track_count": "coalesce(track_count, 0)::INTEGER",
        "new_track_count": "coalesce(new_track_count, 0)::INTEGER",
        "mean_at_once": f"object_us / {_recorded_sql(unit_us, 'max_at_once')}",
        "object_s": "object_us / 1e6",
    }
    columns = ", ".join(f"{values.get(column.name, column.name)} AS {column.name}" for column in table.columns)
    query = f"""
    WITH presence AS (
        SELECT recording_id, class_name, unit, max(object_count) AS max_at_once,
            sum(object_count * {_overlap_sql(unit_us)}) AS object_us
        FROM (
            SELECT *, {_units_sql(unit_us)} AS unit
            FROM (SELECT *, epoch_us(start_utc) AS first_us, epoch_us(end_utc) AS end_us FROM class_presence)
        )
        GROUP BY recording_id, class_name, unit
    ),
    tracked AS (
        SELECT recording_id, class_name, unit, count(*) AS track_count,
            count(*) FILTER (WHERE unit = first_us // {unit_us}) AS new_track_count
        FROM (
            SELECT *, {_units_sql(unit_us)} AS unit
            FROM (
                SELECT recording_id, class_name, epoch_us(start_utc) AS first_us, epoch_us(end_utc) AS end_us
                FROM {_COUNTED_TRACKS}
            )
        )
        GROUP BY recording_id, class_name, unit
    )
    SELECT {columns}
    FROM presence LEFT JOIN tracked USING (recording_id, class_name, unit)
        JOIN recording_clocks AS clock USING (recording_id) LEFT JOIN recording_contents USING (recording_id)
    """
    return View(table, query)


def _camera_view(table: Table, source: View, unit_us: int, unit_column: str) -> View:
    """Declare a view of the objects of each class per camera and unit of the wall clock, over all its recordings."""
    query = f"""
    WITH continued AS (
        SELECT recording_id, class_name, count(*) AS continued_count,
            make_timestamptz(epoch_us(start_utc) // {unit_us} * {unit_us}) AS {unit_column}
        FROM track_links JOIN {_COUNTED_TRACKS} USING (recording_id, track_id)
        GROUP BY recording_id, class_name, {unit_column}
    )
    SELECT camera, {unit_column}, class_name,
        (sum(new_track_count) - coalesce(sum(continued_count), 0))::INTEGER AS track_count,
        max(max_at_once) AS max_at_once, sum(object_s) AS object_s
    FROM {source.table.name} LEFT JOIN continued USING (recording_id, {unit_column}, class_name)
    GROUP BY camera, {unit_column}, class_name
    """
    return View(table, query)


_ZONE_UNIT_COLUMNS = (
    Column("object_s", FLOAT, "Time in the zone, summed over all objects", "s", nullable=True, minimum=0),
    Column(
        "mean_occupancy",
        FLOAT,
        "Mean number of objects of the class in the zone, over the time of the recording within the {unit}",
        nullable=True,
        minimum=0,
    ),
    Column(
        "max_occupancy",
        INT,
        "Greatest number of objects of the class in the zone at once",
        nullable=True,
        minimum=0,
    ),
    Column("queue_s", FLOAT, "Time in the queue, summed over all objects", "s", nullable=True, minimum=0),
    Column(
        "mean_queue",
        FLOAT,
        "Mean number of queueing objects of the class, over the time of the recording within the {unit}",
        nullable=True,
        minimum=0,
    ),
    Column("max_queue", INT, "Greatest number of queueing objects at once", nullable=True, minimum=0),
)
_TRANSITIONS_SQL = """
        UNION ALL BY NAME
        SELECT recording_id, zone_name, class_name, epoch_us(captured_at_utc) // {unit_us} AS unit, event, dwell_s
        FROM zone_events WHERE zone_name IS NOT NULL AND captured_at_utc IS NOT NULL"""
_TRANSITION_VALUES_SQL = """,
        count(*) FILTER (WHERE event = 'enter')::INTEGER AS enter_count,
        count(*) FILTER (WHERE event = 'exit')::INTEGER AS exit_count,
        quantile_cont(dwell_s, 0.5) AS dwell_p50_s, quantile_cont(dwell_s, 0.9) AS dwell_p90_s"""


def _zone_view(unit: str, unit_us: int, unit_column: Column, *, has_transitions: bool) -> View:
    """Declare the view of the occupancy of zones by class per recording and unit of the wall clock.

    Args:
        unit: Name of the unit.
        unit_us: Its length.
        unit_column: Column of its start.
        has_transitions: Whether it has columns of entries, exits and dwell times, too.
    """
    occupancy_columns = tuple(
        replace(column, meaning=column.meaning.format(unit=unit)) for column in _ZONE_UNIT_COLUMNS
    )
    transition_columns = TRANSITION_COLUMNS if has_transitions else ()
    table = Table(
        f"zone_{unit}s",
        f"One row per recording, zone, class and {unit} of the wall clock with an object of the class in the zone.",
        ("recording_id", "zone_name", "class_name", unit_column.name),
        (RECORDING_ID, CAMERA, ZONE_NAME, CLASS_NAME, unit_column, *occupancy_columns, *transition_columns),
    )
    recorded_us = _recorded_sql(unit_us, "max_occupancy")
    query = f"""
    WITH occupancy AS (
        SELECT recording_id, zone_name, class_name, unit, sum(object_count * overlap_us) AS object_us,
            max(object_count) AS max_occupancy, sum(queue_count * overlap_us) AS queue_us, max(queue_count) AS max_queue
            {_TRANSITION_VALUES_SQL if has_transitions else ""}
        FROM (
            SELECT recording_id, zone_name, class_name, unit, object_count, queue_count,
                {_overlap_sql(unit_us)} AS overlap_us
            FROM (
                SELECT *, {_units_sql(unit_us)} AS unit
                FROM (SELECT *, epoch_us(start_utc) AS first_us, epoch_us(end_utc) AS end_us FROM zone_presence)
            )
            {_TRANSITIONS_SQL.format(unit_us=unit_us) if has_transitions else ""}
        )
        GROUP BY recording_id, zone_name, class_name, unit
    )
    SELECT recording_id, clock.camera AS camera, zone_name, class_name,
        make_timestamptz(unit * {unit_us}) AS {unit_column.name}, object_us / 1e6 AS object_s,
        object_us / {recorded_us} AS mean_occupancy, max_occupancy,
        queue_us / 1e6 AS queue_s, queue_us / {recorded_us} AS mean_queue, max_queue
        {"".join(f", {column.name}" for column in transition_columns)}
    FROM occupancy JOIN recording_clocks AS clock USING (recording_id) LEFT JOIN recording_contents USING (recording_id)
    """
    return View(table, query)


_LINE_MINUTES = View(
    Table(
        "line_minutes",
        "One row per recording, line, direction, class and minute of the wall clock with a crossing.",
        ("recording_id", "line_name", "direction", "class_name", "minute_utc"),
        (
            RECORDING_ID,
            CAMERA,
            LINE_NAME,
            DIRECTION,
            CLASS_NAME,
            MINUTE_UTC,
            Column("crossing_count", INT, "Number of crossings", minimum=1),
        ),
    ),
    f"""
    SELECT recording_id, zone_events.camera, line_name, event AS direction, class_name,
        make_timestamptz(epoch_us(captured_at_utc) // {_MINUTE_US} * {_MINUTE_US}) AS minute_utc,
        count(*)::INTEGER AS crossing_count
    FROM zone_events WHERE line_name IS NOT NULL AND captured_at_utc IS NOT NULL
    GROUP BY recording_id, zone_events.camera, line_name, event, class_name, minute_utc
    """,
)

_RECORDING_HOURS_VIEW = _presence_view(RECORDING_HOURS, _HOUR_US, "hour_utc")
_CLASS_MINUTES_VIEW = _presence_view(_CLASS_MINUTES, _MINUTE_US, "minute_utc")

CLOCK_VIEWS = (
    _RECORDING_HOURS_VIEW,
    _camera_view(CAMERA_HOURS, _RECORDING_HOURS_VIEW, _HOUR_US, "hour_utc"),
    _CLASS_MINUTES_VIEW,
    _camera_view(_CAMERA_MINUTES, _CLASS_MINUTES_VIEW, _MINUTE_US, "minute_utc"),
    _zone_view("minute", _MINUTE_US, MINUTE_UTC, has_transitions=True),
    _zone_view("second", _SECOND_US, SECOND_UTC, has_transitions=False),
    _LINE_MINUTES,
)
"""In the order in which they are created. `camera` is qualified in those with a macro, which has such a parameter."""
