"""camera_health: whether a camera is covered, defocused, dark or moved, against its own past."""

from resources.schema.columns import CAMERA, FLOAT, INT, RECORDING_ID, TEXT, UTC, Column, Table, View

_PAST_RECORDINGS, _MIN_PAST = 20, 3
_COVERED_SHARPNESS, _DEFOCUSED_SHARPNESS = 0.05, 0.3  # shares of the usual sharpness
_DARK_BRIGHTNESS = 0.35  # share of the usual brightness
_MOVED_PX = 0.05  # share of the frame's width
_USUAL = f"median of the camera's {_PAST_RECORDINGS} recordings before; NULL with fewer than {_MIN_PAST}"

CAMERA_HEALTH = View(
    Table(
        "camera_health",
        "One row per recording with a wall clock: what its picture is like, and what it usually is.",
        ("recording_id",),
        (
            CAMERA,
            RECORDING_ID,
            Column("started_at_utc", UTC, "Wall-clock time of the first frame", "UTC"),
            Column(
                "condition",
                TEXT,
                "covered: hardly any structure; dark: as at night; defocused: less sharp than usual; moved: the camera "
                "points elsewhere at the end of the recording than at its start, or elsewhere than in most recordings "
                "before; ok; NULL without a past",
                nullable=True,
                allowed=("covered", "dark", "defocused", "moved", "ok"),
            ),
            Column("brightness", FLOAT, "Mean luma", "0 to 255"),
            Column("usual_brightness", FLOAT, f"The same, {_USUAL}", "0 to 255", nullable=True),
            Column("sharpness", FLOAT, "Mean sharpness of the frames"),
            Column("usual_sharpness", FLOAT, f"The same, {_USUAL}", nullable=True),
            Column(
                "moved_share",
                FLOAT,
                "How far the picture lies at the end of the recording from where it lay at its start",
                "share of the width",
                nullable=True,
            ),
            Column(
                "moved_since_share",
                FLOAT,
                "How far the picture lies from where it lay in recordings before; NULL if it lies at the same place in "
                "most of them, or resembles none",
                "share of the width",
                nullable=True,
            ),
            Column("past_count", INT, "Number of recordings that are usual_…", minimum=0),
        ),
    ),
    f"""
    WITH measured AS (
        SELECT recording_id, sum(mean_brightness * duration_s) / sum(duration_s) AS brightness,
            sum(mean_sharpness * duration_s) / sum(duration_s) AS sharpness
        FROM scenes WHERE duration_s > 0 GROUP BY recording_id
    ),
    ends AS (
        SELECT recording_id, arg_max(sqrt(camera_x_px ** 2 + camera_y_px ** 2), frame_index) AS moved_px
        FROM frames GROUP BY recording_id
    ),
    compared AS (
        SELECT camera, recording_id, started_at_utc, brightness, sharpness, moved_px / width_px AS moved_share,
            median(brightness) OVER past AS past_brightness, median(sharpness) OVER past AS past_sharpness,
            CASE WHEN view_moved_count > view_same_count
                THEN sqrt(view_x_share ** 2 + (view_y_share * height_px / width_px) ** 2) END AS moved_since_share,
            (count(*) OVER past)::INTEGER AS past_count
        FROM measured JOIN recording_clocks USING (recording_id) LEFT JOIN ends USING (recording_id)
            LEFT JOIN (
                SELECT recording_id, width_px, height_px, view_same_count, view_moved_count, view_x_share, view_y_share
                FROM recording_contents
            ) USING (recording_id)
        WHERE started_at_utc IS NOT NULL
        WINDOW past AS (
            PARTITION BY camera ORDER BY started_at_utc, recording_id
            ROWS BETWEEN {_PAST_RECORDINGS} PRECEDING AND 1 PRECEDING
        )
    ),
    usual AS (
        SELECT * EXCLUDE (past_brightness, past_sharpness),
            CASE WHEN past_count >= {_MIN_PAST} THEN past_brightness END AS usual_brightness,
            CASE WHEN past_count >= {_MIN_PAST} THEN past_sharpness END AS usual_sharpness
        FROM compared
    )
    SELECT camera, recording_id, started_at_utc,
        CASE
            WHEN sharpness < {_COVERED_SHARPNESS} * usual_sharpness THEN 'covered'
            WHEN brightness < {_DARK_BRIGHTNESS} * usual_brightness THEN 'dark'
            WHEN sharpness < {_DEFOCUSED_SHARPNESS} * usual_sharpness THEN 'defocused'
            WHEN moved_share > {_MOVED_PX} OR (moved_since_share IS NOT NULL AND usual_sharpness IS NOT NULL)
                THEN 'moved'
            WHEN usual_sharpness IS NOT NULL THEN 'ok'
        END AS condition,
        brightness, usual_brightness, sharpness, usual_sharpness, moved_share,
        moved_since_share, past_count
    FROM usual ORDER BY camera, started_at_utc
    """,
)
