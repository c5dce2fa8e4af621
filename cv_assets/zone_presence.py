"""Rows of zone_presence: intervals in which the number of objects of a class in a zone is constant.

They have media times alone: results.duckdb computes the seconds and minutes of the wall clock from them.
"""

import numpy as np
import pyarrow as pa

from resources.storage.arrow_sql import select

# A gap in the source ends an interval: its duration is that of its frames. Without a gap, frames are less than twice
# the duration of a frame apart, also at a variable rate.
_PRESENCE_SQL = """
WITH counts AS (
    SELECT class_name, frame_index, any_value(time_s) AS time_s, count(*)::INTEGER AS object_count,
        count(*) FILTER (WHERE is_standing)::INTEGER AS queue_count
    FROM inside GROUP BY class_name, frame_index
),
marked AS (
    SELECT *, coalesce(
        object_count <> lag(object_count) OVER in_order OR queue_count <> lag(queue_count) OVER in_order
        OR frame_index <> lag(frame_index) OVER in_order + 1
        OR time_s - lag(time_s) OVER in_order > 2 * $frame_s, true)::INTEGER AS is_first
    FROM counts WINDOW in_order AS (PARTITION BY class_name ORDER BY frame_index)
),
numbered AS (
    SELECT *, sum(is_first) OVER (PARTITION BY class_name ORDER BY frame_index) AS interval_number
    FROM marked
)
SELECT $zone_name AS zone_name, class_name, min(time_s) AS start_s, max(time_s) + $frame_s AS end_s,
    any_value(object_count) AS object_count, any_value(queue_count) AS queue_count
FROM numbered GROUP BY class_name, interval_number ORDER BY class_name, start_s
"""


def find_presence(
    boxes: pa.Table, zone_name: str, is_inside: np.ndarray, is_standing: np.ndarray, frame_s: float
) -> pa.Table:
    """Find the intervals in which the number of objects of a class in a zone, and of those in its queue, is constant.

    Args:
        boxes: Rows of `track_boxes` of one recording.
        zone_name: The zone.
        is_inside: Whether each box is in the zone, shape (n,).
        is_standing: Whether the object of each box stands, shape (n,).
        frame_s: Duration of a frame.

    Returns:
        The columns of `zone_presence` except for that of the recording.
    """
    inside = boxes.select(["class_name", "frame_index", "time_s"]).filter(pa.array(is_inside))
    inside = inside.append_column("is_standing", pa.array(is_standing[is_inside]))
    return select(_PRESENCE_SQL, {"inside": inside}, {"frame_s": frame_s, "zone_name": zone_name})
