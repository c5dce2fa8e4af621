"""Tables of crop models: the answers for each crop, and the vote of each track."""

import pyarrow as pa

from resources.schema.columns import (
    BOX,
    CLASS_NAME,
    ENGINE_NAME,
    FLOAT,
    FRAME_INDEX,
    INT,
    MODEL_ID,
    RECORDING_CAMERA,
    RECORDING_ID,
    TEXT,
    TIME_S,
    TRACK_ID,
    Column,
    Table,
    nullable,
)

_RANK = Column("rank", INT, "Rank of the crop in the table crops; 1 is the best of the track", minimum=1)
_CONFIDENCE = Column(
    "confidence",
    FLOAT,
    "Confidence of the crop model; NULL if there is no answer",
    "0 to 1",
    nullable=True,
    minimum=0,
    maximum=1,
)
_ERROR = Column("error", TEXT, "Why there is no answer; NULL if there is one", nullable=True)
_PART = Column(
    "part",
    TEXT,
    "Half of a person that the answer is about; NULL: the whole object",
    nullable=True,
    allowed=("upper", "lower"),
)
_VOTES = (
    Column("vote_count", INT, "Number of crops that vote for the most frequent answer", minimum=0),
    Column("voter_count", INT, "Number of crops that vote: those with an answer of at least min_confidence", minimum=0),
    Column("crop_count", INT, "Number of crops of the track", minimum=1),
)
_BOX = tuple(nullable(column, f"{column.meaning}; NULL if the row has no box") for column in BOX)

CROP_CLASSES = Table(
    "crop_classes",
    "One row per crop and likely class, most likely first; one row with the reason for a crop without an answer.",
    ("recording_id", "track_id", "rank", "part", "class_rank"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        _RANK,
        _PART,
        Column("class_rank", INT, "Rank of the class; 1 is the most likely of the crop", minimum=1),
        nullable(CLASS_NAME, "Name of the class in the crop model; NULL if there is no answer"),
        _CONFIDENCE,
        _ERROR,
        MODEL_ID,
        ENGINE_NAME,
    ),
)

TRACK_CLASSES = Table(
    "track_classes",
    "One row per track with crops: the class for which its crops vote.",
    ("recording_id", "track_id", "part"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        _PART,
        Column(
            "class_name",
            TEXT,
            "The class that at least 60 % of at least 3 votes have; unsure if there is none. A crop in which a "
            "detector finds nothing votes for none",
        ),
        *_VOTES,
    ),
)

CROP_BOXES = Table(
    "crop_boxes",
    "One row per box that a detector finds in a crop, best first; one row without a box for a crop in which it finds "
    "none, or with the reason for a crop without an answer.",
    ("recording_id", "track_id", "rank", "box_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        _RANK,
        Column("box_index", INT, "Index of the box in its crop, from 0, best first", minimum=0),
        FRAME_INDEX,
        TIME_S,
        nullable(CLASS_NAME, "Name of the class in the crop model; NULL if the row has no box"),
        nullable(_CONFIDENCE, "Confidence of the crop model; NULL if the row has no box"),
        *_BOX,
        _ERROR,
        MODEL_ID,
        ENGINE_NAME,
    ),
)

CROP_TEXTS = Table(
    "crop_texts",
    "One row per line of text that is read in a crop, most confident first; one row without a text for a crop in which "
    "none is, or with the reason for a crop without an answer.",
    ("recording_id", "track_id", "rank", "text_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        _RANK,
        Column("text_index", INT, "Index of the text in its crop, from 0, most confident first", minimum=0),
        FRAME_INDEX,
        TIME_S,
        Column("text", TEXT, "The text; NULL if there is none", nullable=True),
        nullable(_CONFIDENCE, "Confidence of the reader; NULL if there is no text"),
        *_BOX,
        _ERROR,
        MODEL_ID,
        ENGINE_NAME,
    ),
)

TRACK_TEXTS = Table(
    "track_texts",
    "One row per track with crops: the text for which its crops vote, character by character.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        Column(
            "text",
            TEXT,
            "Of the texts of the most frequent length, at each place the character with the greatest confidence in "
            "sum; unsure if fewer than 3 crops vote, or fewer than 60 % of them for this length and for the characters",
        ),
        *_VOTES,
    ),
)

CROP_EMBEDDINGS = Table(
    "crop_embeddings",
    "One row per crop: its embedding, a vector of length 1 by which crops are compared.",
    ("recording_id", "track_id", "rank"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        TRACK_ID,
        _RANK,
        Column(
            "embedding",
            pa.list_(pa.float32()),
            "The embedding, FLOAT[n] in results.duckdb; NULL if there is none",
            nullable=True,
        ),
        Column(
            "features",
            pa.binary(),
            "Means of several layers of the network as half-precision numbers, which probes read; NULL for networks "
            "without them, and in rows that an older version wrote",
            nullable=True,
        ),
        _ERROR,
        MODEL_ID,
        ENGINE_NAME,
    ),
)

TABLES_BY_TASK = {
    "classify": (CROP_CLASSES, TRACK_CLASSES),
    "probe": (CROP_CLASSES, TRACK_CLASSES),
    "detect": (CROP_BOXES, TRACK_CLASSES),
    "text": (CROP_TEXTS, TRACK_TEXTS),
    "embed": (CROP_EMBEDDINGS,),
}
"""The tables that a crop model writes, by its task."""
