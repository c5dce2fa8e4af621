"""Views and macros of results.duckdb, which span tables: states, clocks and the time lines of cameras."""

from collections.abc import Sequence
from dataclasses import dataclass

from resources.schema.camera_health_view import CAMERA_HEALTH
from resources.schema.clock_views import CLOCK_VIEWS
from resources.schema.columns import (
    CAMERA,
    CAPTURED_AT_UTC,
    FINGERPRINT,
    FLOAT,
    MINUTE_UTC,
    MTIME_UTC,
    RECORDING_ID,
    SIZE_BYTES,
    SOURCE_PATH,
    STATUS_MEANING,
    STATUSES,
    TEXT,
    UTC,
    Column,
    Table,
    View,
    nullable,
    wall_clock_sql,
)
from resources.schema.correction_tables import CORRECTIONS_VIEW, TRACK_BOXES_VIEW, TRACKS_VIEW
from resources.schema.event_view import EVENTS
from resources.schema.object_view import OBJECTS
from resources.schema.recording_tables import RECORDING_CLOCKS, RECORDING_CONTENTS, RECORDINGS
from resources.schema.repeated_view import REPEATED_OBJECTS

STATUS_SEVERITY = ("rejected", "quarantined", "failed", "interrupted", "partial", "ok")
"""The states of stages, most severe first: a recording has that of its most severe stage, of equal ones the newest."""

_STATUS_COLUMNS = (
    Column("status", TEXT, STATUS_MEANING, nullable=True, allowed=STATUSES),
    Column("error", TEXT, "Reason of the status in one sentence; NULL if ok", nullable=True),
    Column(
        "failed_stage",
        TEXT,
        "Stage of that status; NULL unless status is failed, interrupted or quarantined",
        nullable=True,
    ),
)

# The order of attempts is that of `newest_stage_runs`.
RECORDING_STATUS = View(
    Table(
        "recording_status",
        "One row per recording: the most severe state among the newest attempts of its stages.",
        ("recording_id",),
        (RECORDING_ID, *_STATUS_COLUMNS),
    ),
    f"""
    WITH newest AS (
        SELECT recording_id, stage, status, error, finished_at_utc FROM stage_runs
        QUALIFY row_number() OVER (PARTITION BY recording_id, stage ORDER BY finished_at_utc DESC, attempt DESC) = 1
    )
    SELECT recording_id, status, error,
        CASE WHEN status IN ('failed', 'interrupted', 'quarantined') THEN stage END AS failed_stage
    FROM newest
    QUALIFY row_number() OVER (
        PARTITION BY recording_id
        ORDER BY list_position({list(STATUS_SEVERITY)}, status), finished_at_utc DESC, stage
    ) = 1
    """,
)

_FILE_COLUMNS = (CAMERA, SOURCE_PATH, FINGERPRINT, SIZE_BYTES, MTIME_UTC)
_CLOCK_COLUMNS = tuple(nullable(column) for column in RECORDING_CLOCKS.stored_columns[1:])
_CONTENT_BESIDE_HEADER = {
    "rate_fps_from_header": (
        *("rate_fps_num_from_content", "rate_fps_den_from_content", "rate_fps_from_content", "is_variable_rate"),
    ),
    "frame_count_from_header": ("frame_count_from_content",),
    "duration_s_from_header": ("duration_s_from_content",),
    "start_time_s_from_header": ("start_time_s_from_content",),
}


def _media_columns() -> tuple[Column, ...]:
    """The columns of header and content, those of the same quantity side by side; no pictures."""
    contents = {column.name: column for column in RECORDING_CONTENTS.columns[1:] if column.name != "view_jpeg"}
    columns = []
    for column in RECORDINGS.columns[1 + len(_FILE_COLUMNS) :]:
        columns += [column, *(contents.pop(name) for name in _CONTENT_BESIDE_HEADER.get(column.name, ()))]
    return (*columns, *contents.values())


def _names(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]


# NULL is a camera, too, so that the NULL of a header is not replaced by the camera of a copy of the file.
_CAMERA_SQL = "CASE WHEN headers.source_path IS NULL THEN files.camera ELSE headers.camera END"

