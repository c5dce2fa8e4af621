"""Matches the detections of two sides, frame by frame, and counts what only one of them has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

MIN_IOU = 0.5
SIZES = ("small", "medium", "large")
"""Of boxes, by their area as COCO divides them: up to 32² px², up to 96² px², and larger."""
_CORNERS = "x_min_px, y_min_px, x_max_px, y_max_px"
_SIZE_SQL = "CASE WHEN area < 32 * 32 THEN 'small' WHEN area < 96 * 96 THEN 'medium' ELSE 'large' END"
# Of the pairs of a frame, each box is in the one with the greatest overlap of both its boxes.
_MATCH_SQL = f"""
    WITH left_boxes AS (SELECT *, row_number() OVER () AS box FROM a),
    right_boxes AS (SELECT *, row_number() OVER () AS box FROM b),
    pairs AS (
        SELECT l.box AS left_box, r.box AS right_box,
            greatest(least(l.x_max_px, r.x_max_px) - greatest(l.x_min_px, r.x_min_px), 0)
                * greatest(least(l.y_max_px, r.y_max_px) - greatest(l.y_min_px, r.y_min_px), 0) AS shared,
            shared / (l.area + r.area - shared) AS iou
        FROM left_boxes AS l JOIN right_boxes AS r USING (source_frame_index, class_name)
        WHERE iou >= {MIN_IOU}
    ),
    matches AS (
        SELECT left_box, right_box FROM pairs
        QUALIFY row_number() OVER (PARTITION BY left_box ORDER BY iou DESC, right_box) = 1
            AND row_number() OVER (PARTITION BY right_box ORDER BY iou DESC, left_box) = 1
    )
    SELECT * EXCLUDE (area, box), {_SIZE_SQL} AS size, side
    FROM (
        SELECT *, CASE WHEN box IN (SELECT left_box FROM matches) THEN 'both' ELSE 'a' END AS side FROM left_boxes
        UNION ALL
        SELECT *, 'b' AS side FROM right_boxes WHERE box NOT IN (SELECT right_box FROM matches)
    )
"""


@dataclass(frozen=True)
class ComparisonRow:
    """Detections of one class and size.

    Attributes:
        class_name: The class.
        size: One of `SIZES`.
        both: Objects that both sides have in a frame.
        only_a: Objects that only the first side has.
        only_b: Objects that only the second side has.
    """

    class_name: str
    size: str
    both: int
    only_a: int
    only_b: int

    @property
    def agreement(self) -> float:
        """Share of all objects that both sides have."""
        total = self.both + self.only_a + self.only_b
        return self.both / total if total else 1.0


def read_detections(
    results: duckdb.DuckDBPyConnection, table: str, recording_id: str, min_confidence: float
) -> pa.Table:
    """Read the detections of one recording from a table of published results."""
    query = f"""
        SELECT recording_id, frame_index, source_frame_index, time_s, class_name, confidence, {_CORNERS},
            (x_max_px - x_min_px) * (y_max_px - y_min_px) AS area
        FROM {table} WHERE recording_id = $id AND confidence >= $min_confidence
    """
    return results.sql(query, params={"id": recording_id, "min_confidence": min_confidence}).to_arrow_table()


def match_detections(a: pa.Table, b: pa.Table) -> pa.Table:
    """Match the detections of one recording at IoU 0.5, by class and frame of the source.

    Args:
        a: Detections of the first side, from `read_detections`.
        b: Those of the second side.

    Returns:
        A row for each object of a frame, with `size`, and `side`: both, a or b; a match has the box of the first side.
    """
    with duckdb.connect() as connection:
        connection.register("a", a)
        connection.register("b", b)
        return connection.sql(_MATCH_SQL).to_arrow_table()


def count_matches_by_class(matches: Sequence[pa.Table]) -> list[ComparisonRow]:
    """Count objects by class and size, the class with the most disagreements first."""
    if not matches:
        return []
    with duckdb.connect() as connection:
        connection.register("matches", pa.concat_tables(matches))
        rows: list[Any] = connection.execute(
            """SELECT class_name, size, count(*) FILTER (side = 'both'), count(*) FILTER (side = 'a'),
                count(*) FILTER (side = 'b'), sum(count(*) FILTER (side <> 'both')) OVER (PARTITION BY class_name) AS n
            FROM matches GROUP BY class_name, size ORDER BY n DESC, class_name, size DESC"""
        ).fetchall()
    return [ComparisonRow(*row[:5]) for row in rows]


def worst_disagreements(matches: Sequence[pa.Table], count: int) -> list[dict[str, Any]]:
    """Objects that only one side has, most confident first; of a class, one per second of a recording and side."""
    if not matches:
        return []
    with duckdb.connect() as connection:
        connection.register("matches", pa.concat_tables(matches))
        table = connection.sql(
            """SELECT * FROM matches WHERE side <> 'both'
            QUALIFY row_number() OVER (
                PARTITION BY recording_id, side, class_name, floor(time_s) ORDER BY confidence DESC, frame_index
            ) = 1
            ORDER BY confidence DESC, recording_id, frame_index LIMIT $count""",
            params={"count": count},
        ).to_arrow_table()
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
