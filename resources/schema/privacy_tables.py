"""Table of the privacy copies."""

import pyarrow as pa

from resources.schema.columns import FLOAT, INT, RECORDING_CAMERA, RECORDING_ID, TEXT, Column, Table

_SEEN = pa.struct(
    [
        pa.field("kind", TEXT),
        pa.field("frame_index", INT),
        pa.field("text", TEXT),
        *(pa.field(name, FLOAT) for name in ("confidence", "x_min_px", "y_min_px", "x_max_px", "y_max_px")),
    ]
)

PRIVACY_COPIES = Table(
    "privacy_copies",
    "One row per recording with a privacy copy: what is covered, and what the audit of the copy has found.",
    ("recording_id",),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column("covered", TEXT, "What is covered: classes, face and plate, separated by commas"),
        Column("copy_path", TEXT, "The copy, relative to the data folder; NULL once it is deleted", nullable=True),
        Column("frame_count", INT, "Number of frames of the copy", minimum=0),
        Column("box_count", INT, "Number of stored boxes that are covered", minimum=0),
        Column("visible_box_count", INT, "Those of them that are not of one colour on the copy", minimum=0),
        Column(
            "face_count",
            INT,
            "Number of faces found in the searched frames of the original, from a confidence of 0.3",
            minimum=0,
        ),
        Column("visible_face_count", INT, "Faces found on the copy that overlap one of them by 0.3 or more", minimum=0),
        Column(
            "text_count",
            INT,
            "Number of texts of 4 or more characters that are read on the original inside vehicles",
            minimum=0,
        ),
        Column("visible_text_count", INT, "Texts read on the copy inside vehicles that are one of them", minimum=0),
        Column(
            "still_seen",
            pa.list_(_SEEN),
            "Every face and text that is found on the copy, also where the original has none, as in patterns that look "
            "like a face",
        ),
        Column(
            "rounds",
            INT,
            "How often the copy was written; each further time covers what the audit has found",
            minimum=1,
        ),
        Column("elapsed_s", FLOAT, "Time that the copy took", "s", minimum=0),
        Column("model_id", TEXT, "The models that search faces and texts"),
    ),
)
