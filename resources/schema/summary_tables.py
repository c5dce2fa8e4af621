"""Tables of summaries per recording, minute and grid cell, and views of summaries per hour."""

from resources.schema.columns import (
    BIG,
    CAMERA,
    CLASS_NAME,
    END_S,
    END_UTC,
    ENGINE_NAME,
    FLOAT,
    FRAME_COUNT,
    HOUR_UTC,
    INT,
    MINUTE_INDEX,
    MINUTE_START_UTC,
    MODEL_ID,
    RECORDING_CAMERA,
    RECORDING_ID,
    RECORDING_START_UTC,
    START_S,
    START_UTC,
    Column,
    Table,
    nullable,
)

SUMMARIES = Table(
    "summaries",
    "One row per recording: totals.",
    ("recording_id",),
    (
        RECORDING_ID,
        CAMERA,
        RECORDING_START_UTC,
        Column("duration_s", FLOAT, "Duration of the recording, to the end of its last frame", "s", minimum=0),
        FRAME_COUNT,
        Column("detection_count", BIG, "Number of boxes that min_confidence and class_names select", minimum=0),
        Column("track_count", INT, "Number of tracks", minimum=0),
        Column("max_at_once", INT, "Greatest number of tracks in one frame", minimum=0),
        Column("mean_at_once", FLOAT, "Mean number of tracks per frame", minimum=0),
        nullable(MODEL_ID),
        nullable(ENGINE_NAME),
        Column("analysed_frame_count", INT, "Frames with a result of the detector", nullable=True, minimum=0),
        Column(
            "reused_frame_count",
            INT,
            "Frames among them that reuse the result of an earlier frame",
            nullable=True,
            minimum=0,
        ),
    ),
    is_small=True,
)

CLASS_MINUTES = Table(
    "class_minutes",
    "One row per recording, class and minute of the recording with a track of the class.",
    ("recording_id", "class_name", "minute_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        CLASS_NAME,
        MINUTE_INDEX,
        MINUTE_START_UTC,
        Column("track_count", INT, "Tracks in the minute", minimum=0),
        Column("new_track_count", INT, "Tracks that start in the minute", minimum=0),
        Column("max_at_once", INT, "Greatest number of tracks of the class in one frame", minimum=0),
        Column("mean_at_once", FLOAT, "Mean number of tracks of the class per frame of the minute", minimum=0),
    ),
    is_small=True,
    published_name="recording_class_minutes",
)

HEATMAP_CELLS = Table(
    "heatmap_cells",
    "One row per recording, class and cell of a grid over the frame in which a track of the class was.",
    ("recording_id", "class_name", "row_index", "column_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        RECORDING_START_UTC,
        CLASS_NAME,
        Column(
            "row_index",
            INT,
            "Row of the grid, from 0 at the top; a cell is a square of 1/32 of the frame's width",
            minimum=0,
        ),
        Column("column_index", INT, "Column of the grid, from 0 at the left to 31", minimum=0, maximum=31),
        Column("track_count", INT, "Tracks whose bottom centre was in the cell", minimum=1),
        Column("object_s", FLOAT, "Time in the cell, summed over all tracks", "s", minimum=0),
    ),
)

CLASS_PRESENCE = Table(
    "class_presence",
    "One row per recording, class and interval with a constant number of tracks of the class.",
    ("recording_id", "class_name", "start_s"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        CLASS_NAME,
        START_S,
        END_S,
        START_UTC,
        END_UTC,
        Column("object_count", INT, "Tracks of the class in each frame of the interval", minimum=1),
    ),
)

_HOUR_COLUMNS = (
    Column("max_at_once", INT, "Greatest number of tracks of the class in one frame", minimum=0),
    Column("object_s", FLOAT, "Time in view, summed over all tracks", "s", minimum=0),
)

RECORDING_HOURS = Table(
    "recording_hours",
    "One row per recording, class and wall-clock hour with a track of the class.",
    ("recording_id", "hour_utc", "class_name"),
    (
        RECORDING_ID,
        CAMERA,
        HOUR_UTC,
        CLASS_NAME,
        Column("new_track_count", INT, "Tracks that start in the hour", minimum=0),
        *_HOUR_COLUMNS,
    ),
)

CAMERA_HOURS = Table(
    "camera_hours",
    "One row per camera, class and wall-clock hour, over all recordings of the camera.",
    ("camera", "hour_utc", "class_name"),
    (
        CAMERA,
        HOUR_UTC,
        CLASS_NAME,
        Column(
            "track_count",
            INT,
            "Tracks that start in the hour; a track that continues in the next recording counts once",
        ),
        *_HOUR_COLUMNS,
    ),
    per_recording=False,
)