CAMERAS_SQL = f"""
    SELECT recording_id, {_CAMERA_SQL} AS camera
    FROM recording_headers AS headers FULL JOIN (
        SELECT recording_id, arg_min_null(camera, state <> 'known') AS camera
        FROM source_files WHERE recording_id IS NOT NULL GROUP BY recording_id
    ) AS files USING (recording_id)
"""
"""The camera of every recording, also of those without header or clock, which the published recording_clocks has."""

# An attempt can fail before the recording has a header: its file is then known from source_files alone.
RECORDINGS_VIEW = View(
    Table(
        "recordings",
        "One row per recording: its status, what its header claims, what its content is, and when it starts.",
        ("recording_id",),
        (
            *(RECORDING_ID, *_STATUS_COLUMNS),
            *(nullable(column) for column in _FILE_COLUMNS),
            *(*_CLOCK_COLUMNS, *_media_columns()),
        ),
    ),
    f"""
    WITH files AS (
        SELECT recording_id, arg_min_null(camera, state <> 'known') AS camera,
            arg_min(source_path, state <> 'known') AS source_path,
            arg_min(fingerprint, state <> 'known') AS fingerprint, arg_min(size_bytes, state <> 'known') AS size_bytes,
            make_timestamptz(arg_min(mtime_ns, state <> 'known') // 1000) AS mtime_utc
        FROM source_files WHERE recording_id IS NOT NULL GROUP BY recording_id
    )
    SELECT recording_id, status, error, failed_stage,
        {_CAMERA_SQL} AS camera,
        {", ".join(f"coalesce(headers.{name}, files.{name}) AS {name}" for name in _names(_FILE_COLUMNS[1:]))},
        {", ".join(_names((*_CLOCK_COLUMNS, *_media_columns())))}
    FROM recording_headers AS headers FULL JOIN recording_status USING (recording_id)
        LEFT JOIN recording_contents USING (recording_id) LEFT JOIN recording_clocks USING (recording_id)
        LEFT JOIN files USING (recording_id)
    """,
)

_CAMERA_TIMELINE = View(
    Table(
        "camera_timeline",
        "One row per recording: its position on the time line of its camera.",
        ("recording_id",),
        (
            CAMERA,
            RECORDING_ID,
            Column("started_at_utc", UTC, "Wall-clock time of the first frame", "UTC"),
            Column("ended_at_utc", UTC, "Wall-clock time of the end", "UTC"),
            Column(
                "timeline_start_s",
                FLOAT,
                "Start of the recording on the camera's time line; add time_s for the position of a frame",
                "s",
            ),
            Column("previous_recording_id", TEXT, "The camera's previous recording; NULL for its first", nullable=True),
            Column("gap_s", FLOAT, "Time from the end of the previous recording; negative if they overlap", "s"),
        ),
    ),
    f"""
    SELECT camera, recording_id, started_at_utc, ended_at_utc,
        date_diff('microseconds', min(started_at_utc) OVER whole_timeline, started_at_utc) / 1e6 AS timeline_start_s,
        lag(recording_id) OVER in_time_order AS previous_recording_id,
        date_diff('microseconds', lag(ended_at_utc) OVER in_time_order, started_at_utc) / 1e6 AS gap_s
    FROM (
        SELECT camera, recording_id, started_at_utc, {wall_clock_sql("duration_s_from_content * 1e6")} AS ended_at_utc
        FROM recording_clocks JOIN recording_contents USING (recording_id)
        WHERE duration_s_from_content IS NOT NULL
    )
    WINDOW
        whole_timeline AS (PARTITION BY camera),
        in_time_order AS (PARTITION BY camera ORDER BY started_at_utc, recording_id)
    """,
)

VIEWS = (
    *(RECORDING_STATUS, RECORDINGS_VIEW, _CAMERA_TIMELINE, TRACKS_VIEW, TRACK_BOXES_VIEW, CORRECTIONS_VIEW),
    *(*CLOCK_VIEWS, OBJECTS, EVENTS, REPEATED_OBJECTS, CAMERA_HEALTH),
)
"""All views, in the order in which they are created."""


@dataclass(frozen=True)
class Macro:
    """A table macro of results.duckdb.

    Attributes:
        name: Its name.
        definition: Its parameters and its query, as after CREATE MACRO.
        comment: What it returns.
    """

    name: str
    definition: str
    comment: str


