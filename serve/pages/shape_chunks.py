"""Masks, oriented boxes and keypoints of tracked objects, packed into binary chunks like their boxes.

A row is a header of five little-endian 16-bit words (frame minus the first frame asked for, class as in the chunks of
boxes, kind, track modulo 65536, number of points), followed by x and y of each point in 1/65534 of the frame's width
and height. A keypoint with a confidence below 0.3 is (65535, 65535).
"""

from collections.abc import Sequence

import duckdb
import numpy as np

MASK, ORIENTED_BOX, KEYPOINTS = 0, 1, 2
_HEADER_WORDS = 5
_MISSING = 65_535
_MIN_KEYPOINT_CONFIDENCE = 0.3

_TRACKED_SQL = """
    (SELECT recording_id, frame_index, detection_index, track_id, class_name FROM track_boxes
     WHERE recording_id = $id AND frame_index >= $first AND frame_index < $end AND detection_index IS NOT NULL)
"""
_QUERIES = {
    MASK: f"""
        SELECT frame_index, track_id, class_name, polygon_px AS points_px FROM masks
        JOIN {_TRACKED_SQL} USING (recording_id, frame_index, detection_index)
    """,
    ORIENTED_BOX: f"""
        SELECT frame_index, track_id, class_name, [
            centre_x_px - c * w + s * h, centre_y_px - s * w - c * h, centre_x_px + c * w + s * h,
            centre_y_px + s * w - c * h, centre_x_px + c * w - s * h, centre_y_px + s * w + c * h,
            centre_x_px - c * w - s * h, centre_y_px - s * w + c * h] AS points_px
        FROM (SELECT *, cos(radians(angle_deg)) AS c, sin(radians(angle_deg)) AS s, box_width_px / 2 AS w,
                box_height_px / 2 AS h FROM oriented_boxes)
        JOIN {_TRACKED_SQL} USING (recording_id, frame_index, detection_index)
    """,
    KEYPOINTS: f"""
        SELECT frame_index, any_value(track_id) AS track_id, any_value(class_name) AS class_name,
            flatten(list(CASE WHEN confidence < {_MIN_KEYPOINT_CONFIDENCE} THEN [-1.0, -1.0] ELSE [x_px, y_px] END
                ORDER BY keypoint_index)) AS points_px
        FROM (SELECT * FROM keypoints WHERE recording_id = $id)
        JOIN {_TRACKED_SQL} USING (recording_id, frame_index, detection_index)
        GROUP BY frame_index, detection_index
    """,
}


def has_shapes(connection: duckdb.DuckDBPyConnection, recording_id: str) -> bool:
    """Whether a recording has masks, oriented boxes or keypoints."""
    exist = " OR ".join(
        f"EXISTS (FROM {table} WHERE recording_id = $id)" for table in ("masks", "oriented_boxes", "keypoints")
    )
    return bool(connection.execute(f"SELECT {exist}", {"id": recording_id}).fetchall()[0][0])


def pack_shapes(
    connection: duckdb.DuckDBPyConnection,
    recording_id: str,
    classes: Sequence[str],
    size_px: tuple[int, int],
    frames: tuple[int, int],
) -> bytes:
    """Pack the shapes of some frames.

    Args:
        connection: The published results.
        recording_id: The recording.
        classes: The page's list of classes.
        size_px: Width and height of the normalized video.
        frames: First frame, and the frame after the last.
    """
    positions = {name: position for position, name in enumerate(classes)}
    parts: list[bytes] = []
    for kind, query in _QUERIES.items():
        values = {"id": recording_id, "first": frames[0], "end": frames[1]}
        for frame_index, track_id, class_name, points_px in connection.execute(query, values).fetchall():
            points = np.array(points_px, float).reshape(-1, 2)
            words = np.empty(_HEADER_WORDS + points.size, "<u2")
            words[:_HEADER_WORDS] = (
                frame_index - frames[0], positions.get(class_name, 0), kind, track_id % 65_536, len(points)
            )  # fmt: skip
            shares = np.clip(points / size_px, 0, 1) * (_MISSING - 1)
            words[_HEADER_WORDS:] = np.where(points < 0, _MISSING if kind == KEYPOINTS else 0, np.rint(shares)).ravel()
            parts.append(words.tobytes())
    return b"".join(parts)
