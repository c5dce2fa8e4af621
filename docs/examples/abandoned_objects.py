"""A rule over stored tracks: luggage that stands still while no person is near it."""

import duckdb
import pyarrow as pa

from resources.own_stages import Batch, Column, stage

MIN_ALONE_S = 30.0
NEAR_HEIGHTS = 3.0  # a person is near within this distance, in heights of the object's box
STILL_HEIGHTS = 0.5  # an object stands still within this distance of where it was last near a person

QUERY = """
WITH objects AS (
    SELECT *, (x_min_px + x_max_px) / 2 AS x, y_max_px AS y, y_max_px - y_min_px AS height
    FROM boxes WHERE class_name IN ('backpack', 'handbag', 'suitcase')
), persons AS (
    SELECT frame_index, (x_min_px + x_max_px) / 2 AS x, y_max_px AS y FROM boxes WHERE class_name = 'person'
), watched AS (
    SELECT o.track_id, o.frame_index, o.time_s, any_value(o.x) AS x, any_value(o.y) AS y, any_value(o.height) AS height,
        coalesce(min(sqrt((o.x - p.x) ** 2 + (o.y - p.y) ** 2) / o.height), 1e9) AS person_heights
    FROM objects AS o LEFT JOIN persons AS p USING (frame_index) GROUP BY ALL
), spells AS (
    SELECT *, count(*) FILTER (person_heights <= $near) OVER (PARTITION BY track_id ORDER BY frame_index) AS spell
    FROM watched
)
SELECT track_id, min(time_s) AS start_s, max(time_s) AS end_s, min(person_heights) AS nearest_person_heights
FROM spells WHERE person_heights > $near GROUP BY track_id, spell
HAVING end_s - start_s >= $alone
    AND sqrt((max(x) - min(x)) ** 2 + (max(y) - min(y)) ** 2) < $still * max(height)
ORDER BY ALL
"""


@stage(
    inputs=["track_boxes"],
    key=["track_id", "start_s"],
    columns=[
        "track_id",
        "start_s",
        "end_s",
        Column("nearest_person_heights", "float", "Distance of the nearest person", "heights of the object", minimum=0),
    ],
)
def abandoned_objects(batch: Batch) -> pa.Table:
    """One row per object and time in which it stands alone for at least 30 s."""
    boxes = batch.tables["track_boxes"]  # noqa: F841 - read by the query
    values = {"near": NEAR_HEIGHTS, "alone": MIN_ALONE_S, "still": STILL_HEIGHTS}
    return duckdb.sql(QUERY, params=values).to_arrow_table()
