"""A rule over stored tracks: persons and vehicles that come near each other."""

import duckdb
import pyarrow as pa

from resources.own_stages import Batch, Column, stage

NEAR_HEIGHTS = 0.5  # a gap between two boxes is near below this, in heights of the person's box

QUERY = """
WITH pairs AS (
    SELECT p.track_id, v.track_id AS other_track_id, p.frame_index, p.time_s,
        greatest(p.x_min_px - v.x_max_px, v.x_min_px - p.x_max_px, 0) AS dx,
        abs(p.y_max_px - v.y_max_px) AS dy, p.y_max_px - p.y_min_px AS height
    FROM boxes AS p JOIN boxes AS v USING (frame_index)
    WHERE p.class_name = 'person' AND v.class_name IN ('car', 'truck', 'bus', 'motorcycle')
)
SELECT track_id, other_track_id, min(sqrt(dx * dx + dy * dy) / height) AS gap_heights,
    arg_min(time_s, sqrt(dx * dx + dy * dy) / height) AS time_s
FROM pairs GROUP BY ALL HAVING gap_heights < $near ORDER BY ALL
"""


@stage(
    inputs=["track_boxes"],
    key=["track_id", "other_track_id"],
    columns=[
        "track_id",
        Column("other_track_id", "int", "Track of the vehicle"),
        "time_s",
        Column("gap_heights", "float", "Smallest gap of their boxes", "heights of the person's box", minimum=0),
    ],
)
def near_misses(batch: Batch) -> pa.Table:
    """One row per person and vehicle whose boxes come near each other.

    The gap is that of the boxes' lower ends, which stand on the ground.
    """
    boxes = batch.tables["track_boxes"]  # noqa: F841 - read by the query
    return duckdb.sql(QUERY, params={"near": NEAR_HEIGHTS}).to_arrow_table()
