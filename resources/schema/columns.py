"""Declarations of columns and tables, and the columns that several tables share."""

from dataclasses import dataclass, replace

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Name of the column.
        type: Arrow type.
        meaning: What the column holds, as the catalogs show it.
        unit: Unit of the values; empty for names, counts and flags.
        nullable: Whether NULL is allowed.
        minimum: Least allowed value.
        maximum: Greatest allowed value.
        allowed: The allowed values of a text column; None allows any.
        derived_sql: For a column that is not stored: its value in SQL, from the stored columns of the row and from
            those of `clock`, the recording's row in the published `recording_clocks`. Empty for others.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = None
    derived_sql: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether the values are vectors, which results.duckdb has as arrays of a fixed size."""
        return bool(self.type == pa.list_(pa.float32()))

    @property
    def comment(self) -> str:
        """Meaning and unit in one line, as the catalogs show it."""
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Name of the table.
        grain: Meaning of one row, as a sentence.
        key: Names of the columns that identify a row.
        columns: The columns, in order, including those that only the views of results.duckdb have.
        per_recording: Whether every row belongs to a recording and is replaced with it.
        is_small: Whether results.duckdb holds the rows themselves, not a view of Parquet files.
        published_name: Name in results.duckdb, where it differs from that of the table.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    per_recording: bool = True
    is_small: bool = False
    published_name: str = ""

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns of the Delta table: all but the derived ones."""
        return tuple(column for column in self.columns if not column.derived_sql)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the stored columns, which every batch of rows must have."""
        return pa.schema(
            [pa.field(column.name, column.type, nullable=column.nullable) for column in self.stored_columns]
        )

    @property
    def empty(self) -> pa.Table:
        """A table of this schema without rows."""
        return self.arrow_schema.empty_table()

    @property
    def without_large_columns(self) -> "Table":
        """The table without its binary and list columns (images, polygons), which are large and have no rules."""
        small_columns = tuple(
            column
            for column in self.columns
            if not pa.types.is_binary(column.type) and not pa.types.is_list(column.type)
        )
        return replace(self, columns=small_columns)

    @property
    def comment(self) -> str:
        """Grain and key in one line, as the catalogs show it."""
        return f"{self.grain} Key: {', '.join(self.key)}."


@dataclass(frozen=True)
class View:
    """A view of results.duckdb.

    Attributes:
        table: Its name, grain, key and columns, none of which is stored in a Delta table.
        query: Its SQL, over the tables of results.duckdb and the views before it.
        query_without_corrections: SQL of the same rows where no correction has changed any; empty if it is the same.
    """

    table: Table
    query: str
    query_without_corrections: str = ""


def nullable(column: Column, meaning: str | None = None) -> Column:
    """Copy a column with NULL allowed.

    Args:
        column: The column.
        meaning: The meaning of the copy; None keeps that of the column.
    """
    return replace(column, nullable=True, meaning=meaning or column.meaning)


def wall_clock_sql(offset_us: str) -> str:
    """SQL of the wall-clock time that lies an offset after the start of the recording.

    Args:
        offset_us: SQL of the offset in microseconds.
    """
    # Not started_at_utc + INTERVAL: with a time zone that is calendar arithmetic, which takes four times as long.
    return f"make_timestamptz(epoch_us(started_at_utc) + round({offset_us})::BIGINT)"


def mmss_sql(seconds: str) -> str:
    """SQL of a time in seconds as minutes and seconds, such as 75:03, as a video player shows it."""
    return f"printf('%02d:%02d', ({seconds})::BIGINT // 60, ({seconds})::BIGINT % 60)"


TEXT, FLOAT, INT, BIG, FLAG = pa.string(), pa.float64(), pa.int32(), pa.int64(), pa.bool_()
UTC = pa.timestamp("us", tz="UTC")
LOCAL = pa.timestamp("us")
"""Time of a camera's clock, without an offset."""
STATUSES = ("ok", "partial", "rejected", "failed", "interrupted", "quarantined")
STATUS_MEANING = (
    "ok; partial: only a part decodes; rejected: the file can never be processed; failed; interrupted: the run was "
    "stopped, and the work will be requested again; quarantined: the run crashed at every attempt"
)
RECORDING_ID = Column("recording_id", TEXT, "The recording: slug of its file name and fingerprint of its content")

CAMERA = Column("camera", TEXT, "First folder under the watched folder; NULL for files directly in it", nullable=True)
RECORDING_CAMERA = replace(CAMERA, derived_sql="clock.camera")
FINGERPRINT = Column("fingerprint", TEXT, "Hash of the file's size and of sampled blocks of its content")
CONTENT_HASH = Column("content_hash", TEXT, "Hash of all bytes of the file")

