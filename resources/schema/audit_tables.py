"""The table of what people have answered in audits."""

from resources.schema.columns import (
    CLASS_NAME,
    END_S,
    INT,
    RECORDING_CAMERA,
    RECORDING_ID,
    START_S,
    TEXT,
    TRACK_ID,
    UTC,
    Column,
    Table,
    nullable,
)

AUDIT_ANSWERS = Table(
    "audit_answers",
    "One row per item of an audit and reading of its answers; rows are only added.",
    ("recording_id", "audit_id", "item_index", "answered_at_utc"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column("audit_id", TEXT, "The audit: a sample of a camera's counts"),
        Column("item_index", INT, "Index of the item in the audit, from 0", minimum=0),
        Column("answered_at_utc", UTC, "When the answers were read; the newest row of an item counts", "UTC"),
        Column("answered_by", TEXT, "Who"),
        Column("counts_id", TEXT, "Hash of all counted events and stretches from which the sample was drawn"),
        Column("count_name", TEXT, "What is counted: the name of a line or zone with its kind, or objects"),
        Column("kind", TEXT, "event: something that was counted; stretch: a stretch of time with what was not counted",
               allowed=("event", "stretch")),
        Column("stratum", TEXT, "Group of similar items from which it was drawn"),
        Column("stratum_size", INT, "Number of items in the group", minimum=1),
        START_S,
        END_S,
        nullable(TRACK_ID, "Track of the event; NULL for stretches"),
        nullable(CLASS_NAME, "Class of the event; NULL for stretches"),
        Column("answer", INT, "Events: 1 right, 0 wrong; stretches: number of missed objects; NULL: without an answer",
               nullable=True, minimum=0),
    ),
    is_small=True,
)  # fmt: skip
