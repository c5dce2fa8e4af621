"""Tables of ingest: source files and their hashes, recordings, their contents and clocks, frames, scenes, stretches."""

import pyarrow as pa

from resources.schema.columns import (
    CAMERA,
    CAPTURED_AT_SOURCE,
    CAPTURED_AT_UTC,
    CONTENT_HASH,
    DURATION_S,
    END_S,
    END_UTC,
    FINGERPRINT,
    FIRST_FRAME_INDEX,
    FLAG,
    FLOAT,
    FRAME_COUNT,
    FRAME_INDEX,
    HEIGHT_PX,
    INT,
    LAST_FRAME_INDEX,
    MTIME_NS,
    MTIME_UTC,
    RECORDING_CAMERA,
    RECORDING_ID,
    SIZE_BYTES,
    SOURCE_PATH,
    START_S,
    START_UTC,
    TEXT,
    TIME_S,
    UTC,
    WIDTH_PX,
    Column,
    Table,
    nullable,
)

SOURCE_FILES = Table(
    "source_files",
    "One row per file in the watched folders.",
    ("source_path",),
    (
        SOURCE_PATH,
        nullable(RECORDING_ID, "Recording of the file; NULL until the file is stable, and once it is forgotten"),
        CAMERA,
        nullable(FINGERPRINT),
        SIZE_BYTES,
        MTIME_NS,
        Column(
            "state",
            TEXT,
            "known: is a recording; duplicate: same content as another path; unverified: seems to have the content of "
            "the recording, and is not compared with it yet; unreadable: cannot be read; skipped: is not ingested; "
            "archived: is a recording that is no longer a Dagster partition; forgotten: cv-assets forget has deleted "
            "its recording, and it is not ingested again",
            allowed=("known", "duplicate", "unverified", "unreadable", "skipped", "archived", "forgotten"),
        ),
        Column("reason", TEXT, "Reason why the file is no recording of its own", nullable=True),
        Column(
            "replaces",
            TEXT,
            "Recording of the beginning of this file, ingested while the file was still growing; NULL for other files",
            nullable=True,
        ),
        Column("seen_at_utc", UTC, "When the file was first found stable in its current version", "UTC"),
    ),
    per_recording=False,
    is_small=True,
)

FILE_HASHES = Table(
    "file_hashes",
    "One row per file that was compared with the content of a recording.",
    ("recording_id", "source_path"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        SOURCE_PATH,
        SIZE_BYTES,
        MTIME_NS,
        nullable(CONTENT_HASH, "Hash of all bytes of the file; NULL if it could not be read"),
        Column("error", TEXT, "Reason why the file could not be read; NULL if it could", nullable=True),
        Column("read_at_utc", UTC, "When the file was read", "UTC"),
    ),
    is_small=True,
)

RECORDINGS = Table(
    "recordings",
    "One row per recording: its file, and what the header of the file claims.",
    ("recording_id",),
    (
        RECORDING_ID,
        CAMERA,
        SOURCE_PATH,
        FINGERPRINT,
        SIZE_BYTES,
        MTIME_UTC,
        nullable(MTIME_NS, f"{MTIME_NS.meaning}; NULL if an older version ingested it"),
        nullable(CONTENT_HASH, f"{CONTENT_HASH.meaning}; NULL if an older version ingested it"),
        Column("created_at_utc", UTC, "Creation time according to the container", "UTC", nullable=True),
        Column("created_at_source", TEXT, "Container tag with the creation time", nullable=True),
        Column("container_name", TEXT, "Name of the container format, as in FFmpeg", nullable=True),
        Column("codec_name", TEXT, "Video codec", nullable=True),
        Column("codec_profile", TEXT, "Profile of the codec", nullable=True),
        Column("pixel_format", TEXT, "Pixel format of the source", nullable=True),
        Column("bit_depth", INT, "Bits per colour component", nullable=True, minimum=1),
        Column("color_primaries", TEXT, "Colour primaries; NULL if the file does not specify them", nullable=True),
        Column(
            "color_transfer", TEXT, "Transfer function: smpte2084 (PQ) and arib_std_b67 (HLG) are HDR", nullable=True
        ),
        Column("color_matrix", TEXT, "Matrix between RGB and YUV; NULL if the file does not specify it", nullable=True),
        Column("color_range", TEXT, "limited or full; NULL if the file does not specify it", nullable=True),
        Column(
            "field_order",
            TEXT,
            "progressive, or the field order of interlaced video",
            nullable=True,
            allowed=("progressive", "top_first", "bottom_first", "interlaced"),
        ),
        Column(
            "stream_index", INT, "Index of the video stream used, as numbered in the file", nullable=True, minimum=0
        ),
        Column("video_stream_count", INT, "Number of video streams in the file", nullable=True, minimum=0),
        Column("has_audio", FLAG, "Whether the file has audio", nullable=True),
        Column("coded_width_px", INT, "Coded width, before rotation and aspect ratio", "px", nullable=True, minimum=1),
        Column(
            "coded_height_px", INT, "Coded height, before rotation and aspect ratio", "px", nullable=True, minimum=1
        ),
        Column(
            "displayed_width_px", INT, "Display width, after rotation and aspect ratio", "px", nullable=True, minimum=1
        ),
        Column(
            "displayed_height_px",
            INT,
            "Display height, after rotation and aspect ratio",
            "px",
            nullable=True,
            minimum=1,
        ),
        Column("rotation_deg", INT, "Clockwise rotation that makes the frames upright", "degrees", nullable=True),
        Column("sample_aspect_ratio", FLOAT, "Width of a coded pixel divided by its height", nullable=True, minimum=0),
        Column(
            "rate_fps_num_from_header",
            INT,
            "Numerator of the average frame rate according to the header",
            nullable=True,
        ),
        Column(
            "rate_fps_den_from_header",
            INT,
            "Denominator of the average frame rate according to the header",
            nullable=True,
        ),
        Column("rate_fps_from_header", FLOAT, "Average frame rate according to the header", "1/s", nullable=True),
        Column(
            "frame_count_from_header",
            INT,
            "Number of frames according to the header; NULL if it has none",
            nullable=True,
        ),
        Column("duration_s_from_header", FLOAT, "Duration according to the header", "s", nullable=True),
        Column(
            "start_time_s_from_header",
            FLOAT,
            "Start time according to the header, on the file's clock",
            "s",
            nullable=True,
        ),
    ),
    is_small=True,
    published_name="recording_headers",
)