SOURCE_PATH = Column(
    "source_path", TEXT, "Path of the file, relative to the watched folder; absolute in a further watched folder"
)
SIZE_BYTES = Column("size_bytes", BIG, "Size of the file", "bytes", minimum=0)
MTIME_UTC = Column("mtime_utc", UTC, "Modification time of the file", "UTC")
MTIME_NS = Column("mtime_ns", BIG, "Modification time of the file, exactly", "ns since 1970")
FRAME_INDEX = Column("frame_index", INT, "Index of the frame in the normalized video, from 0", minimum=0)

TIME_S = Column("time_s", FLOAT, "Media time of the source: PTS of the frame minus the first PTS", "s", minimum=0)

CAPTURED_AT_UTC = Column(
    "captured_at_utc",
    UTC,
    "Wall-clock time of the frame; NULL if the recording's start time is unknown",
    "UTC",
    nullable=True,
    derived_sql=wall_clock_sql("time_s * 1e6"),
)
TIME_MMSS = Column(
    "time_mmss",
    TEXT,
    "time_s as minutes and seconds, as a video player shows it",
    derived_sql=mmss_sql("floor(time_s)"),
)
RECORDING_START_UTC = replace(
    CAPTURED_AT_UTC,
    name="recording_start_utc",
    meaning="Wall-clock time of the recording's first frame; NULL if unknown",
    derived_sql="clock.started_at_utc",
)

CAPTURED_AT_SOURCE = Column(
    "captured_at_source",
    TEXT,
    "Source of captured_at_utc",
    nullable=True,
    allowed=("file_name", "container", "mtime"),
    derived_sql="started_at_source",
)
FIRST_FRAME_INDEX = Column("first_frame_index", INT, "Index of the first frame", minimum=0)
LAST_FRAME_INDEX = Column("last_frame_index", INT, "Index of the last frame", minimum=0)
TRACK_ID = Column("track_id", INT, "Number of the track, from 1, unique within the recording", minimum=1)
CLASS_ID = Column("class_id", INT, "Index of the class in the model", minimum=0)
CLASS_NAME = Column("class_name", TEXT, "Name of the class in the model; after detections, its name in rename_classes")
CONFIDENCE = Column("confidence", FLOAT, "Confidence of the model", "0 to 1", minimum=0, maximum=1)
START_S = Column("start_s", FLOAT, "time_s of the first frame", "s", minimum=0)
END_S = Column("end_s", FLOAT, "time_s of the last frame plus its duration", "s", minimum=0)
START_UTC = replace(
    CAPTURED_AT_UTC,
    name="start_utc",
    meaning="Wall-clock time of start_s; NULL if the recording's start time is unknown",
    derived_sql=wall_clock_sql("start_s * 1e6"),
)
END_UTC = replace(
    START_UTC,
    name="end_utc",
    meaning="Wall-clock time of end_s; NULL if the recording's start time is unknown",
    derived_sql=wall_clock_sql("end_s * 1e6"),
)
DURATION_S = Column("duration_s", FLOAT, "end_s minus start_s", "s", minimum=0)
WIDTH_PX = Column("width_px", INT, "Width of the normalized video", "px", minimum=1)
HEIGHT_PX = Column("height_px", INT, "Height of the normalized video", "px", minimum=1)
FRAME_COUNT = Column("frame_count", INT, "Number of frames of the normalized video", minimum=0)
MODEL_ID = Column("model_id", TEXT, "Name and content hash of the weights")
ENGINE_NAME = Column("engine_name", TEXT, "Engine that ran the model, with precision and input size")

BOX = tuple(
    Column(f"{axis}_{end}_px", FLOAT, f"{side} edge of the box, from the top left of the normalized video", "px")
    for end, sides in (("min", ("Left", "Top")), ("max", ("Right", "Bottom")))
    for axis, side in zip("xy", sides, strict=True)
)
MINUTE_INDEX = Column("minute_index", INT, "Index of the minute of media time, from 0", minimum=0)
MINUTE_UTC = Column("minute_utc", UTC, "Wall-clock time at which the minute starts", "UTC")
SECOND_UTC = Column("second_utc", UTC, "Wall-clock time at which the second starts", "UTC")

MINUTE_START_UTC = Column(
    "minute_start_utc",
    UTC,
    "Wall-clock time at which the minute of the recording starts; NULL if the recording's start time is unknown",
    "UTC",
    nullable=True,
    derived_sql=wall_clock_sql("minute_index * 60e6"),
)
HOUR_UTC = Column("hour_utc", UTC, "Wall-clock time at which the hour starts", "UTC")
