"""Views per second and minute of the wall clock, and objects in one row, over rows with known answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from resources.config.settings import Settings
from resources.schema.columns import Table
from resources.schema.model_tables import KEYPOINTS
from resources.schema.summary_tables import CLASS_PRESENCE
from resources.schema.track_tables import CROPS, TRACK_LINKS, TRACKS
from resources.schema.zone_tables import GROUND_TRACKS, ZONE_EVENTS, ZONE_PRESENCE
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.table_rows import sparse_rows, store_recordings

JUST_BEFORE_TEN = datetime(2026, 3, 1, 9, 59, 50, tzinfo=UTC)


@pytest.fixture
def recordings(store: Store) -> Store:
    """Two consecutive recordings of 20 s from the gate, of which the first starts 10 s before ten o'clock."""
    ends = JUST_BEFORE_TEN + timedelta(seconds=20)
    rows = [{"recording_id": "a", "started_at_utc": JUST_BEFORE_TEN}, {"recording_id": "b", "started_at_utc": ends}]
    store_recordings(store, *(row | {"duration_s_from_content": 20.0} for row in rows))
    return store


def add(store: Store, table: Table, *rows: dict[str, Any], **shared: Any) -> None:
    """Append rows with the columns that matter; the others are zero, empty or false."""
    zeros = {
        column.name: {"string": "", "bool": False}.get(str(column.type), 0)
        for column in table.stored_columns
        if not column.nullable
    }
    store.append(table, sparse_rows(table, *({**zeros, **shared, **row} for row in rows)))


def query(store: Store, sql: str) -> list[Any]:
    """Rows of a query over newly published results, with times as text in UTC."""
    publish(store, Settings())
    with open_results(store.data_folder) as results:
        results.execute("SET TimeZone = 'UTC'")
        return results.execute(sql).fetchall()


def test_a_class_is_counted_in_minutes_of_the_clock(recordings: Store) -> None:
    add(
        recordings,
        CLASS_PRESENCE,
        {"recording_id": "a", "start_s": 5.0, "end_s": 15.0, "object_count": 2},
        {"recording_id": "a", "start_s": 15.0, "end_s": 20.0, "object_count": 1},
        {"recording_id": "b", "start_s": 0.0, "end_s": 4.0, "object_count": 1},
        class_name="car",
    )
    add(
        recordings,
        TRACKS,
        {"recording_id": "a", "track_id": 1, "start_s": 5.0, "end_s": 20.0},
        {"recording_id": "a", "track_id": 2, "start_s": 5.0, "end_s": 15.0},
        {"recording_id": "b", "track_id": 1, "start_s": 0.0, "end_s": 4.0},
        class_name="car",
        box_count=1,
    )
    add(
        recordings,
        TRACK_LINKS,
        {"recording_id": "b", "track_id": 1, "previous_recording_id": "a", "previous_track_id": 1},
    )
    columns = "strftime(minute_utc, '%H:%M'), track_count, new_track_count, max_at_once, mean_at_once, object_s"
    assert query(recordings, f"SELECT recording_id, camera, {columns} FROM class_minutes ORDER BY ALL") == [
        ("a", "gate", "09:59", 2, 2, 2, 1.0, 10.0),
        ("a", "gate", "10:00", 2, 0, 2, 1.5, 15.0),
        ("b", "gate", "10:00", 1, 1, 1, 0.2, 4.0),
    ]
    columns = "camera, strftime(minute_utc, '%H:%M'), class_name, track_count, max_at_once, object_s"
    assert query(recordings, f"SELECT {columns} FROM camera_minutes ORDER BY ALL") == [
        ("gate", "09:59", "car", 2, 2, 10.0),
        ("gate", "10:00", "car", 0, 2, 19.0),  # the track in b continues that in a
    ]
    hours = "SELECT strftime(hour_utc, '%H:%M'), track_count, object_s FROM camera_hours ORDER BY ALL"
    assert query(recordings, hours) == [("09:00", 2, 10.0), ("10:00", 0, 19.0)]