def _utc_sql(parameter: str) -> str:
    """SQL of a time given as text, date or timestamp: without an offset it is UTC, whatever the session's time zone."""
    text = f"{parameter}::VARCHAR"
    offset = (
        f"CASE WHEN regexp_matches({text}, ':.*([zZ]|[+-])') THEN '' WHEN contains({text}, ':') THEN '+00' "
        "ELSE ' 00:00:00+00' END"
    )
    return f"({text} || {offset})::TIMESTAMPTZ"


# The small tables need no macro, nor do those with a row per track or interval.
_MACRO_TIME_COLUMNS = (CAPTURED_AT_UTC.name, MINUTE_UTC.name)


def macro_between(table: Table, columns: str, source: str) -> Macro | None:
    """Declare the macro for the rows of one camera between two wall-clock times; None for a table without such times.

    It first selects the recordings of the camera that overlap the interval, and computes the wall-clock time of their
    rows alone, whereas a condition on that time in the view computes it for every row.

    Args:
        table: The table.
        columns: SQL of its columns, given the row `stored_rows` and the row `clock` of the recording.
        source: SQL of its stored rows, or the name of a view.
    """
    time_column = next((column.name for column in table.columns if column.name in _MACRO_TIME_COLUMNS), None)
    if time_column is None or not table.per_recording:
        return None
    # The range of ids repeats what the join says, but DuckDB tests a range before it reads other columns, four times as
    # fast as a join (100 million rows: 100 ms, 410 ms). It helps where the ids of a camera's recordings follow in time.
    # The column of the same name is renamed where the parameter camera is used, because it would hide the parameter.
    query = f"""
        WITH timed AS (
            SELECT recording_id, started_at_utc, started_at_source, recording_clocks.camera AS camera_name,
                make_timestamptz(
                    epoch_us(started_at_utc) + ((coalesce(duration_s_from_content, 0) + 1) * 1e6)::BIGINT
                ) AS ended_at_utc
            FROM recording_clocks JOIN recording_contents USING (recording_id)
        ),
        overlapping AS (
            SELECT recording_id, started_at_utc, started_at_source, camera_name FROM timed
            WHERE coalesce(camera_name, '') = coalesce(camera, '') AND started_at_utc < {_utc_sql("to_utc")}
                AND ended_at_utc > {_utc_sql("from_utc")}
        )
        SELECT * FROM (
            SELECT {columns} FROM {source} AS stored_rows JOIN (
                SELECT recording_id, started_at_utc, started_at_source, camera_name AS camera FROM overlapping
            ) AS clock USING (recording_id)
            WHERE recording_id >= (SELECT min(recording_id) FROM overlapping)
                AND recording_id <= (SELECT max(recording_id) FROM overlapping)
        )
        WHERE {time_column} >= {_utc_sql("from_utc")} AND {time_column} < {_utc_sql("to_utc")}
    """
    name = table.published_name or table.name
    return Macro(
        f"{name}_between",
        f"(camera, from_utc, to_utc) AS TABLE {query}",
        f"The rows of {name} of one camera with from_utc <= {time_column} < to_utc. The camera '' has the "
        "recordings directly in the watched folder; a time without an offset is UTC.",
    )


def macro_similar(table: Table) -> Macro | None:
    """Declare the macro for the crops that resemble a crop; None for a table without embeddings."""
    vector = next((column.name for column in table.columns if column.is_vector), None)
    if vector is None:
        return None
    query = f"""
        SELECT others.recording_id, others.camera, others.track_id, others.rank,
            array_cosine_similarity(others.{vector}, example.{vector}) AS score
        FROM {table.name} AS others JOIN {table.name} AS example USING (model_id)
        WHERE example.recording_id = of_recording AND example.track_id = of_track AND example.rank = of_rank
            AND others.{vector} IS NOT NULL
        ORDER BY score DESC, others.recording_id, others.track_id, others.rank
    """
    return Macro(
        f"{table.name}_like",
        f"(of_recording, of_track, of_rank) AS TABLE {query}",
        f"All crops of {table.name} with the cosine of their embedding and that of one crop, most similar first.",
    )
