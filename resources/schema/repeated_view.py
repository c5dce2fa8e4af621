"""repeated_objects: places at which a camera sees the same still object for hours or in many recordings."""

from dataclasses import replace

from resources.schema.columns import (
    CAMERA,
    CLASS_NAME,
    FLAG,
    FLOAT,
    INT,
    RECORDING_ID,
    TEXT,
    TRACK_ID,
    UTC,
    Column,
    Table,
    View,
)

_MIN_SEEN_S, _MIN_RECORDINGS, _MIN_SEEN_S_IN_RECORDINGS = 3600, 5, 60
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_CELLS_PER_SIZE = 4  # places within a quarter of their size are added up before they are compared


def _iou_sql(first: str, second: str) -> str:
    a, b = first, second
    shared = " * ".join(
        f"greatest(least({a}.{axis}_max, {b}.{axis}_max) - greatest({a}.{axis}_min, {b}.{axis}_min), 0)"
        for axis in "xy"
    )
    areas = " + ".join(f"({name}.x_max - {name}.x_min) * ({name}.y_max - {name}.y_min)" for name in (a, b))
    return f"({shared}) / ({areas} - ({shared}))"


REPEATED_OBJECTS = View(
    Table(
        "repeated_objects",
        "One row per camera, class and place at which an object stands still for an hour in all or in 5 recordings.",
        ("recording_id", "track_id"),
        (
            CAMERA,
            CLASS_NAME,
            Column("recording_count", INT, "Recordings with a still track at this place", minimum=1),
            Column("track_count", INT, "Still tracks at this place", minimum=1),
            Column("seen_s", FLOAT, "Their durations in all", "s", minimum=0),
            Column("first_utc", UTC, "Wall-clock time at which the first of them starts", "UTC", nullable=True),
            Column("last_utc", UTC, "Wall-clock time at which the last of them ends", "UTC", nullable=True),
            *(Column(edge, FLOAT, "Edge of the longest track's box", "share of the frame") for edge in _EDGES),
            replace(RECORDING_ID, meaning="Recording of the longest track"),
            replace(TRACK_ID, meaning="The longest track; its picture is in crops"),
            Column("is_left_out", FLAG, "Whether the settings leave the longest track out of counts"),
            Column("setting", TEXT, "What leaves the place out of counts, for cameras.NAME.left_out of the settings"),
        ),
    ),
    f"""
    WITH places AS (
        SELECT camera, class_name, recording_id, track_id, start_utc, end_utc, duration_s, is_left_out,
            x_min_px / width_px AS x_min, y_min_px / height_px AS y_min, x_max_px / width_px AS x_max,
            y_max_px / height_px AS y_max
        FROM still_tracks JOIN (SELECT recording_id, width_px, height_px FROM recording_contents) USING (recording_id)
    ),
    sized AS (
        SELECT *, round(2 * log2(greatest(x_max - x_min, 1e-4)))::INTEGER AS w,
            round(2 * log2(greatest(y_max - y_min, 1e-4)))::INTEGER AS h
        FROM places
    ),
    cells AS (
        SELECT camera, class_name, count(*) AS track_count, sum(duration_s) AS seen_s, min(start_utc) AS first_utc,
            max(end_utc) AS last_utc, list(DISTINCT recording_id) AS recording_ids,
            max(duration_s) AS longest_s, arg_max(recording_id, (duration_s, recording_id, track_id)) AS recording_id,
            arg_max(track_id, (duration_s, recording_id, track_id)) AS track_id,
            arg_max(is_left_out, (duration_s, recording_id, track_id)) AS is_left_out,
            {", ".join(f"arg_max({edge}, (duration_s, recording_id, track_id)) AS {edge}" for edge in _EDGES)}
        FROM sized
        GROUP BY camera, class_name, w, h, floor((x_min + x_max) / 2 / 2 ** (w / 2) * {_CELLS_PER_SIZE}),
            floor((y_min + y_max) / 2 / 2 ** (h / 2) * {_CELLS_PER_SIZE})
    ),
    led AS (
        SELECT a.*, arg_max({{'recording_id': b.recording_id, 'track_id': b.track_id}}, (b.seen_s, b.recording_id,
            b.track_id)) AS leader
        FROM cells AS a JOIN cells AS b ON a.class_name = b.class_name AND a.camera IS NOT DISTINCT FROM b.camera
            AND {_iou_sql("a", "b")} >= 0.5
        GROUP BY ALL
    ),
    joined AS (
        SELECT camera, class_name, len(list_distinct(flatten(list(recording_ids))))::INTEGER AS recording_count,
            sum(track_count)::INTEGER AS track_count, sum(seen_s) AS seen_s, min(first_utc) AS first_utc,
            max(last_utc) AS last_utc,
            {
        ", ".join(
            f"arg_max({name}, (longest_s, recording_id, track_id)) AS {name}"
            for name in (*_EDGES, "recording_id", "track_id", "is_left_out")
        )
    }
        FROM led GROUP BY camera, class_name, leader
    )
    SELECT *, format('{{{{class_name: "{{}}", box: [{{:.4f}}, {{:.4f}}, {{:.4f}}, {{:.4f}}]}}}}', class_name,
        {", ".join(_EDGES)}) AS setting
    FROM joined
    WHERE seen_s >= {_MIN_SEEN_S} OR (recording_count >= {_MIN_RECORDINGS} AND seen_s >= {_MIN_SEEN_S_IN_RECORDINGS})
    ORDER BY camera, seen_s DESC
    """,
)
