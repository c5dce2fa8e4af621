"""Tables of crop models: the answers for each crop, and the vote of each track."""

from resources.schema.columns import (
    CLASS_NAME,
    ENGINE_NAME,
    FLOAT,
    INT,
    MODEL_ID,
    RECORDING_CAMERA,
    RECORDING_ID,
    TEXT,
    TRACK_ID,
    Column,
    Table,
    nullable,
)

CROP_CLASSES = Table(
    "crop_classes",
    "One row per crop and likely class, most likely first; one row with the reason for a crop without an answer.",
    ("recording_id", "track_id", "rank", "class_rank"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        Column("rank", INT, "Rank of the crop in the table crops; 1 is the best of the track", minimum=1),
        Column("class_rank", INT, "Rank of the class; 1 is the most likely of the crop", minimum=1),
        nullable(CLASS_NAME, "Name of the class in the crop model; NULL if there is no answer"),
        Column(
            "confidence",
            FLOAT,
            "Confidence of the crop model; NULL if there is no answer",
            "0 to 1",
            nullable=True,
            minimum=0,
            maximum=1,
        ),
        Column("error", TEXT, "Why there is no answer; NULL if there is one", nullable=True),
        MODEL_ID,
        ENGINE_NAME,
    ),
)

TRACK_CLASSES = Table(
    "track_classes",
    "One row per track with crops: the class for which its crops vote.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        Column(
            "class_name",
            TEXT,
            "The class that at least 60 % of at least 3 votes have; unsure if there is none",
        ),
        Column("vote_count", INT, "Number of crops that vote for the most frequent class", minimum=0),
        Column(
            "voter_count", INT, "Number of crops that vote: those with an answer of at least min_confidence", minimum=0
        ),
        Column("crop_count", INT, "Number of crops of the track", minimum=1),
    ),
)
