"""Every table and column, declared once: type, unit, meaning, bounds.

This declaration creates the Delta tables, Dagster's column schema, the comments in results.duckdb and the key and
range checks. A column that appears in several tables means the same in each.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.dataset import Dataset


@dataclass(frozen=True)
class Column:
    """One column.

    `unit` is empty for names, counts and flags. A time on the wall clock says of which column it follows and how many
    seconds one of that is: so long after the recording's start it is.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = None
    since_start: tuple[str, float] | None = None

    @property
    def comment(self) -> str:
        """Meaning and unit in one line, as the catalogs show it."""
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


@dataclass(frozen=True)
class Table:
    """One table: `grain` says what a row is, `key` names the columns that identify it."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    per_recording: bool = True
    is_small: bool = False

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema that every batch of rows must have."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    @property
    def empty(self) -> pa.Table:
        """No rows."""
        return self.arrow_schema.empty_table()

    @property
    def without_pictures(self) -> "Table":
        """The table less its pictures and outlines, which are large and have no rules."""
        is_large = (pa.types.is_binary, pa.types.is_list)
        return replace(self, columns=tuple(c for c in self.columns if not any(test(c.type) for test in is_large)))

    @property
    def comment(self) -> str:
        """Grain and key in one line, as the catalogs show it."""
        return f"{self.grain} Key: {', '.join(self.key)}."


def _nullable(column: Column, meaning: str | None = None) -> Column:
    return replace(column, nullable=True, meaning=meaning or column.meaning)


TEXT, FLOAT, INT, BIG, FLAG = pa.string(), pa.float64(), pa.int32(), pa.int64(), pa.bool_()
UTC = pa.timestamp("us", tz="UTC")

STATUSES = ("ok", "partial", "rejected", "failed")

RECORDING_ID = Column("recording_id", TEXT, "The recording: readable slug of its file name + content fingerprint")
CAMERA = Column(
    "camera", TEXT, "First folder under the watched folder; NULL for files beside the folders", nullable=True
)
FINGERPRINT = Column("fingerprint", TEXT, "Hash of the file's size and of blocks sampled over its content")
SOURCE_PATH = Column(
    "source_path", TEXT, "Path of the file, relative to the watched folder; absolute where it lies in a further one"
)
SIZE_BYTES = Column("size_bytes", BIG, "Size of the file", "bytes", minimum=0)
MTIME_UTC = Column("mtime_utc", UTC, "The file's time of last change", "UTC")
FRAME_INDEX = Column("frame_index", INT, "Frame of the normalized video, from 0", minimum=0)
TIME_S = Column(
    "time_s", FLOAT, "Media time on the source's clock: the decoder's pts minus the first pts", "s", minimum=0
)
CAPTURED_AT_UTC = Column(
    "captured_at_utc",
    UTC,
    "Wall-clock time of the picture; NULL when the camera's clock is unknown",
    "UTC",
    nullable=True,
    since_start=("time_s", 1.0),
)
CAPTURED_AT_SOURCE = Column(
    "captured_at_source",
    TEXT,
    "Where captured_at_utc comes from",
    nullable=True,
    allowed=("file_name", "container", "mtime"),
)
FIRST_FRAME_INDEX = Column("first_frame_index", INT, "Its first frame", minimum=0)
LAST_FRAME_INDEX = Column("last_frame_index", INT, "Its last frame", minimum=0)
TRACK_ID = Column("track_id", INT, "The object's number, from 1, unique within the recording", minimum=1)
CLASS_ID = Column("class_id", INT, "The model's index of the class", minimum=0)
CLASS_NAME = Column("class_name", TEXT, "The model's name of the class")
CONFIDENCE = Column("confidence", FLOAT, "The model's confidence", "0 to 1", minimum=0, maximum=1)
START_S = Column("start_s", FLOAT, "time_s of the first frame", "s", minimum=0)
END_S = Column("end_s", FLOAT, "time_s of the end: the last frame's time plus its duration", "s", minimum=0)
DURATION_S = Column("duration_s", FLOAT, "end_s minus start_s", "s", minimum=0)
WIDTH_PX = Column("width_px", INT, "Width of the normalized video", "px", minimum=1)
HEIGHT_PX = Column("height_px", INT, "Height of the normalized video", "px", minimum=1)
FRAME_COUNT = Column("frame_count", INT, "Frames of the normalized video", minimum=0)
MODEL_ID = Column("model_id", TEXT, "Name and content hash of the weights")
ENGINE_NAME = Column("engine_name", TEXT, "What computed the model: engine, precision and input size")
BOX = tuple(
    Column(f"{axis}_{end}_px", FLOAT, f"{side} edge of the box in the normalized video, from the top left", "px")
    for end, sides in (("min", ("Left", "Top")), ("max", ("Right", "Bottom")))
    for axis, side in zip("xy", sides, strict=True)
)

SOURCE_FILES = Table(
    "source_files",
    "One row per file seen in the watched folders.",
    ("source_path",),
    (
        SOURCE_PATH,
        _nullable(RECORDING_ID, "The recording that the file holds; NULL until it has settled"),
        CAMERA,
        _nullable(FINGERPRINT),
        SIZE_BYTES,
        Column("mtime_ns", BIG, "The file's time of last change, exactly", "ns since 1970"),
        Column(
            "state",
            TEXT,
            "known: is a recording; duplicate: same content as another path; unreadable: could not be read; "
            "skipped: not taken for a recording; closed: is one that Dagster no longer lists",
            allowed=("known", "duplicate", "unreadable", "skipped", "closed"),
        ),
        Column("reason", TEXT, "Why the file is not taken as a recording of its own", nullable=True),
        Column("seen_at_utc", UTC, "When it was first seen at rest, as it is now", "UTC"),
    ),
    per_recording=False,
    is_small=True,
)

RECORDINGS = Table(
    "recordings",
    "One row per recording: what its file claims, what it really holds, and how its processing went.",
    ("recording_id",),
    (
        RECORDING_ID,
        Column(
            "status",
            TEXT,
            "ok; partial: only a part could be decoded; rejected: cannot be processed; failed: a stage failed",
            allowed=STATUSES,
        ),
        Column("error", TEXT, "One sentence that says what is wrong; NULL when ok", nullable=True),
        Column("failed_stage", TEXT, "The stage that failed; NULL unless status is failed", nullable=True),
        CAMERA,
        SOURCE_PATH,
        FINGERPRINT,
        SIZE_BYTES,
        MTIME_UTC,
        Column("started_at_utc", UTC, "Wall-clock time of the first frame; NULL when unknown", "UTC", nullable=True),
        replace(CAPTURED_AT_SOURCE, name="started_at_source", meaning="Where started_at_utc comes from"),
        Column("created_at_utc", UTC, "When the file says that it was made", "UTC", nullable=True),
        Column("created_at_source", TEXT, "The container's tag that says so", nullable=True),
        Column("container_name", TEXT, "Container format as the demuxer names it", nullable=True),
        Column("codec_name", TEXT, "Video codec", nullable=True),
        Column("codec_profile", TEXT, "Profile of the codec", nullable=True),
        Column("pixel_format", TEXT, "Pixel format of the source", nullable=True),
        Column("bit_depth", INT, "Bits per colour component", nullable=True, minimum=1),
        Column("color_primaries", TEXT, "Colour primaries; NULL where the file is silent", nullable=True),
        Column("color_transfer", TEXT, "Transfer: smpte2084 (PQ) and arib_std_b67 (HLG) are HDR", nullable=True),
        Column("color_matrix", TEXT, "Matrix between RGB and YUV; NULL where the file is silent", nullable=True),
        Column("color_range", TEXT, "limited or full; NULL where the file is silent", nullable=True),
        Column(
            "field_order",
            TEXT,
            "progressive, or which field comes first",
            nullable=True,
            allowed=("progressive", "top_first", "bottom_first", "interlaced"),
        ),
        Column("stream_index", INT, "Video stream that was taken, as numbered in the file", nullable=True, minimum=0),
        Column("video_stream_count", INT, "Video streams in the file", nullable=True, minimum=0),
        Column("has_audio", FLAG, "Whether the file has sound", nullable=True),
        Column("coded_width_px", INT, "Width as stored, before rotation and aspect", "px", nullable=True, minimum=1),
        Column("coded_height_px", INT, "Height as stored, before rotation and aspect", "px", nullable=True, minimum=1),
        Column("displayed_width_px", INT, "Width as players show it", "px", nullable=True, minimum=1),
        Column("displayed_height_px", INT, "Height as players show it", "px", nullable=True, minimum=1),
        Column("rotation_deg", INT, "Clockwise turn that makes the picture upright", "degrees", nullable=True),
        Column("sample_aspect_ratio", FLOAT, "Width of a stored pixel divided by its height", nullable=True, minimum=0),
        Column("rate_fps_num_from_header", INT, "Average rate the header claims, numerator", nullable=True),
        Column("rate_fps_den_from_header", INT, "Average rate the header claims, denominator", nullable=True),
        Column("rate_fps_from_header", FLOAT, "Average frame rate that the header claims", "1/s", nullable=True),
        Column("rate_fps_num_from_content", INT, "Rate at which the packets tick, numerator", nullable=True),
        Column("rate_fps_den_from_content", INT, "Rate at which the packets tick, denominator", nullable=True),
        Column("rate_fps_from_content", FLOAT, "Rate at which the packets tick; the commonest", "1/s", nullable=True),
        Column("is_variable_rate", FLAG, "Whether timestamps stray from that rate by half a frame", nullable=True),
        Column("frame_count_from_header", INT, "Frames that the header claims; NULL if it is silent", nullable=True),
        Column("frame_count_from_content", INT, "Frames that really decoded", nullable=True, minimum=0),
        Column("duration_s_from_header", FLOAT, "Duration that the header claims", "s", nullable=True),
        Column("duration_s_from_content", FLOAT, "Duration of what decoded", "s", nullable=True, minimum=0),
        Column(
            "start_time_s_from_header", FLOAT, "Start that the header claims on the file's clock", "s", nullable=True
        ),
        Column("start_time_s_from_content", FLOAT, "pts of the first decoded frame on that clock", "s", nullable=True),
        Column("lead_s", FLOAT, "From the first packet to the first frame that decodes", "s", nullable=True, minimum=0),
        Column(
            "time_source",
            TEXT,
            "Where time_s comes from: the file's timestamps (pts), or its frame rate where it has none",
            nullable=True,
            allowed=("pts", "frame_rate"),
        ),
        Column("packet_count", INT, "Video packets read", nullable=True, minimum=0),
        Column("container_packet_count", INT, "Video packets that a first pass found", nullable=True, minimum=0),
        Column("discarded_count", INT, "Packets that the file's edit list leaves out", nullable=True, minimum=0),
        Column("corrupt_count", INT, "Packets whose picture could not be decoded", nullable=True, minimum=0),
        Column(
            "hidden_count", INT, "Packets without a picture of their own, as second fields", nullable=True, minimum=0
        ),
        Column("extra_count", INT, "Frames beyond the first of a packet", nullable=True, minimum=0),
        Column("damaged_count", INT, "Decoded frames with errors that the decoder concealed", nullable=True, minimum=0),
        Column(
            "missing_s",
            pa.list_(pa.struct([pa.field("start_s", FLOAT), pa.field("end_s", FLOAT)])),
            "Stretches that should show something and do not decode, on the clock of time_s; below 0 before its start",
            "s",
            nullable=True,
        ),
        Column("decimated_count", INT, "Decoded frames left out to keep the rate", nullable=True, minimum=0),
        Column("cut_off_count", INT, "Decoded frames outside the time range of the settings", nullable=True, minimum=0),
        Column("duplicated_count", INT, "Normalized frames that repeat the one before", nullable=True, minimum=0),
        _nullable(FRAME_COUNT),
        Column("rate_fps_num", INT, "Rate of the normalized video, numerator", nullable=True, minimum=1),
        Column("rate_fps_den", INT, "Rate of the normalized video, denominator", nullable=True, minimum=1),
        Column("rate_fps", FLOAT, "Rate of the normalized video", "1/s", nullable=True, minimum=0),
        _nullable(WIDTH_PX),
        _nullable(HEIGHT_PX),
        Column(
            "made_by",
            TEXT,
            "encode; remux: taken over without re-encoding; reference: the source file serves as it is",
            nullable=True,
            allowed=("encode", "remux", "reference"),
        ),
        Column(
            "video_path",
            TEXT,
            "The normalized video, relative to the data folder; NULL also once it was removed by retention",
            nullable=True,
        ),
    ),
    is_small=True,
)

FRAMES = Table(
    "frames",
    "One row per frame of a normalized video.",
    ("recording_id", "frame_index"),
    (
        RECORDING_ID,
        FRAME_INDEX,
        Column("source_frame_index", INT, "Decoded frame of the source whose picture this shows, from 0", minimum=0),
        TIME_S,
        CAPTURED_AT_UTC,
        CAPTURED_AT_SOURCE,
        Column("is_duplicated", FLAG, "Whether the frame repeats the one before to keep the rate constant"),
        Column("gap_s", FLOAT, "Hole in the source before this frame that was not filled", "s", minimum=0),
        Column("brightness", FLOAT, "Mean luma", "0 to 255", minimum=0, maximum=255),
        Column("sharpness", FLOAT, "Variance of the Laplacian of the luma at 360 rows", minimum=0),
        Column("motion", FLOAT, "Mean absolute difference of the luma to the frame before", "0 to 255", minimum=0),
        Column("scene_score", FLOAT, "How sudden that difference is", "0 to 1", minimum=0, maximum=1),
        Column("black_share", FLOAT, "Share of the picture that is black", "0 to 1", minimum=0, maximum=1),
    ),
)

SCENES = Table(
    "scenes",
    "One row per scene, from one cut to the next.",
    ("recording_id", "scene_index"),
    (
        RECORDING_ID,
        Column("scene_index", INT, "Number of the scene, from 0", minimum=0),
        FIRST_FRAME_INDEX,
        LAST_FRAME_INDEX,
        START_S,
        END_S,
        DURATION_S,
        Column("cut_score", FLOAT, "scene_score of its first frame", "0 to 1", minimum=0, maximum=1),
        Column("mean_brightness", FLOAT, "Mean luma", "0 to 255", minimum=0, maximum=255),
        Column("mean_sharpness", FLOAT, "Mean sharpness of its frames", minimum=0),
        Column("mean_motion", FLOAT, "Mean motion of its frames", "0 to 255", minimum=0),
    ),
)

STRETCHES = Table(
    "stretches",
    "One row per stretch in which a recording is black, frozen or blurred.",
    ("recording_id", "kind", "first_frame_index"),
    (
        RECORDING_ID,
        Column("kind", TEXT, "What is wrong with the pictures", allowed=("black", "frozen", "blurred")),
        FIRST_FRAME_INDEX,
        LAST_FRAME_INDEX,
        START_S,
        END_S,
        DURATION_S,
    ),
)

DETECTIONS = Table(
    "detections",
    "One row per box per frame.",
    ("recording_id", "frame_index", "detection_index"),
    (
        RECORDING_ID,
        FRAME_INDEX,
        Column("detection_index", INT, "Number of the box in its frame, from 0, best first", minimum=0),
        Column("source_frame_index", INT, "Decoded frame of the source whose picture this shows, from 0", minimum=0),
        TIME_S,
        CAPTURED_AT_UTC,
        CLASS_ID,
        CLASS_NAME,
        CONFIDENCE,
        *BOX,
        Column("is_reused", FLAG, "Whether the box was found in an earlier frame that looks the same (skip_static)"),
        MODEL_ID,
        ENGINE_NAME,
    ),
)

DETECTION_INDEX = Column("detection_index", INT, "The box of that frame in the table of detections", minimum=0)

MASKS = Table(
    "masks",
    "One row per box with a mask, from weights of the task segment.",
    ("recording_id", "frame_index", "detection_index"),
    (
        RECORDING_ID,
        FRAME_INDEX,
        DETECTION_INDEX,
        Column("area_px", FLOAT, "Area of the mask in the normalized video", "px²", minimum=0),
        Column(
            "polygon_px",
            pa.list_(pa.float64()),
            "Outline of the mask's largest part, x and y in turn, from the top left of the normalized video",
            "px",
        ),
    ),
)

KEYPOINTS = Table(
    "keypoints",
    "One row per point per box, from weights of the task pose.",
    ("recording_id", "frame_index", "detection_index", "keypoint_index"),
    (
        RECORDING_ID,
        FRAME_INDEX,
        DETECTION_INDEX,
        Column("keypoint_index", INT, "The model's index of the point; of a person in COCO, 0 is the nose", minimum=0),
        Column("x_px", FLOAT, "Place of the point in the normalized video, from the left", "px"),
        Column("y_px", FLOAT, "Place of the point in the normalized video, from the top", "px"),
        CONFIDENCE,
    ),
)

ORIENTED_BOXES = Table(
    "oriented_boxes",
    "One row per turned box, from weights of the task obb; detections holds the upright box around it.",
    ("recording_id", "frame_index", "detection_index"),
    (
        RECORDING_ID,
        FRAME_INDEX,
        DETECTION_INDEX,
        Column("centre_x_px", FLOAT, "Centre in the normalized video, from the left", "px"),
        Column("centre_y_px", FLOAT, "Centre in the normalized video, from the top", "px"),
        Column("box_width_px", FLOAT, "Length of the box along its own x axis", "px", minimum=0),
        Column("box_height_px", FLOAT, "Length of the box along its own y axis", "px", minimum=0),
        Column("angle_deg", FLOAT, "Clockwise turn of the box's own x axis", "degrees"),
    ),
)

FRAME_CLASSES = Table(
    "frame_classes",
    "One row per likely class of a whole frame, likeliest first, from weights of the task classify.",
    ("recording_id", "frame_index", "rank"),
    (
        RECORDING_ID,
        FRAME_INDEX,
        Column("rank", INT, "1 is the likeliest class", minimum=1),
        TIME_S,
        CAPTURED_AT_UTC,
        CLASS_ID,
        CLASS_NAME,
        CONFIDENCE,
        Column("is_reused", FLAG, "Whether this was found in an earlier frame that looks the same (skip_static)"),
        MODEL_ID,
        ENGINE_NAME,
    ),
)

MODEL_RUNS = Table(
    "model_runs",
    "One row per recording and model: what of the recording the model has seen, and how fast.",
    ("recording_id", "asset_name"),
    (
        RECORDING_ID,
        Column("asset_name", TEXT, "The asset that the model's rows belong to"),
        MODEL_ID,
        ENGINE_NAME,
        Column("device_name", TEXT, "Processor or GPU that computed it"),
        FRAME_COUNT,
        Column("analysed_frame_count", INT, "Frames that have an answer: all, or as many as max_rate_fps", minimum=0),
        Column("reused_frame_count", INT, "Frames among them that reuse an earlier one's (skip_static)", minimum=0),
        Column("elapsed_s", FLOAT, "Time from the first frame to the last, without what was resumed", "s", minimum=0),
    ),
    is_small=True,
)

_SHARE = "0 to 1"
MODELS = Table(
    "models",
    "One row per model, engine and device: how fast it is, and how far it agrees with the f32 reference.",
    ("model_id", "engine_name", "device_name"),
    (
        MODEL_ID,
        ENGINE_NAME,
        Column("device_name", TEXT, "Processor or GPU that was measured"),
        Column("task", TEXT, "What the model was trained for"),
        Column("is_used", FLAG, "Whether it was the fastest that agrees"),
        Column("frames_per_s", FLOAT, "Speed of the engine alone", "1/s", minimum=0),
        Column("reference_name", TEXT, "The engine that it is compared with"),
        Column("sample_frame_count", INT, "Frames of the user's footage that were compared", minimum=0),
        Column("reference_box_count", INT, "Boxes of the reference in them, from confidence 0.35 up", minimum=0),
        Column("recall_iou50", FLOAT, "Share of those that it finds at IoU 0.5", _SHARE, minimum=0, maximum=1),
        Column("precision_iou50", FLOAT, "Share of its own that are there at IoU 0.5", _SHARE, minimum=0, maximum=1),
        Column("recall_iou90", FLOAT, "Share of those that it finds at IoU 0.9", _SHARE, minimum=0, maximum=1),
        Column("precision_iou90", FLOAT, "Share of its own that are there at IoU 0.9", _SHARE, minimum=0, maximum=1),
        Column("confidence_shift", FLOAT, "Mean confidence of its boxes less that of the reference's"),
    ),
    per_recording=False,
    is_small=True,
)

TRACKS = Table(
    "tracks",
    "One row per object followed through a recording.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        TRACK_ID,
        CLASS_ID,
        CLASS_NAME,
        START_S,
        END_S,
        DURATION_S,
        Column("first_frame_index", INT, "First frame the object is seen in", minimum=0),
        Column("last_frame_index", INT, "Last frame the object is seen in", minimum=0),
        Column("box_count", INT, "Frames the object is seen in, interpolated boxes not counted", minimum=1),
        Column("mean_confidence", FLOAT, "Mean confidence of its boxes", "0 to 1", minimum=0, maximum=1),
        Column("path_px", FLOAT, "Length of the way of its box's centre", "px", minimum=0),
        Column("mean_speed_px_s", FLOAT, "path_px divided by the time between first and last box", "px/s", minimum=0),
        *(
            Column(f"{end}_{axis}_px", FLOAT, f"Centre of its {end} box, from the {side}", "px")
            for end in ("first", "last")
            for axis, side in (("x", "left"), ("y", "top"))
        ),
    ),
)

TRACK_BOXES = Table(
    "track_boxes",
    "One row per object per frame from its first to its last, less gaps too long to fill.",
    ("recording_id", "track_id", "frame_index"),
    (
        RECORDING_ID,
        TRACK_ID,
        FRAME_INDEX,
        TIME_S,
        CAPTURED_AT_UTC,
        Column(
            "detection_index",
            INT,
            "The detection of that frame that was matched; NULL where interpolated",
            nullable=True,
            minimum=0,
        ),
        Column("is_interpolated", FLAG, "Whether the box fills a gap between two detections of the object"),
        CLASS_ID,
        CLASS_NAME,
        _nullable(CONFIDENCE, "The model's confidence; NULL where interpolated"),
        *BOX,
    ),
)

TRACK_LINKS = Table(
    "track_links",
    "One row per track that goes on from the recording before of the same camera.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        TRACK_ID,
        Column("previous_recording_id", TEXT, "The recording before"),
        Column("previous_track_id", INT, "The object's number there", minimum=1),
        Column("gap_s", FLOAT, "Time between the last box there and the first here", "s", minimum=0),
    ),
)

ZONE_NAME = Column("zone_name", TEXT, "The zone, as the settings call it")
LINE_NAME = Column("line_name", TEXT, "The line, as the settings call it")
DIRECTION = Column(
    "direction", TEXT, "in: from the line's left hand to its right, seen along it; out: back", allowed=("in", "out")
)
_ON_GROUND = "on the ground, where the camera's ground is known; NULL elsewhere"

ZONE_EVENTS = Table(
    "zone_events",
    "One row per entry into a zone, exit from it, or crossing of a line.",
    ("recording_id", "track_id", "event_index"),
    (
        RECORDING_ID,
        TRACK_ID,
        Column("event_index", INT, "Number of the event of its track, from 0, in order of time", minimum=0),
        Column(
            "event",
            TEXT,
            "enter or exit: of a zone; in: crosses a line from its left hand to its right, seen along it; out: back",
            allowed=("enter", "exit", "in", "out"),
        ),
        _nullable(ZONE_NAME, "The zone, as the settings call it; NULL for lines"),
        _nullable(LINE_NAME, "The line, as the settings call it; NULL for zones"),
        FRAME_INDEX,
        TIME_S,
        CAPTURED_AT_UTC,
        CLASS_ID,
        CLASS_NAME,
        Column("x_px", FLOAT, "Where, from the left", "px"),
        Column("y_px", FLOAT, "Where, from the top", "px"),
        Column("x_m", FLOAT, f"Where {_ON_GROUND}", "m", nullable=True),
        Column("y_m", FLOAT, f"Where {_ON_GROUND}", "m", nullable=True),
        Column("speed_px_s", FLOAT, "Speed over the second around it", "px/s", minimum=0),
        Column("speed_m_s", FLOAT, f"Speed over the second around it, {_ON_GROUND}", "m/s", nullable=True, minimum=0),
        Column("dwell_s", FLOAT, "For exits: time since the entry", "s", nullable=True, minimum=0),
        Column(
            "is_at_track_end",
            FLAG,
            "Whether the object was inside when first seen (enter) or last seen (exit), so that its true moment is not "
            "known",
        ),
    ),
)

ZONE_SECONDS = Table(
    "zone_seconds",
    "One row per zone and second of a recording: how many are inside, and how many of them stand.",
    ("recording_id", "zone_name", "second_index"),
    (
        RECORDING_ID,
        ZONE_NAME,
        Column("second_index", INT, "Second of media time, from 0", minimum=0),
        Column("mean_occupancy", FLOAT, "Mean number of objects inside", minimum=0),
        Column("max_occupancy", INT, "Most objects inside at once", minimum=0),
        Column("mean_queue", FLOAT, "Mean number of objects that stand inside", minimum=0),
        Column("max_queue", INT, "Most objects that stand inside at once", minimum=0),
    ),
)

LINE_TRIPS = Table(
    "line_trips",
    "One row per way of an object from one line to the next other one.",
    ("recording_id", "track_id", "trip_index"),
    (
        RECORDING_ID,
        TRACK_ID,
        Column("trip_index", INT, "Number of the trip of its track, from 0", minimum=0),
        CLASS_ID,
        CLASS_NAME,
        Column("from_line", TEXT, "The line crossed first"),
        replace(DIRECTION, name="from_direction"),
        Column("to_line", TEXT, "The line crossed next"),
        replace(DIRECTION, name="to_direction"),
        Column("start_s", FLOAT, "time_s of the first crossing", "s", minimum=0),
        replace(
            CAPTURED_AT_UTC,
            meaning="Wall-clock time of the first crossing; NULL when the camera's clock is unknown",
            since_start=("start_s", 1.0),
        ),
        Column("travel_s", FLOAT, "Time from the first to the second", "s", minimum=0),
        Column("distance_px", FLOAT, "Between the places of the two crossings, straight", "px", minimum=0),
        Column("speed_px_s", FLOAT, "distance_px divided by travel_s", "px/s", nullable=True, minimum=0),
        Column("distance_m", FLOAT, f"Between the two places, straight, {_ON_GROUND}", "m", nullable=True, minimum=0),
        Column("speed_m_s", FLOAT, "distance_m divided by travel_s", "m/s", nullable=True, minimum=0),
    ),
)

GROUND_TRACKS = Table(
    "ground_tracks",
    "One row per object of a camera whose ground is known: its way in metres.",
    ("recording_id", "track_id"),
    (
        RECORDING_ID,
        TRACK_ID,
        CLASS_ID,
        CLASS_NAME,
        Column("path_m", FLOAT, "Length of its way", "m", minimum=0),
        Column("mean_speed_m_s", FLOAT, "Mean speed", "m/s", minimum=0),
        Column("max_speed_m_s", FLOAT, "Highest speed over a second", "m/s", minimum=0),
        *(
            Column(f"{end}_{axis}_m", FLOAT, f"Where it is {end} seen, on the {axis} axis of the ground", "m")
            for end in ("first", "last")
            for axis in "xy"
        ),
    ),
)

CROPS = Table(
    "crops",
    "One row per kept picture of a track, best first.",
    ("recording_id", "track_id", "rank"),
    (
        RECORDING_ID,
        TRACK_ID,
        Column("rank", INT, "1 is the best picture of the track", minimum=1),
        FRAME_INDEX,
        TIME_S,
        CLASS_ID,
        CLASS_NAME,
        CONFIDENCE,
        *BOX,
        Column("crop_width_px", INT, "Width of the picture", "px", minimum=1),
        Column("crop_height_px", INT, "Height of the picture", "px", minimum=1),
        Column("jpeg", pa.binary(), "The picture as JPEG; NULL once it was removed by retention", nullable=True),
    ),
)

SUMMARIES = Table(
    "summaries",
    "One row per recording: its totals.",
    ("recording_id",),
    (
        RECORDING_ID,
        CAMERA,
        Column("duration_s", FLOAT, "Length of its normalized video", "s", minimum=0),
        FRAME_COUNT,
        Column("detection_count", BIG, "Boxes stored", minimum=0),
        Column("track_count", INT, "Objects followed", minimum=0),
        Column("max_at_once", INT, "Most objects tracked in one frame", minimum=0),
        Column("mean_at_once", FLOAT, "Mean number of objects tracked per frame", minimum=0),
        _nullable(MODEL_ID),
        _nullable(ENGINE_NAME),
        Column("analysed_frame_count", INT, "Frames that have an answer of the detector", nullable=True, minimum=0),
        Column("reused_frame_count", INT, "Frames among them that reuse an earlier one's", nullable=True, minimum=0),
    ),
    is_small=True,
)

MINUTE_INDEX = Column("minute_index", INT, "Minute of media time, from 0", minimum=0)
MINUTE_START_UTC = Column(
    "minute_start_utc",
    UTC,
    "Wall-clock time at which the minute begins; NULL when unknown",
    "UTC",
    nullable=True,
    since_start=("minute_index", 60.0),
)
HOUR_UTC = Column("hour_utc", UTC, "Wall-clock time at which the hour begins", "UTC")

CLASS_MINUTES = Table(
    "class_minutes",
    "One row per recording, class and minute in which the class was seen.",
    ("recording_id", "class_name", "minute_index"),
    (
        RECORDING_ID,
        CLASS_NAME,
        MINUTE_INDEX,
        MINUTE_START_UTC,
        Column("track_count", INT, "Objects seen in that minute", minimum=0),
        Column("new_track_count", INT, "Objects first seen in that minute", minimum=0),
        Column("max_at_once", INT, "Most objects of the class in one frame", minimum=0),
        Column("mean_at_once", FLOAT, "Mean number of objects of the class per frame of that minute", minimum=0),
    ),
    is_small=True,
)

HEATMAP_CELLS = Table(
    "heatmap_cells",
    "One row per recording, class and cell of a grid over the picture in which the class stood or walked.",
    ("recording_id", "class_name", "row_index", "column_index"),
    (
        RECORDING_ID,
        CLASS_NAME,
        Column("row_index", INT, "Row of the grid, from 0 at the top; cells are squares of 1/32 width", minimum=0),
        Column("column_index", INT, "Column of the grid, from 0 at the left, to 31", minimum=0, maximum=31),
        Column("track_count", INT, "Objects whose box's bottom centre was in the cell", minimum=1),
        Column("object_s", FLOAT, "Time that objects spent there, summed over them", "s", minimum=0),
    ),
)

_HOUR_COLUMNS = (
    Column("max_at_once", INT, "Most objects of the class in one frame", minimum=0),
    Column("object_s", FLOAT, "Time that objects were in view, summed over them", "s", minimum=0),
)

RECORDING_HOURS = Table(
    "recording_hours",
    "One row per recording, class and hour of the wall clock in which the class was seen.",
    ("recording_id", "hour_utc", "class_name"),
    (
        RECORDING_ID,
        CAMERA,
        HOUR_UTC,
        CLASS_NAME,
        Column("new_track_count", INT, "Objects first seen in that hour", minimum=0),
        *_HOUR_COLUMNS,
    ),
    is_small=True,
)

ZONE_MINUTES = Table(
    "zone_minutes",
    "One row per recording, zone and minute.",
    ("recording_id", "zone_name", "minute_index"),
    (
        RECORDING_ID,
        ZONE_NAME,
        MINUTE_INDEX,
        MINUTE_START_UTC,
        Column("mean_occupancy", FLOAT, "Mean number of objects inside", minimum=0),
        Column("max_occupancy", INT, "Most objects inside at once", minimum=0),
        Column("mean_queue", FLOAT, "Mean number of objects that stand inside", minimum=0),
        Column("max_queue", INT, "Most objects that stand inside at once", minimum=0),
        Column("enter_count", INT, "Entries, objects that were inside when first seen included", minimum=0),
        Column("exit_count", INT, "Exits, objects that were inside when last seen included", minimum=0),
        *(
            Column(
                f"dwell_p{part}_s", FLOAT, f"{part}th percentile of dwell_s of the exits", "s", nullable=True, minimum=0
            )
            for part in (50, 90)
        ),
    ),
    is_small=True,
)

LINE_MINUTES = Table(
    "line_minutes",
    "One row per recording, line, direction, class and minute with a crossing.",
    ("recording_id", "line_name", "direction", "class_name", "minute_index"),
    (
        RECORDING_ID,
        LINE_NAME,
        DIRECTION,
        CLASS_NAME,
        MINUTE_INDEX,
        MINUTE_START_UTC,
        Column("crossing_count", INT, "Crossings", minimum=1),
    ),
    is_small=True,
)

ORIGIN_DESTINATIONS = Table(
    "origin_destinations",
    "One row per recording, class and pair of lines: objects that crossed the one first and the other last.",
    ("recording_id", "class_name", "origin_line", "destination_line"),
    (
        RECORDING_ID,
        CLASS_NAME,
        Column("origin_line", TEXT, "The first line that the objects crossed"),
        Column("destination_line", TEXT, "The last line that they crossed; the same for those that crossed only one"),
        Column("track_count", INT, "Objects", minimum=1),
        Column("median_travel_s", FLOAT, "Median time from the first crossing to the last", "s", minimum=0),
    ),
    is_small=True,
)

NOTIFICATIONS = Table(
    "notifications",
    "One row per event and channel that is told of it.",
    ("event_id", "channel"),
    (
        Column("event_id", TEXT, "The event"),
        Column("channel", TEXT, "Name of the channel in the settings; empty where none asks for such events"),
        Column(
            "kind",
            TEXT,
            "What happened; start: notifications began; heard: a silent camera sends again",
            allowed=("start", "success", "failure", "hold", "backlog", "recovered", "silent", "heard"),
        ),
        Column("subject", TEXT, "What it is about: recording, file or camera; empty for all of the work"),
        CAMERA,
        Column("told", TEXT, "What happened, in one sentence"),
        Column("noticed_at_utc", UTC, "When it was noticed", "UTC"),
        Column(
            "state",
            TEXT,
            "baseline: was so before notifications began; unwanted: no channel asks for it; waiting: is sent at the "
            "next opportunity; sending; sent; unknown: may have arrived, is not sent again; failed: given up",
            allowed=("baseline", "unwanted", "waiting", "sending", "sent", "unknown", "failed"),
        ),
        Column("message_id", TEXT, "The message that it was last sent in, together with others", nullable=True),
        Column("attempt_count", INT, "How often it was tried to send it", minimum=0),
        Column("tried_at_utc", UTC, "When that was tried last", "UTC", nullable=True),
        Column("next_try_at_utc", UTC, "When it is tried again at the earliest", "UTC", nullable=True),
        Column("error", TEXT, "Why it was not sent, or may not have been", nullable=True),
    ),
    per_recording=False,
    is_small=True,
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        SOURCE_FILES,
        RECORDINGS,
        FRAMES,
        SCENES,
        STRETCHES,
        DETECTIONS,
        MASKS,
        KEYPOINTS,
        ORIENTED_BOXES,
        FRAME_CLASSES,
        MODEL_RUNS,
        MODELS,
        TRACKS,
        TRACK_BOXES,
        TRACK_LINKS,
        CROPS,
        ZONE_EVENTS,
        ZONE_SECONDS,
        LINE_TRIPS,
        GROUND_TRACKS,
        SUMMARIES,
        CLASS_MINUTES,
        HEATMAP_CELLS,
        RECORDING_HOURS,
        ZONE_MINUTES,
        LINE_MINUTES,
        ORIGIN_DESTINATIONS,
        NOTIFICATIONS,
    )
}

CAMERA_HOURS = Table(
    "camera_hours",
    "One row per camera, class and hour of the wall clock, over all of the camera's recordings.",
    ("camera", "hour_utc", "class_name"),
    (
        CAMERA,
        HOUR_UTC,
        CLASS_NAME,
        Column("track_count", INT, "Objects first seen in that hour; one that goes on in the next file counts once"),
        *_HOUR_COLUMNS,
    ),
    per_recording=False,
    is_small=True,
)

# Tables made from others whenever results are published: they span recordings, so no recording owns their rows.
DERIVED_SQL: dict[str, tuple[Table, str]] = {
    CAMERA_HOURS.name: (
        CAMERA_HOURS,
        """
        WITH continued AS (
            SELECT recording_id, class_name,
                to_timestamp(floor(epoch(started_at_utc + to_seconds(start_s)) / 3600) * 3600) AS hour_utc,
                count(*) AS continued_count
            FROM track_links JOIN tracks USING (recording_id, track_id) JOIN recordings USING (recording_id)
            GROUP BY recording_id, class_name, hour_utc
        )
        SELECT camera, hour_utc, class_name,
            (sum(new_track_count) - coalesce(sum(continued_count), 0))::INTEGER AS track_count,
            max(max_at_once) AS max_at_once, sum(object_s) AS object_s
        FROM recording_hours LEFT JOIN continued USING (recording_id, hour_utc, class_name)
        GROUP BY camera, hour_utc, class_name ORDER BY camera, hour_utc, class_name
        """,
    )
}


_BY_TASK: dict[str, tuple[Table, ...]] = {
    "detect": (DETECTIONS,),
    "segment": (DETECTIONS, MASKS),
    "pose": (DETECTIONS, KEYPOINTS),
    "obb": (DETECTIONS, ORIENTED_BOXES),
    "classify": (FRAME_CLASSES,),
}


def model_tables(task: str, model_name: str | None = None) -> tuple[Table, ...]:
    """The tables that a model of a task fills.

    Args:
        task: As Ultralytics names it.
        model_name: Name of a further model, whose tables are called after it; None means the detector of the walk,
            whose table of detections is there whatever its task, because tracks are made from it.
    """
    if model_name is None:
        return tuple(dict.fromkeys((DETECTIONS, *_BY_TASK[task])))
    return tuple(_named(table, model_name) for table in _BY_TASK[task])


def table_named(name: str) -> Table | None:
    """The declaration of a table, also of a further model's; None for a name that no table has."""
    if name in TABLES:
        return TABLES[name]
    for table in (DETECTIONS, MASKS, KEYPOINTS, ORIENTED_BOXES, FRAME_CLASSES):
        if name.endswith(f"_{table.name}"):
            return _named(table, name.removesuffix(f"_{table.name}"))
    return None