RECORDING_CONTENTS = Table(
    "recording_contents",
    "One row per normalized recording: what decoding every frame of its file has shown, and its normalized video.",
    ("recording_id",),
    (
        RECORDING_ID,
        Column(
            "rate_fps_num_from_content", INT, "Numerator of the most common frame rate of the packets", nullable=True
        ),
        Column(
            "rate_fps_den_from_content", INT, "Denominator of the most common frame rate of the packets", nullable=True
        ),
        Column("rate_fps_from_content", FLOAT, "Most common frame rate of the packets", "1/s", nullable=True),
        Column("is_variable_rate", FLAG, "Whether timestamps deviate from that rate by half a frame", nullable=True),
        Column("frame_count_from_content", INT, "Number of frames that decoded", nullable=True, minimum=0),
        Column("duration_s_from_content", FLOAT, "Duration of the decoded frames", "s", nullable=True, minimum=0),
        Column(
            "start_time_s_from_content",
            FLOAT,
            "PTS of the first decoded frame, on the file's clock",
            "s",
            nullable=True,
        ),
        Column(
            "lead_s", FLOAT, "Time from the first packet to the first frame that decodes", "s", nullable=True, minimum=0
        ),
        Column(
            "time_source",
            TEXT,
            "Source of time_s: the file's timestamps (pts), or its frame rate where it has none (frame_rate)",
            nullable=True,
            allowed=("pts", "frame_rate"),
        ),
        Column("packet_count", INT, "Number of video packets read", nullable=True, minimum=0),
        Column(
            "container_packet_count",
            INT,
            "Number of video packets found by a first pass over the container",
            nullable=True,
            minimum=0,
        ),
        Column("discarded_count", INT, "Packets that the file's edit list excludes", nullable=True, minimum=0),
        Column("corrupt_count", INT, "Packets whose frame could not be decoded", nullable=True, minimum=0),
        Column(
            "hidden_count", INT, "Packets without a frame of their own, such as second fields", nullable=True, minimum=0
        ),
        Column("extra_count", INT, "Frames of a packet beyond its first", nullable=True, minimum=0),
        Column("damaged_count", INT, "Decoded frames with errors that the decoder concealed", nullable=True, minimum=0),
        Column(
            "missing_s",
            pa.list_(pa.struct([pa.field("start_s", FLOAT), pa.field("end_s", FLOAT)])),
            "Intervals of time_s in which no frame decodes although the file has packets; negative before its start",
            "s",
            nullable=True,
        ),
        Column("decimated_count", INT, "Decoded frames dropped to keep the frame rate", nullable=True, minimum=0),
        Column(
            "out_of_range_count",
            INT,
            "Decoded frames outside the time range of the settings (video.start_s, video.end_s)",
            nullable=True,
            minimum=0,
        ),
        Column(
            "duplicated_count",
            INT,
            "Frames of the normalized video that repeat the previous one",
            nullable=True,
            minimum=0,
        ),
        nullable(FRAME_COUNT),
        Column("rate_fps_num", INT, "Numerator of the frame rate of the normalized video", nullable=True, minimum=1),
        Column("rate_fps_den", INT, "Denominator of the frame rate of the normalized video", nullable=True, minimum=1),
        Column("rate_fps", FLOAT, "Frame rate of the normalized video", "1/s", nullable=True, minimum=0),
        nullable(WIDTH_PX),
        nullable(HEIGHT_PX),
        Column(
            "region",
            pa.list_(FLOAT),
            "Part of the upright source frame that the normalized video shows: left, top, right, bottom; NULL in rows "
            "that an older version wrote",
            "shares of the frame",
            nullable=True,
        ),
        Column(
            "view_jpeg",
            pa.binary(),
            "Small grey picture of the background, by which views of the camera are compared; NULL in rows that an "
            "older version wrote",
            nullable=True,
        ),
        *(
            Column(
                f"view_{kind}_count",
                INT,
                "Number of recordings of the camera before this one, of the last 20 that were there when it was "
                f"normalized, that show the same {place}",
                nullable=True,
                minimum=0,
            )
            for kind, place in (("same", "at the same place"), ("moved", "elsewhere: the camera was turned since"))
        ),
        *(
            Column(
                f"view_{axis}_share",
                FLOAT,
                f"How far {side} the picture lies from where it lay in the latter; NULL without any",
                f"share of the {size}",
                nullable=True,
            )
            for axis, side, size in (("x", "to the right", "width"), ("y", "down", "height"))
        ),
        Column(
            "normalized_by",
            TEXT,
            "encode: decoded and encoded; remux: copied without encoding; reference: the source file itself is used",
            nullable=True,
            allowed=("encode", "remux", "reference"),
        ),
        Column(
            "video_path",
            TEXT,
            "Path of the normalized video, relative to the data folder; NULL also after its deletion by retention",
            nullable=True,
        ),
    ),
    is_small=True,
)