def test_zones_and_lines_are_counted_by_class_in_minutes_of_the_clock(recordings: Store) -> None:
    add(
        recordings,
        ZONE_PRESENCE,
        {"class_name": "car", "start_s": 8.0, "end_s": 12.0, "object_count": 2, "queue_count": 1},
        {"class_name": "person", "start_s": 1.0, "end_s": 2.5, "object_count": 1},
        recording_id="a",
        zone_name="yard",
    )
    zone_event = {"recording_id": "a", "class_name": "car", "zone_name": "yard"}
    line_event = zone_event | {"zone_name": None, "line_name": "door", "event": "in"}
    add(
        recordings,
        ZONE_EVENTS,
        zone_event | {"event": "enter", "time_s": 8.0, "event_index": 0},
        zone_event | {"event": "exit", "time_s": 12.0, "event_index": 1, "dwell_s": 4.0},
        line_event | {"time_s": 9.0, "event_index": 2},
        line_event | {"time_s": 9.5, "event_index": 3},
        line_event | {"time_s": 75.0, "event_index": 4},
        track_id=1,
    )
    columns = (
        "class_name, strftime(minute_utc, '%H:%M'), object_s, mean_occupancy, max_occupancy, mean_queue, max_queue, "
        "enter_count, exit_count, dwell_p50_s"
    )
    assert query(recordings, f"SELECT camera, {columns} FROM zone_minutes ORDER BY ALL") == [
        ("gate", "car", "09:59", 4.0, 0.4, 2, 0.2, 1, 1, 0, None),
        ("gate", "car", "10:00", 4.0, 0.4, 2, 0.2, 1, 0, 1, 4.0),
        ("gate", "person", "09:59", 1.5, 0.15, 1, 0.0, 0, 0, 0, None),
    ]
    seconds = (
        "SELECT class_name, strftime(second_utc, '%M:%S'), mean_occupancy, max_queue FROM zone_seconds ORDER BY ALL"
    )
    assert query(recordings, seconds) == [
        *(("car", time, 2.0, 1) for time in ("00:00", "00:01", "59:58", "59:59")),
        *(("person", time, mean, 0) for time, mean in (("59:51", 1.0), ("59:52", 0.5))),
    ]
    lines = "SELECT camera, line_name, direction, strftime(minute_utc, '%H:%M'), crossing_count FROM line_minutes"
    assert query(recordings, f"{lines} ORDER BY ALL") == [
        ("gate", "door", "in", "09:59", 2),
        ("gate", "door", "in", "10:01", 1),
    ]
    assert query(recordings, "SELECT time_mmss FROM zone_events WHERE time_s > 60") == [("01:15",)]


def test_a_zone_event_without_stored_presence_is_counted_and_its_occupancy_is_unknown(recordings: Store) -> None:
    event = {"recording_id": "a", "track_id": 1, "class_name": "car", "zone_name": "yard", "event": "enter"}
    add(recordings, ZONE_EVENTS, event)
    assert query(recordings, "SELECT enter_count, mean_occupancy, max_occupancy FROM zone_minutes") == [(1, None, None)]


@pytest.mark.parametrize(
    ("right_px", "down_px", "direction"),
    [
        (50, 0, "right"),
        (50, 40, "down-right"),
        (5, 40, "down"),
        (-50, 60, "down-left"),
        (-50, 1, "left"),
        (-50, -1, "left"),
        (-40, -40, "up-left"),
        (0, -40, "up"),
        (40, -39, "up-right"),
        (6, -7, "stays"),
    ],
)
def test_the_direction_of_an_object_is_one_of_eight_or_none(
    right_px: float, down_px: float, direction: str, recordings: Store
) -> None:
    track = {"recording_id": "a", "track_id": 1, "first_x_px": 100.0, "first_y_px": 100.0, "box_count": 1}
    add(recordings, TRACKS, track | {"last_x_px": 100.0 + right_px, "last_y_px": 100.0 + down_px})
    assert query(recordings, "SELECT direction FROM v_objects") == [(direction,)]  # the frame is 320 px wide


def test_an_object_has_its_times_speeds_and_best_crop_in_one_row(recordings: Store) -> None:
    for number, name in enumerate(("person", "car", "bicycle"), 1):
        track = {"recording_id": "a", "track_id": number, "class_name": name, "start_s": 61.9, "end_s": 3725.0}
        add(recordings, TRACKS, track | {"box_count": 1})
    for number, speed_m_s in ((1, 14.0), (2, 14.0)):
        speeds = {"mean_speed_m_s": 10.0, "max_speed_m_s": speed_m_s}
        add(recordings, GROUND_TRACKS, {"recording_id": "a", "track_id": number} | speeds)
    crop = {"recording_id": "a", "track_id": 2, "jpeg": b"x", "crop_width_px": 1, "crop_height_px": 1}
    add(recordings, CROPS, crop | {"rank": 1, "frame_index": 9}, crop | {"rank": 2, "frame_index": 3})
    columns = (
        "class_name, camera, start_mmss, end_mmss, mean_speed_km_h, max_speed_km_h, is_speed_absurd, "
        "best_crop_frame_index"
    )
    rows = query(recordings, f"SELECT {columns} FROM v_objects ORDER BY class_name DESC")
    assert rows == [
        ("person", "gate", "01:01", "62:05", 36.0, pytest.approx(50.4), True, None),
        ("car", "gate", "01:01", "62:05", 36.0, pytest.approx(50.4), False, 9),
        ("bicycle", "gate", "01:01", "62:05", None, None, None, None),
    ]


def test_rows_without_a_stored_time_have_a_camera_and_no_wall_clock(recordings: Store) -> None:
    add(recordings, KEYPOINTS, {"recording_id": "a", "time_s": None}, {"recording_id": "b", "time_s": 1.0})
    times = "SELECT camera, epoch(captured_at_utc) FROM keypoints ORDER BY recording_id"
    assert query(recordings, times) == [("gate", None), ("gate", JUST_BEFORE_TEN.timestamp() + 21)]


def test_rows_of_a_version_that_did_not_store_the_time_have_none(recordings: Store) -> None:
    old_columns = [column for column in KEYPOINTS.columns if column.name != "time_s"]
    add(recordings, replace(KEYPOINTS, columns=tuple(old_columns)), {"recording_id": "a"})
    assert query(recordings, "SELECT camera, time_s, captured_at_utc FROM keypoints") == [("gate", None, None)]
    between = "keypoints_between('gate', '2026-03-01', '2026-03-02')"
    assert query(recordings, f"SELECT count(*) FROM {between}") == [(0,)]