def _named(table: Table, model_name: str) -> Table:
    return replace(table, name=f"{model_name}_{table.name}", grain=f"{table.grain[:-1]}, of the model {model_name}.")


def broken_rules(table: Table, rows: pa.Table | Dataset) -> list[str]:
    """What of the declaration the rows break, a sentence each; an empty list when they keep it.

    Args:
        table: The declaration.
        rows: Rows with the declared columns, in any order.
    """
    if missing := [c.name for c in table.columns if c.name not in rows.schema.names]:
        return [f"{table.name} lacks the columns {', '.join(missing)}."]
    total, broken = 0, Counter[str]()
    # Not by SQL, which takes ten times as long to plan so many conditions as it takes to check a recording's rows.
    for batch in rows.to_batches(columns=table.arrow_schema.names) if isinstance(rows, Dataset) else rows.to_batches():
        total += batch.num_rows
        for column in table.columns:
            broken.update(dict(_broken(column, batch.column(column.name))))
    found = [
        f"{table.name}: {count} of {total} rows break the rule: {rule}." for rule, count in broken.items() if count
    ]
    keys = rows.to_table(columns=list(table.key)) if isinstance(rows, Dataset) else rows.select(list(table.key))
    counts = keys.group_by(list(table.key)).aggregate([([], "count_all")])["count_all"]
    if repeated := len(counts.filter(pc.greater(counts, 1))):
        found.append(f"{table.name}: {repeated} keys ({', '.join(table.key)}) stand in more than one row.")
    return found


def _broken(column: Column, values: pa.Array) -> Iterator[tuple[str, int]]:
    """How many values break each rule of their column; of what is not there only that it is not."""
    if not column.nullable:
        yield f"{column.name} is never NULL", values.null_count
    if column.type == FLOAT:
        yield f"{column.name} is a finite number", pc.invert(pc.is_finite(values)).true_count
    if column.minimum is not None:
        yield f"{column.name} is at least {column.minimum}", pc.less(values, column.minimum).true_count
    if column.maximum is not None:
        yield f"{column.name} is at most {column.maximum}", pc.greater(values, column.maximum).true_count
    if column.allowed:
        is_other = pc.and_(pc.invert(pc.is_in(values, pa.array(column.allowed))), pc.is_valid(values))
        yield f"{column.name} is one of {', '.join(map(repr, column.allowed))}", is_other.true_count
