"""Tables of tracks as the tracker gives them, their boxes, their links between recordings, and crops."""

from dataclasses import replace

import pyarrow as pa

from resources.schema.columns import (
    BOX,
    CAPTURED_AT_UTC,
    CLASS_ID,
    CLASS_NAME,
    CONFIDENCE,
    DURATION_S,
    END_S,
    END_UTC,
    FLAG,
    FLOAT,
    FRAME_INDEX,
    INT,
    RECORDING_CAMERA,
    RECORDING_ID,
    RECORDING_START_UTC,
    START_S,
    START_UTC,
    TEXT,
    TIME_S,
    TRACK_ID,
    Column,
    Table,
    nullable,
)

LINK_CONFIDENCE = Column(
    "link_confidence", FLOAT, "Probability that a link is right", "0 to 1", nullable=True, minimum=0, maximum=1
)

TRACKS = Table(
    "tracks",
    "One row per track: an object followed through a recording.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        CLASS_ID,
        CLASS_NAME,
        START_S,
        END_S,
        START_UTC,
        END_UTC,
        DURATION_S,
        Column("first_frame_index", INT, "Index of the first frame with a box", minimum=0),
        Column("last_frame_index", INT, "Index of the last frame with a box", minimum=0),
        Column("box_count", INT, "Number of boxes, without interpolated ones", minimum=1),
        Column("mean_confidence", FLOAT, "Mean confidence of the boxes", "0 to 1", minimum=0, maximum=1),
        Column("path_px", FLOAT, "Length of the path of the box's centre", "px", minimum=0),
        Column(
            "mean_speed_px_s", FLOAT, "path_px divided by the time from the first box to the last", "px/s", minimum=0
        ),
        *(
            Column(f"{end}_{axis}_px", FLOAT, f"Centre of the {end} box, from the {side}", "px")
            for end in ("first", "last")
            for axis, side in (("x", "left"), ("y", "top"))
        ),
        nullable(LINK_CONFIDENCE, "Lowest confidence of the links that join parts of the track; NULL without links"),
        Column("is_doubtful", FLAG, "Whether a link of the track has a confidence below 0.8", nullable=True),
        Column(
            "class_share",
            FLOAT,
            "Share of the boxes counted in box_count that have the class of most; below 0.6, or with fewer than 3 "
            "boxes, class_name is unsure, and class_id is still that of most",
            "0 to 1",
            nullable=True,
            minimum=0,
            maximum=1,
        ),
    ),
    published_name="tracker_tracks",
)

TRACK_BOXES = Table(
    "track_boxes",
    "One row per track and frame from its first to its last, except in gaps where its position is too uncertain.",
    ("recording_id", "track_id", "frame_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        FRAME_INDEX,
        TIME_S,
        CAPTURED_AT_UTC,
        Column(
            "detection_index",
            INT,
            "The matched detection of the frame; NULL if interpolated",
            nullable=True,
            minimum=0,
        ),
        Column(
            "is_interpolated",
            FLAG,
            "Whether the box is estimated from the detections before and after it, or is that of the frame that is "
            "repeated",
        ),
        CLASS_ID,
        CLASS_NAME,
        nullable(CONFIDENCE, "Confidence of the model; NULL if interpolated"),
        *BOX,
        nullable(LINK_CONFIDENCE, "Confidence of the link whose gap the box fills; NULL for other boxes"),
    ),
    published_name="tracker_track_boxes",
)

STILL_TRACKS = Table(
    "still_tracks",
    "One row per track whose box stays where it is: nine tenths of its centres lie within a fifth of its size.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        CLASS_ID,
        CLASS_NAME,
        START_S,
        END_S,
        START_UTC,
        END_UTC,
        DURATION_S,
        *(replace(column, meaning=f"Median: {column.meaning}") for column in BOX),
        Column("is_left_out", FLAG, "Whether the settings of the camera (left_out) leave the track out of counts"),
    ),
)

TRACK_LINKS = Table(
    "track_links",
    "One row per track that continues a track of the same camera's previous recording.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        RECORDING_START_UTC,
        TRACK_ID,
        Column("previous_recording_id", TEXT, "The camera's previous recording"),
        Column("previous_track_id", INT, "Number of the continued track in the previous recording", minimum=1),
        Column(
            "gap_s", FLOAT, "Time from the last box in the previous recording to the first in this one", "s", minimum=0
        ),
        LINK_CONFIDENCE,
    ),
)

CROPS = Table(
    "crops",
    "One row per stored crop of a track, best first.",
    ("recording_id", "track_id", "rank"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        Column("rank", INT, "Rank of the crop; 1 is the best of the track", minimum=1),
        FRAME_INDEX,
        TIME_S,
        CAPTURED_AT_UTC,
        Column(
            "detection_index",
            INT,
            "The box of the frame in the table detections; NULL in rows that an older version wrote",
            nullable=True,
            minimum=0,
        ),
        CLASS_ID,
        CLASS_NAME,
        CONFIDENCE,
        *BOX,
        Column(
            "sharpness",
            FLOAT,
            "Variance of the Laplacian of the box's grey levels; NULL in rows that an older version wrote",
            nullable=True,
            minimum=0,
        ),
        Column(
            "score",
            FLOAT,
            "Square root of the box's area, times sharpness and the fourth root of the confidence, halved if the frame "
            "cuts the box, less up to 30 % where another covers it; NULL in rows that an older version wrote",
            nullable=True,
            minimum=0,
        ),
        Column("crop_width_px", INT, "Width of the crop", "px", minimum=1),
        Column("crop_height_px", INT, "Height of the crop", "px", minimum=1),
        Column(
            "crop_scale",
            FLOAT,
            "Pixels of the crop per pixel of the normalized video; NULL: 1, in rows that an older version wrote",
            nullable=True,
            minimum=0,
        ),
        Column("jpeg", pa.binary(), "The crop as JPEG; NULL after its deletion by retention", nullable=True),
    ),
)
