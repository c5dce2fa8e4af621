"""Tables of corrections and of what they change, and the views of tracks and boxes as corrected."""

from dataclasses import replace

import pyarrow as pa

from resources.schema.columns import (
    BOX,
    CLASS_NAME,
    END_S,
    FLAG,
    FLOAT,
    RECORDING_CAMERA,
    RECORDING_ID,
    START_S,
    TEXT,
    TIME_S,
    TRACK_ID,
    UTC,
    Column,
    Table,
    View,
    nullable,
)
from resources.schema.track_tables import TRACK_BOXES, TRACKS

ACTIONS = ("accept", "reject", "relabel", "merge", "split", "swap", "move", "attribute", "check", "undo")
"""What a correction can do; the description of the column `action` explains them."""

_PLACES = pa.list_(pa.struct([pa.field(name, FLOAT) for name in (TIME_S.name, *(column.name for column in BOX))]))
_CORRECTION_ID = Column("correction_id", TEXT, "The correction; of a file: hash of its row and of those before it")
_ACTION = Column(
    "action",
    TEXT,
    "accept: the track is right; reject: it is no object; relabel: it has another class; merge: both tracks are one "
    "object; split: at time_s another object begins; swap: at time_s the two tracks exchange their objects; move: at "
    "time_s the box is elsewhere; attribute: the object has an attribute; check: a person has checked a stretch; undo: "
    "takes back another correction",
    allowed=ACTIONS,
)

CORRECTIONS = Table(
    "corrections",
    "One row per correction by a person; rows are only added.",
    ("recording_id", "correction_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        _CORRECTION_ID,
        Column("made_at_utc", UTC, "When; the corrections of a recording are applied in this order", "UTC"),
        Column("made_by", TEXT, "Who"),
        _ACTION,
        nullable(TRACK_ID, "Number of the track when it was corrected; the track is found by track_places"),
        nullable(replace(TRACK_ID, name="other_track_id"), "Number of the second track of merge and swap"),
        Column("track_places", _PLACES, "Boxes of the track at some times: they tell which object is meant", "s, px",
               nullable=True),
        Column("other_track_places", _PLACES, "The same of the second track", "s, px", nullable=True),
        nullable(TIME_S, "Media time of split, swap and move"),
        nullable(START_S, "Media time at which the checked stretch begins"),
        nullable(END_S, "Media time at which it ends"),
        nullable(CLASS_NAME, "New class of relabel"),
        Column("attribute", TEXT, "Name of the attribute", nullable=True),
        Column("value", TEXT, "Its value", nullable=True),
        *(nullable(column, f"{column.meaning}, of move") for column in BOX),
        Column("undone_id", TEXT, "The correction that an undo takes back", nullable=True),
        Column("note", TEXT, "Remark of the person", nullable=True),
    ),
    is_small=True,
)  # fmt: skip

CORRECTED_TRACKS = Table(
    "corrected_tracks",
    "One row per track that corrections have accepted, changed or removed.",
    TRACKS.key,
    (
        *TRACKS.columns,
        Column(
            "state",
            TEXT,
            "accepted: a person has confirmed it; changed: it is another one, or was made by a person; removed: it was "
            "rejected or is a part of another track, and the row is that of the tracker",
            allowed=("accepted", "changed", "removed"),
        ),
    ),
)

CORRECTED_BOXES = Table(
    "corrected_boxes",
    "One row per box of the accepted and changed tracks.",
    TRACK_BOXES.key,
    (
        *TRACK_BOXES.columns,
        replace(TRACK_ID, name="tracker_track_id", meaning="Number that the tracker gave to the track of the box"),
        Column("is_corrected", FLAG, "Whether a person has changed the row: its track, class or position"),
    ),
)

CORRECTION_RESULTS = Table(
    "correction_results",
    "One row per correction and recording: whether it fits the tracks of today.",
    CORRECTIONS.key,
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        _CORRECTION_ID,
        Column(
            "state",
            TEXT,
            "applied; undone: taken back; no_match: no track lies where it lay, so nothing was changed",
            allowed=("applied", "undone", "no_match"),
        ),
        Column("reason", TEXT, "Why it does not fit, in one sentence; NULL otherwise", nullable=True),
        Column("track_ids", pa.list_(pa.int32()), "Numbers of the tracks that it is about, after it", nullable=True),
    ),
    is_small=True,
)

_IS_CORRECTED = Column("is_corrected", FLAG, "Whether a person has changed or confirmed the row")


def _corrected_view(table: Table, corrected: Table, is_corrected: str, condition: str) -> View:
    """Declare the view of the rows of a table as corrections have changed them."""
    # With the name of their table, because a bare name cannot be that of a parameter of the macro over the view.
    names = ", ".join(f"source.{column.name}" for column in table.columns)
    of_tracker = f"SELECT {names}, false AS is_corrected FROM {table.published_name} AS source"
    query = f"""
    {of_tracker} ANTI JOIN (SELECT recording_id, track_id FROM corrected_tracks) USING (recording_id, track_id)
    UNION ALL SELECT {names}, {is_corrected} AS is_corrected FROM {corrected.name} AS source {condition}
    """
    return View(replace(table, published_name="", columns=(*table.columns, _IS_CORRECTED)), query, of_tracker)


TRACKS_VIEW = _corrected_view(TRACKS, CORRECTED_TRACKS, "true", "WHERE state <> 'removed'")
TRACK_BOXES_VIEW = _corrected_view(TRACK_BOXES, CORRECTED_BOXES, "is_corrected", "")

CORRECTIONS_VIEW = View(
    Table(
        "v_corrections",
        "One row per correction: what it says, and whether it is applied.",
        CORRECTIONS.key,
        (
            *CORRECTIONS.columns[:2],
            _CORRECTION_ID,
            Column(
                "state",
                TEXT,
                "applied, undone or no_match as in correction_results; pending: not examined yet",
                allowed=("applied", "undone", "no_match", "pending"),
            ),
            *CORRECTION_RESULTS.columns[-2:],
            *(column for column in CORRECTIONS.columns[3:] if not column.name.endswith("places")),
        ),
    ),
    f"""
    SELECT recording_id, corrections.camera, correction_id, coalesce(state, 'pending') AS state, reason, track_ids,
        {", ".join(column.name for column in CORRECTIONS.columns[3:] if not column.name.endswith("places"))}
    FROM corrections LEFT JOIN (SELECT * EXCLUDE (camera) FROM correction_results) USING (recording_id, correction_id)
    """,
)
