"""v_objects: what an analyst asks about an object first, in one row: when, where to, how fast, and its best picture."""

from dataclasses import replace

from resources.schema.columns import (
    CAMERA,
    CLASS_NAME,
    DURATION_S,
    END_S,
    END_UTC,
    FLAG,
    FLOAT,
    FRAME_INDEX,
    LOCAL,
    RECORDING_ID,
    START_S,
    START_UTC,
    TEXT,
    TRACK_ID,
    Column,
    Table,
    View,
    mmss_sql,
)

_DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
_STAYS_BELOW_SHARE = 1 / 32  # of the frame's width: a cell of heatmap_cells
_MAX_SPEED_KM_H = {"person": 45, "bicycle": 90}  # faster than any sprinter, and than nearly all cyclists
_MAX_OTHER_SPEED_KM_H = 250

_LIMITS = ", ".join(f"{name} {speed}" for name, speed in _MAX_SPEED_KM_H.items())
_IS_ABSURD = (
    "max_speed_km_h > CASE class_name "
    + " ".join(f"WHEN '{name}' THEN {speed}" for name, speed in _MAX_SPEED_KM_H.items())
    + f" ELSE {_MAX_OTHER_SPEED_KM_H} END"
)

# Crops have the numbers of the tracker: a box that a correction has given to another track takes its crop along.
_BEST_CROPS = """
    SELECT recording_id, coalesce(corrected.track_id, tracker_track_id) AS track_id,
        arg_min(frame_index, rank) AS best_crop_frame_index
    FROM (SELECT recording_id, track_id AS tracker_track_id, frame_index, rank FROM crops) AS crops
        LEFT JOIN (SELECT recording_id, tracker_track_id, frame_index, track_id FROM corrected_boxes) AS corrected
            USING (recording_id, tracker_track_id, frame_index)
        LEFT JOIN (SELECT recording_id, track_id AS tracker_track_id, state FROM corrected_tracks) AS replaced
            USING (recording_id, tracker_track_id)
    WHERE corrected.track_id IS NOT NULL OR state IS NULL GROUP BY ALL
"""

OBJECTS = View(
    Table(
        "v_objects",
        "One row per track: its camera, class, times, direction, speed and best crop.",
        ("recording_id", "track_id"),
        (
            RECORDING_ID,
            TRACK_ID,
            CAMERA,
            CLASS_NAME,
            START_UTC,
            END_UTC,
            Column("start_local", LOCAL, "start_utc in the camera's time zone", nullable=True),
            Column("end_local", LOCAL, "end_utc in the camera's time zone", nullable=True),
            DURATION_S,
            START_S,
            END_S,
            Column("start_mmss", TEXT, "start_s as minutes and seconds, as a video player shows it"),
            Column("end_mmss", TEXT, "end_s as minutes and seconds, as a video player shows it"),
            Column(
                "direction",
                TEXT,
                "Direction in the frame from the centre of the first box to that of the last; stays: they are closer "
                "than 1/32 of the frame's width",
                nullable=True,
                allowed=(*_DIRECTIONS, "stays"),
            ),
            Column(
                "mean_speed_km_h",
                FLOAT,
                "Mean speed on the ground; NULL for cameras without ground",
                "km/h",
                nullable=True,
            ),
            Column(
                "max_speed_km_h",
                FLOAT,
                "Greatest speed over a second on the ground; NULL for cameras without ground",
                "km/h",
                nullable=True,
            ),
            Column(
                "is_speed_absurd",
                FLAG,
                f"Whether max_speed_km_h exceeds what the class can do ({_LIMITS}, others {_MAX_OTHER_SPEED_KM_H} "
                "km/h), so that the ground or the track is wrong; NULL for cameras without ground",
                nullable=True,
            ),
            Column("is_doubtful", FLAG, "As in tracks: a link of the track has a confidence below 0.8", nullable=True),
            Column("is_left_out", FLAG, "Whether the settings of the camera leave the track out of counts"),
            replace(
                FRAME_INDEX,
                name="best_crop_frame_index",
                meaning="Frame of the best crop: the row of crops with this frame and, if the track is not corrected, "
                "this track_id; NULL if the track has no crop",
                nullable=True,
            ),
        ),
    ),
    f"""
    WITH objects AS (
        SELECT recording_id, track_id, camera, class_name, start_utc, end_utc, duration_s, start_s, end_s, width_px,
            time_zone, is_doubtful, coalesce(is_left_out, false) AS is_left_out,
            last_x_px - first_x_px AS right_px, last_y_px - first_y_px AS down_px,
            mean_speed_m_s * 3.6 AS mean_speed_km_h, max_speed_m_s * 3.6 AS max_speed_km_h, best_crop_frame_index
        FROM tracks LEFT JOIN (SELECT recording_id, width_px FROM recording_contents) USING (recording_id)
            LEFT JOIN (SELECT recording_id, track_id, mean_speed_m_s, max_speed_m_s FROM ground_tracks)
                USING (recording_id, track_id)
            LEFT JOIN ({_BEST_CROPS}) USING (recording_id, track_id)
            LEFT JOIN (SELECT recording_id, track_id, is_left_out FROM still_tracks) USING (recording_id, track_id)
            LEFT JOIN (SELECT recording_id, time_zone FROM recording_clocks) USING (recording_id)
    )
    SELECT recording_id, track_id, camera, class_name, start_utc, end_utc,
        timezone(time_zone, start_utc) AS start_local, timezone(time_zone, end_utc) AS end_local,
        duration_s, start_s, end_s,
        {mmss_sql("floor(start_s)")} AS start_mmss, {mmss_sql("floor(end_s)")} AS end_mmss,
        CASE WHEN sqrt(right_px ** 2 + down_px ** 2) < width_px * {_STAYS_BELOW_SHARE} THEN 'stays'
            ELSE {list(_DIRECTIONS)}[1 + (round(degrees(atan2(down_px, right_px)) / 45)::INTEGER + 8) % 8]
        END AS direction,
        mean_speed_km_h, max_speed_km_h, {_IS_ABSURD} AS is_speed_absurd, is_doubtful, is_left_out,
        best_crop_frame_index
    FROM objects
    """,
)
