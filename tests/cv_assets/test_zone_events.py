"""Zone events, zone seconds, line trips and ground tracks of single objects with known answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.zone_events import TABLES, zone_rows
from resources.config.camera_config import CameraSettings
from resources.errors import RecordingError
from resources.schema.row_checks import broken_rules
from tests.builders.track_rows import moving_track_boxes

CAMERA = CameraSettings.model_validate(
    {
        "units": "px",
        "zones": [{"name": "yard", "points": [[100, 50], [200, 50], [200, 150], [100, 150]]}],
        "lines": [
            {"name": "first", "points": [[100, 150], [100, 0]]},
            {"name": "second", "points": [[200, 150], [200, 0]]},
        ],
        "ground": {"points": [[0, 0], [400, 0], [400, 200], [0, 200]], "metres": [[0, 0], [20, 0], [20, 10], [0, 10]]},
    }
)  # fmt: skip


def rows_by_table(
    boxes: pa.Table, camera: CameraSettings = CAMERA, repeated_frames: Sequence[int] = ()
) -> dict[str, list[dict[str, Any]]]:
    """The stage's rows for boxes at 10 fps in frames of 400 x 200 px; checks the rules of the tables."""
    frame_count = max(boxes["frame_index"].to_pylist(), default=0) + 1
    frame_index = np.arange(frame_count, dtype=np.int32)
    is_duplicated = np.isin(frame_index, repeated_frames)
    frames = pa.table({"frame_index": frame_index, "time_s": frame_index / 10, "is_duplicated": is_duplicated})
    tables = zone_rows("r", boxes, frames, camera, 400, 200)
    for table in TABLES:
        assert broken_rules(table, tables[table.name]) == []
    return {name: rows.to_pylist() for name, rows in tables.items()}


def test_a_path_through_a_zone_gives_events_dwell_a_trip_speeds_and_metres() -> None:
    rows = rows_by_table(moving_track_boxes(np.arange(50, 255, 10).tolist()))  # 100 px/s, which is 5 m/s
    events = [
        (event["event"], event["zone_name"] or event["line_name"], round(event["time_s"], 3))
        for event in rows["zone_events"]
    ]
    assert sorted(events) == [
        ("enter", "yard", 0.5),
        ("exit", "yard", 1.5),
        ("in", "first", 0.5),
        ("in", "second", 1.5),
    ]
    event = next(event for event in rows["zone_events"] if event["event"] == "exit")
    assert event["dwell_s"] == pytest.approx(1.0)
    assert event["time_s"] == pytest.approx(1.5)
    assert (event["x_px"], event["y_px"], event["x_m"], event["y_m"]) == pytest.approx((200, 100, 10, 5))
    assert (event["speed_px_s"], event["speed_m_s"]) == pytest.approx((100, 5))
    assert not event["is_at_track_end"]
    trip = rows["line_trips"][0]
    assert (trip["from_line"], trip["to_line"], trip["to_direction"]) == ("first", "second", "in")
    assert (trip["travel_s"], trip["distance_px"], trip["speed_m_s"]) == pytest.approx((1, 100, 5))
    ground = rows["ground_tracks"][0]
    assert (ground["mean_speed_m_s"], ground["path_m"]) == pytest.approx((5, 10))
    assert (ground["first_x_m"], ground["last_x_m"], ground["last_y_m"]) == pytest.approx((2.5, 12.5, 5))


def test_an_object_that_stands_in_a_zone_is_in_the_queue_and_its_visit_ends_with_its_track() -> None:
    standing = rows_by_table(moving_track_boxes([150.0] * 25))
    events = [(event["event"], event["is_at_track_end"], event["dwell_s"]) for event in standing["zone_events"]]
    assert events == [("enter", True, None), ("exit", True, pytest.approx(2.5))]
    seconds = [(row["second_index"], row["max_occupancy"], row["mean_queue"]) for row in standing["zone_seconds"]]
    assert seconds == [(0, 1, 1.0), (1, 1, 1.0), (2, 1, 1.0)]
    (presence,) = standing["zone_presence"]
    assert (presence["zone_name"], presence["class_name"]) == ("yard", "person")
    assert (presence["start_s"], presence["end_s"]) == pytest.approx((0, 2.5))
    assert (presence["object_count"], presence["queue_count"]) == (1, 1)
    moving = rows_by_table(moving_track_boxes(np.arange(110, 195, 10).tolist()))
    assert [(row["max_occupancy"], row["max_queue"]) for row in moving["zone_seconds"]] == [(1, 0)]
    assert [(row["object_count"], row["queue_count"]) for row in moving["zone_presence"]] == [(1, 0)]


