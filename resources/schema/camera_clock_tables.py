"""Table of the clocks that cameras burn into their pictures."""

import pyarrow as pa

from resources.schema.columns import ENGINE_NAME, INT, MODEL_ID, RECORDING_CAMERA, RECORDING_ID, TEXT, Column, Table

CAMERA_CLOCKS = Table(
    "camera_clocks",
    "One row per recording whose picture is searched for the camera's clock.",
    ("recording_id",),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column(
            "started_at_local",
            pa.timestamp("us"),
            "Time of the first frame by the clock in the picture, in the time zone of the camera; NULL if fewer than 3 "
            "frames agree, or fewer than 60 % of those with a clock",
            nullable=True,
        ),
        Column("clock_text", TEXT, "Text of the clock in the first frame that has one", nullable=True),
        Column("agreeing_count", INT, "Number of frames whose clock agrees with started_at_local", minimum=0),
        Column("reading_count", INT, "Number of frames in which a clock was read", minimum=0),
        Column("frame_count", INT, "Number of frames that were searched", minimum=1),
        MODEL_ID,
        ENGINE_NAME,
    ),
)
