"""A rule over stored poses: persons that were upright and then lie; needs a detector of the task pose."""

import duckdb
import pyarrow as pa

from resources.own_stages import Batch, Column, stage

UPRIGHT_DEG, LYING_DEG = 30.0, 60.0  # angle of the torso from the vertical
WITHIN_S, LYING_S = 2.0, 1.0  # the fall takes at most this long, and the person then lies at least this long
MIN_CONFIDENCE = 0.3

QUERY = """
WITH joints AS (
    SELECT frame_index, detection_index, keypoint_index IN (5, 6) AS is_shoulder, avg(x_px) AS x, avg(y_px) AS y
    FROM keypoints WHERE keypoint_index IN (5, 6, 11, 12) AND confidence >= $confidence GROUP BY ALL
), torsos AS (
    SELECT b.track_id, b.time_s, degrees(atan2(abs(s.x - h.x), abs(h.y - s.y))) AS angle
    FROM boxes AS b
    JOIN joints AS s ON s.frame_index = b.frame_index AND s.detection_index = b.detection_index AND s.is_shoulder
    JOIN joints AS h ON h.frame_index = b.frame_index AND h.detection_index = b.detection_index AND NOT h.is_shoulder
), states AS (
    SELECT *, max(time_s) FILTER (angle <= $upright) OVER track AS upright_at_s,
        count(*) FILTER (angle < $lying) OVER track AS spell
    FROM torsos WINDOW track AS (PARTITION BY track_id ORDER BY time_s)
)
SELECT track_id, min(time_s) AS time_s, max(time_s) - min(time_s) AS lying_s, avg(angle) AS torso_deg
FROM states WHERE angle >= $lying GROUP BY track_id, spell
HAVING lying_s >= $lying_s AND min(time_s) - min(upright_at_s) <= $within
ORDER BY ALL
"""


@stage(
    inputs=["track_boxes", "keypoints"],
    key=["track_id", "time_s"],
    columns=[
        "track_id",
        "time_s",
        Column("lying_s", "float", "How long the person lies afterwards", "s", minimum=0),
        Column("torso_deg", "float", "Mean angle of the torso from the vertical while lying", "degrees", minimum=0),
    ],
)
def falls(batch: Batch) -> pa.Table:
    """One row per fall: a person lies for at least 1 s, within 2 s of being upright."""
    boxes, keypoints = batch.tables["track_boxes"], batch.tables["keypoints"]  # noqa: F841 - read by the query
    values = {"upright": UPRIGHT_DEG, "lying": LYING_DEG, "within": WITHIN_S, "lying_s": LYING_S}
    return duckdb.sql(QUERY, params={**values, "confidence": MIN_CONFIDENCE}).to_arrow_table()