def test_an_object_goes_on_while_the_picture_is_repeated() -> None:
    path_px = np.arange(30, 235, 10.0)
    repeated_frames = range(5, 10)  # from 80 px on the picture stands still; the next one shows the object at 130 px
    standing = path_px.copy()
    standing[repeated_frames] = 70.0
    rows = rows_by_table(moving_track_boxes(standing.tolist()), repeated_frames=repeated_frames)
    first = next(event for event in rows["zone_events"] if event["line_name"] == "first")
    assert (first["time_s"], first["speed_px_s"], first["speed_m_s"]) == pytest.approx((0.7, 100, 5))


@pytest.mark.parametrize("bottom_px", [200.0, 197.0, 201.0])
def test_an_object_that_the_frame_cuts_off_counts_at_shapes_that_reach_the_edge_of_the_frame(bottom_px: float) -> None:
    shapes = {
        "zones": [{"name": "yard", "points": [[0.25, 0.5], [0.5, 0.5], [0.5, 1], [0.25, 1]]}],
        "lines": [{"name": "door", "points": [[0.5, 1], [0.5, 0]]}],
    }
    boxes = moving_track_boxes(np.arange(50, 255, 10).tolist())
    bottom = boxes.schema.get_field_index("y_max_px")
    cut_off = boxes.set_column(bottom, "y_max_px", pa.array([bottom_px] * boxes.num_rows))
    rows = rows_by_table(cut_off, CameraSettings.model_validate(shapes))
    events = [(event["event"], round(event["time_s"], 3)) for event in rows["zone_events"]]
    assert events == [("enter", 0.5), ("exit", 1.5), ("in", 1.5)]
    assert [row["max_occupancy"] for row in rows["zone_seconds"]] == [1, 1, 0]


def test_the_presence_of_each_class_in_a_zone_is_one_interval_per_number_of_objects() -> None:
    boxes = [
        moving_track_boxes([150.0] * 20, track_id=1),
        moving_track_boxes([50.0] * 5 + [150.0] * 10, track_id=2),
        moving_track_boxes([50.0] * 10 + [150.0] * 5, track_id=3, class_name="car", class_id=1),
    ]
    presence = rows_by_table(pa.concat_tables(boxes))["zone_presence"]
    intervals = [(row["class_name"], row["object_count"], row["start_s"], row["end_s"]) for row in presence]
    assert [interval for interval in intervals if interval[0] == "car"] == [("car", 1, 1.0, pytest.approx(1.5))]
    counts = [(start_s, count) for name, count, start_s, _ in intervals if name == "person"]
    assert dict(counts)[0.0] == 1
    assert max(count for _, count in counts) == 2
    object_s = sum(count * (end_s - start_s) for name, count, start_s, end_s in intervals if name == "person")
    assert object_s == pytest.approx(3.0)


def test_a_camera_without_zones_and_a_recording_without_tracks_give_no_events() -> None:
    assert not any(rows_by_table(moving_track_boxes(range(50)), CameraSettings()).values())
    without_tracks = rows_by_table(moving_track_boxes([]))
    assert without_tracks["zone_events"] == without_tracks["line_trips"] == without_tracks["ground_tracks"] == []
    assert [row["max_occupancy"] for row in without_tracks["zone_seconds"]] == [0]


def test_a_line_on_the_ground_needs_the_positions_of_the_camera() -> None:
    camera = CameraSettings.model_validate(CAMERA.model_dump() | {"fixed_to": "ground"})
    with pytest.raises(RecordingError, match="materialize normalized_video again"):
        rows_by_table(moving_track_boxes([150.0] * 5), camera)