TIME_ZONE = Column(
    "time_zone", TEXT, "Time zone of the camera in the settings, in which local times are", nullable=True
)

RECORDING_CLOCKS = Table(
    "recording_clocks",
    "One row per recording: the wall-clock time of its first frame, from which all wall-clock times are computed.",
    ("recording_id",),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column("started_at_utc", UTC, "Wall-clock time of the first frame; NULL if unknown", "UTC"),
        Column(
            "started_at_source",
            TEXT,
            "Source of started_at_utc; with mtime, the time of the file's last change, the time is a guess",
            allowed=("file_name", "container", "mtime"),
        ),
        TIME_ZONE,
    ),
    is_small=True,
)

FRAMES = Table(
    "frames",
    "One row per frame of a normalized video.",
    ("recording_id", "frame_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        FRAME_INDEX,
        Column("source_frame_index", INT, "Index of the decoded source frame that this frame shows, from 0", minimum=0),
        TIME_S,
        CAPTURED_AT_UTC,
        CAPTURED_AT_SOURCE,
        Column("is_duplicated", FLAG, "Whether the frame repeats the previous one to keep the frame rate constant"),
        Column(
            "gap_s", FLOAT, "Gap in the source before this frame that was not filled with duplicates", "s", minimum=0
        ),
        Column("brightness", FLOAT, "Mean luma", "0 to 255", minimum=0, maximum=255),
        Column(
            "sharpness", FLOAT, "Variance of the Laplacian of the luma, scaled to a height of 360 pixels", minimum=0
        ),
        Column("motion", FLOAT, "Mean absolute difference of the luma from the previous frame", "0 to 255", minimum=0),
        Column(
            "scene_score",
            FLOAT,
            "How sudden the change from the previous frame is, as FFmpeg's scdet measures it",
            "0 to 1",
            minimum=0,
            maximum=1,
        ),
        Column("black_share", FLOAT, "Share of black pixels", "0 to 1", minimum=0, maximum=1),
        *(
            Column(
                f"camera_{axis}_px",
                FLOAT,
                f"How far {side} the content of the picture lies from where it lay in the first frame, because the "
                "camera moved; 0 while it stands still, and NULL in recordings that an older version normalized",
                "px",
                nullable=True,
            )
            for axis, side in (("x", "to the right"), ("y", "down"))
        ),
    ),
)

SCENES = Table(
    "scenes",
    "One row per scene, from one cut to the next.",
    ("recording_id", "scene_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column("scene_index", INT, "Index of the scene, from 0", minimum=0),
        FIRST_FRAME_INDEX,
        LAST_FRAME_INDEX,
        START_S,
        END_S,
        START_UTC,
        END_UTC,
        DURATION_S,
        Column("cut_score", FLOAT, "scene_score of the first frame", "0 to 1", minimum=0, maximum=1),
        Column("mean_brightness", FLOAT, "Mean luma of the frames", "0 to 255", minimum=0, maximum=255),
        Column("mean_sharpness", FLOAT, "Mean sharpness of the frames", minimum=0),
        Column("mean_motion", FLOAT, "Mean motion of the frames", "0 to 255", minimum=0),
    ),
)

STRETCHES = Table(
    "stretches",
    "One row per interval in which a recording is black, frozen or blurred.",
    ("recording_id", "kind", "first_frame_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column("kind", TEXT, "Defect of the frames", allowed=("black", "frozen", "blurred")),
        FIRST_FRAME_INDEX,
        LAST_FRAME_INDEX,
        START_S,
        END_S,
        START_UTC,
        END_UTC,
        DURATION_S,
    ),
)
