from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from resources.comparison.detection_matches import (
    ComparisonRow,
    count_matches_by_class,
    match_detections,
    worst_disagreements,
)


def detections(*rows: tuple[int, str, float, Sequence[float]]) -> pa.Table:
    """Rows of frame, class, confidence and corners, as `read_detections` gives them."""
    names = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
    columns: dict[str, list[Any]] = {
        "recording_id": ["r"] * len(rows),
        "frame_index": [row[0] for row in rows],
        "source_frame_index": [row[0] for row in rows],
        "time_s": [row[0] / 10 for row in rows],
        "class_name": [row[1] for row in rows],
        "confidence": [row[2] for row in rows],
        **{name: [float(row[3][k]) for row in rows] for k, name in enumerate(names)},
        "area": [float((row[3][2] - row[3][0]) * (row[3][3] - row[3][1])) for row in rows],
    }
    return pa.table(columns)


A = detections(
    (0, "car", 0.9, (0, 0, 100, 100)),
    (0, "car", 0.8, (5, 0, 105, 100)),  # its best match is taken by the first, which is nearer
    (1, "person", 0.7, (0, 0, 20, 20)),
    (2, "person", 0.6, (0, 0, 40, 80)),
)
B = detections(
    (0, "car", 0.5, (1, 0, 101, 100)),
    (1, "car", 0.5, (0, 0, 20, 20)),  # another class
    (3, "person", 0.95, (0, 0, 40, 80)),  # another frame
)


def test_objects_match_in_the_same_frame_with_the_same_class_one_to_one() -> None:
    matches = match_detections(A, B)
    assert matches.num_rows == 6
    assert count_matches_by_class([matches]) == [
        ComparisonRow("person", "small", 0, 1, 0),
        ComparisonRow("person", "medium", 0, 1, 1),
        ComparisonRow("car", "small", 0, 0, 1),
        ComparisonRow("car", "large", 1, 1, 0),
    ]


def test_disagreements_are_the_most_confident_of_each_second() -> None:
    worst = worst_disagreements([match_detections(A, B)], 10)
    found = [(row["side"], row["class_name"], row["frame_index"], round(row["confidence"], 2)) for row in worst]
    assert found == [("b", "person", 3, 0.95), ("a", "car", 0, 0.8), ("a", "person", 1, 0.7), ("b", "car", 1, 0.5)]
    assert len(worst_disagreements([match_detections(A, B)], 2)) == 2


def test_sides_without_detections_agree() -> None:
    empty = detections()
    assert count_matches_by_class([match_detections(empty, empty)]) == []
    assert [row.only_b for row in count_matches_by_class([match_detections(empty, B)])] == [1, 1, 1]
    assert ComparisonRow("car", "small", 0, 0, 0).agreement == 1
