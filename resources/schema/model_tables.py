"""Tables of models: detections, masks, keypoints, oriented boxes, classes and engine measurements."""

import pyarrow as pa

from resources.schema.columns import (
    BOX,
    CAPTURED_AT_UTC,
    CLASS_ID,
    CLASS_NAME,
    CONFIDENCE,
    ENGINE_NAME,
    FLAG,
    FLOAT,
    FRAME_COUNT,
    FRAME_INDEX,
    INT,
    MODEL_ID,
    RECORDING_CAMERA,
    RECORDING_ID,
    RECORDING_START_UTC,
    TEXT,
    TIME_S,
    Column,
    Table,
    nullable,
)

DETECTIONS = Table(
    "detections",
    "One row per box and frame. Tracks and summaries use those that min_confidence and class_names select.",
    ("recording_id", "frame_index", "detection_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        FRAME_INDEX,
        Column("detection_index", INT, "Index of the box in its frame, from 0, best first", minimum=0),
        Column("source_frame_index", INT, "Index of the decoded source frame that this frame shows, from 0", minimum=0),
        TIME_S,
        CAPTURED_AT_UTC,
        CLASS_ID,
        CLASS_NAME,
        CONFIDENCE,
        *BOX,
        Column(
            "is_reused",
            FLAG,
            "Whether the box is reused from an earlier, unchanged frame (skip_unchanged_frames)",
        ),
        MODEL_ID,
        ENGINE_NAME,
    ),
)
_TIME_S = nullable(TIME_S, f"{TIME_S.meaning}; NULL in rows that an older version wrote")
DETECTION_INDEX = Column("detection_index", INT, "The box of the frame in the table detections", minimum=0)

MASKS = Table(
    "masks",
    "One row per box with a mask, from models of the task segment.",
    ("recording_id", "frame_index", "detection_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        FRAME_INDEX,
        DETECTION_INDEX,
        _TIME_S,
        CAPTURED_AT_UTC,
        Column("area_px", FLOAT, "Area of the mask, in pixels of the normalized video", "px²", minimum=0),
        Column(
            "polygon_px",
            pa.list_(pa.float64()),
            "Outline of the mask's largest part, x and y alternating, from the top left of the normalized video",
            "px",
        ),
    ),
)

KEYPOINTS = Table(
    "keypoints",
    "One row per keypoint and box, from models of the task pose.",
    ("recording_id", "frame_index", "detection_index", "keypoint_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        FRAME_INDEX,
        DETECTION_INDEX,
        _TIME_S,
        CAPTURED_AT_UTC,
        Column("keypoint_index", INT, "Index of the keypoint in the model; for a COCO person 0 is the nose", minimum=0),
        Column("x_px", FLOAT, "Position of the keypoint, from the left of the normalized video", "px"),
        Column("y_px", FLOAT, "Position of the keypoint, from the top of the normalized video", "px"),
        CONFIDENCE,
    ),
)

ORIENTED_BOXES = Table(
    "oriented_boxes",
    "One row per oriented box, from models of the task obb; detections has the upright box around it.",
    ("recording_id", "frame_index", "detection_index"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        FRAME_INDEX,
        DETECTION_INDEX,
        _TIME_S,
        CAPTURED_AT_UTC,
        Column("centre_x_px", FLOAT, "Centre of the box, from the left of the normalized video", "px"),
        Column("centre_y_px", FLOAT, "Centre of the box, from the top of the normalized video", "px"),
        Column("box_width_px", FLOAT, "Length of the box along its own x axis", "px", minimum=0),
        Column("box_height_px", FLOAT, "Length of the box along its own y axis", "px", minimum=0),
        Column("angle_deg", FLOAT, "Clockwise rotation of the box's own x axis", "degrees"),
    ),
)

FRAME_CLASSES = Table(
    "frame_classes",
    "One row per frame and likely class, most likely first, from models of the task classify.",
    ("recording_id", "frame_index", "rank"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        FRAME_INDEX,
        Column("rank", INT, "Rank of the class; 1 is the most likely", minimum=1),
        TIME_S,
        CAPTURED_AT_UTC,
        CLASS_ID,
        CLASS_NAME,
        CONFIDENCE,
        Column(
            "is_reused", FLAG, "Whether the class is reused from an earlier, unchanged frame (skip_unchanged_frames)"
        ),
        MODEL_ID,
        ENGINE_NAME,
    ),
)

MODEL_RUNS = Table(
    "model_runs",
    "One row per recording and model: frames processed, engine and speed.",
    ("recording_id", "asset_name"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        RECORDING_START_UTC,
        Column("asset_name", TEXT, "Asset of the model's rows"),
        MODEL_ID,
        ENGINE_NAME,
        Column("device_name", TEXT, "CPU or GPU that ran the model"),
        FRAME_COUNT,
        Column("analysed_frame_count", INT, "Frames with a result: all, or as many as max_rate_fps allows", minimum=0),
        Column(
            "reused_frame_count",
            INT,
            "Frames among them that reuse the result of an earlier frame (skip_unchanged_frames)",
            minimum=0,
        ),
        Column(
            "elapsed_s",
            FLOAT,
            "Processing time from the first frame to the last, without frames from checkpoints",
            "s",
            minimum=0,
        ),
    ),
    is_small=True,
)

MODELS = Table(
    "models",
    "One row per model, engine and device: speed, and agreement with the f32 reference.",
    ("model_id", "engine_name", "device_name"),
    (
        MODEL_ID,
        ENGINE_NAME,
        Column("device_name", TEXT, "CPU or GPU that was measured"),
        Column("task", TEXT, "Task that the model was trained for"),
        Column("is_used", FLAG, "Whether the engine was selected as the fastest that agrees"),
        Column("frames_per_s", FLOAT, "Frames per second of the engine alone", "1/s", minimum=0),
        Column("reference_name", TEXT, "Engine with which it is compared"),
        Column("sample_frame_count", INT, "Frames of the user's footage that were compared", minimum=0),
        Column(
            "reference_box_count",
            INT,
            "Boxes of the reference in these frames with a confidence of at least 0.35",
            minimum=0,
        ),
        Column(
            "recall_iou50",
            FLOAT,
            "Share of the reference's boxes that the engine finds at IoU 0.5",
            "0 to 1",
            minimum=0,
            maximum=1,
        ),
        Column(
            "precision_iou50",
            FLOAT,
            "Share of the engine's boxes that the reference has at IoU 0.5",
            "0 to 1",
            minimum=0,
            maximum=1,
        ),
        Column(
            "recall_iou90",
            FLOAT,
            "Share of the reference's boxes that the engine finds at IoU 0.9",
            "0 to 1",
            minimum=0,
            maximum=1,
        ),
        Column(
            "precision_iou90",
            FLOAT,
            "Share of the engine's boxes that the reference has at IoU 0.9",
            "0 to 1",
            minimum=0,
            maximum=1,
        ),
        Column(
            "confidence_shift",
            FLOAT,
            "Mean confidence of the engine's boxes minus that of the matching boxes of the reference",
        ),
    ),
    per_recording=False,
    is_small=True,
)
