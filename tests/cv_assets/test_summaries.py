"""Summaries per minute, hour, heatmap cell, zone and line, of boxes and events with known answers."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from cv_assets.summaries import TABLES as SUMMARY_TABLES
from cv_assets.summaries import summarize
from cv_assets.zone_summaries import TABLES as ZONE_SUMMARY_TABLES
from cv_assets.zone_summaries import summarize_zones
from resources.config.settings import Settings
from resources.schema.columns import Table
from resources.schema.model_tables import DETECTIONS, MODEL_RUNS
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.schema.summary_tables import CLASS_PRESENCE
from resources.schema.track_tables import TRACK_LINKS, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS, ZONE_SECONDS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE as STARTED
from tests.builders.table_rows import content_row, header_row, sparse_rows, store_recordings
from tests.builders.track_rows import moving_track_boxes


def assert_rules_hold(tables: Sequence[Table], rows_by_table: Mapping[str, pa.Table]) -> None:
    for table in tables:
        rows = rows_by_table[table.name].select(table.arrow_schema.names).cast(table.arrow_schema)
        assert broken_rules(table, rows) == []


def summarize_boxes(*boxes: pa.Table) -> dict[str, pa.Table]:
    """Summarize a recording of 4 s with some boxes; checks the rules of the tables."""
    inputs = {
        "recordings": sparse_rows(RECORDINGS, header_row()),
        "recording_contents": sparse_rows(RECORDING_CONTENTS, content_row()),
        "frames": sparse_rows(FRAMES, *({"frame_index": index, "time_s": index / 10} for index in range(40))),
        "detections": sparse_rows(DETECTIONS, {"frame_index": 0}),
        "model_runs": sparse_rows(
            MODEL_RUNS,
            {"model_id": "m", "engine_name": "e", "analysed_frame_count": 40, "reused_frame_count": 0},
        ),
        "tracks": sparse_rows(TRACKS, {"track_id": 1, "class_name": "person", "start_s": 0.0}),
        "track_boxes": pa.concat_tables(boxes),
    }
    rows_by_table = summarize(inputs)
    assert_rules_hold(SUMMARY_TABLES, rows_by_table)
    return rows_by_table


def test_heatmap_cells_follow_the_bottom_centre_of_boxes() -> None:
    rows_by_table = summarize_boxes(moving_track_boxes([15.0] * 40))  # bottom centre at (15, 100)
    cells = rows_by_table["heatmap_cells"].to_pylist()
    assert [(cell["row_index"], cell["column_index"], cell["track_count"]) for cell in cells] == [(10, 1, 1)]
    assert [cell["object_s"] for cell in cells] == pytest.approx([4])


def test_presence_has_an_interval_for_each_number_of_objects_and_breaks_at_gaps() -> None:
    long = moving_track_boxes([15.0] * 40)
    short = moving_track_boxes([90.0] * 40, track_id=2).slice(10, 5)
    car = moving_track_boxes([50.0] * 40, track_id=3, class_name="car")
    with_gap = pa.concat_tables([car.slice(2, 3), car.slice(20, 1)])
    late = moving_track_boxes([15.0] * 40, track_id=4, class_name="bus").slice(30, 4).to_pydict()
    late["time_s"] = [3.0, 3.18, 3.7, 3.8]  # a late frame, and consecutive frames on both sides of a gap in the source
    bus = pa.table(late, schema=long.schema)
    intervals = [
        (row["class_name"], row["start_s"], row["end_s"], row["object_count"])
        for row in summarize_boxes(long, short, with_gap, bus)["class_presence"].to_pylist()
    ]
    expected = [
        *(("bus", 3.0, 3.28, 1), ("bus", 3.7, 3.9, 1), ("car", 0.2, 0.5, 1), ("car", 2.0, 2.1, 1)),
        *(("person", 0.0, 1.0, 1), ("person", 1.0, 1.5, 2), ("person", 1.5, 4.0, 1)),
    ]
    assert [interval[0] for interval in intervals] == [interval[0] for interval in expected]
    for interval, expected_interval in zip(intervals, expected, strict=True):
        assert interval[1:] == pytest.approx(expected_interval[1:])
    assert summarize_boxes(long.slice(0, 0))["class_presence"].num_rows == 0


def event_row(
    track_id: int, event_index: int, event: str, time_s: float, place: str, dwell_s: float | None = None
) -> dict[str, Any]:
    """A row of `zone_events` at a zone or, for `in` and `out`, at a line."""
    place_column = "zone_name" if event in ("enter", "exit") else "line_name"
    key = {"recording_id": "r", "track_id": track_id, "event_index": event_index}
    return {**key, "class_name": "person", "event": event, "time_s": time_s, "dwell_s": dwell_s, place_column: place}


def test_zone_and_line_events_are_aggregated_by_minute_and_by_origin_and_destination() -> None:
    events = sparse_rows(
        ZONE_EVENTS,
        event_row(1, 0, "enter", 10, "yard"),
        event_row(1, 1, "exit", 20, "yard", dwell_s=10.0),
        event_row(2, 0, "enter", 30, "yard"),
        event_row(2, 1, "exit", 70, "yard", dwell_s=40.0),
        event_row(1, 2, "in", 21, "north"),
        event_row(1, 3, "in", 31, "south"),
        event_row(2, 2, "in", 80, "north"),
        event_row(2, 3, "out", 90, "north"),
    )
    zone_seconds = [
        {"second_index": second_index, "mean_occupancy": mean_occupancy}
        for second_index, mean_occupancy in ((0, 1.0), (1, 2.0), (60, 0.5))
    ]
    shared = {"recording_id": "r", "zone_name": "yard", "max_occupancy": 2, "mean_queue": 0.0, "max_queue": 0}
    inputs = {
        "zone_events": events,
        "zone_seconds": sparse_rows(ZONE_SECONDS, *zone_seconds, **shared),
    }
    rows_by_table = summarize_zones(inputs)
    assert_rules_hold(ZONE_SUMMARY_TABLES, rows_by_table)
    minutes = rows_by_table["zone_minutes"].to_pylist()
    assert [
        (minute["minute_index"], minute["mean_occupancy"], minute["enter_count"], minute["exit_count"])
        for minute in minutes
    ] == [
        (0, 1.5, 2, 1),
        (1, 0.5, 0, 1),
    ]
    assert [minute["dwell_p50_s"] for minute in minutes] == [10, 40]
    lines = [
        (row["line_name"], row["direction"], row["minute_index"], row["crossing_count"])
        for row in rows_by_table["line_minutes"].to_pylist()
    ]
    assert lines == [("north", "in", 0, 1), ("north", "in", 1, 1), ("north", "out", 1, 1), ("south", "in", 0, 1)]
    trips = [
        (row["origin_line"], row["destination_line"], row["track_count"], row["median_travel_s"])
        for row in rows_by_table["origin_destinations"].to_pylist()
    ]
    assert trips == [("north", "north", 1, 10), ("north", "south", 1, 10)]


def test_an_exit_in_a_minute_without_a_frame_counts() -> None:
    events = sparse_rows(
        ZONE_EVENTS, event_row(1, 0, "enter", 10, "yard"), event_row(1, 1, "exit", 60.0, "yard", dwell_s=50.0)
    )
    second = {"recording_id": "r", "zone_name": "yard", "second_index": 59, "mean_occupancy": 1.0, "max_occupancy": 1}
    seconds = sparse_rows(ZONE_SECONDS, second, mean_queue=0.0, max_queue=0)  # the last frame ends at 60 s
    rows_by_table = summarize_zones({"zone_events": events, "zone_seconds": seconds})
    assert_rules_hold(ZONE_SUMMARY_TABLES, rows_by_table)
    minutes = rows_by_table["zone_minutes"].to_pylist()
    assert [(row["minute_index"], row["max_occupancy"], row["exit_count"], row["dwell_p50_s"]) for row in minutes] == [
        (0, 1, 0, None),
        (1, 0, 1, 50.0),
    ]


def store_tracks(store: Store, *keys: tuple[str, int]) -> None:
    """Store tracks of the class person from the first frame on, by recording and track_id."""
    measures = dict.fromkeys(TRACKS.arrow_schema.names, 1.0) | {
        "class_id": 0,
        "class_name": "person",
        "is_doubtful": False,
    }
    extent = {"start_s": 0.0, "first_frame_index": 0, "last_frame_index": 3, "box_count": 3}
    rows = [
        {**measures, **extent, "recording_id": recording_id, "track_id": track_id} for recording_id, track_id in keys
    ]
    store.replace(TRACKS, sorted({recording_id for recording_id, _ in keys}), sparse_rows(TRACKS, *rows))


def store_presence(store: Store, *rows: tuple[str, float, float, int]) -> None:
    """Store intervals of the class person: recording, start, end and number of objects."""
    names = ("recording_id", "start_s", "end_s", "object_count")
    intervals = [dict(zip(names, row, strict=True)) for row in rows]
    ids = sorted({row[0] for row in rows})
    store.replace(CLASS_PRESENCE, ids, sparse_rows(CLASS_PRESENCE, *intervals, class_name="person"))


def test_hours_follow_the_wall_clock(store: Store) -> None:
    store_recordings(store, {"recording_id": "r"}, {"recording_id": "n", "container_name": None})  # r: from 08:59:58
    store_tracks(store, ("r", 1), ("n", 1))
    store_presence(store, ("r", 0.0, 1.0, 1), ("r", 1.0, 1.5, 3), ("r", 1.5, 4.0, 2), ("n", 0.0, 4.0, 1))
    publish(store, Settings())
    query = (
        "SELECT recording_id, camera, epoch(hour_utc)::INT // 3600 % 24, class_name, new_track_count, max_at_once, "
        "object_s FROM recording_hours ORDER BY hour_utc"
    )
    with open_results(store.data_folder) as results:
        assert results.execute(query).fetchall() == [
            ("r", "gate", 8, "person", 1, 3, 3.5),
            ("r", "gate", 9, "person", 0, 2, 4.0),
        ]
        types = "SELECT column_type FROM (DESCRIBE recording_hours)"
        expected = ["VARCHAR", "VARCHAR", "TIMESTAMP WITH TIME ZONE", "VARCHAR", "INTEGER", "INTEGER", "DOUBLE"]
        assert [row[0] for row in results.execute(types).fetchall()] == expected


def test_an_interval_that_ends_with_the_hour_is_not_in_the_next(store: Store) -> None:
    store_recordings(store, {"recording_id": "r"})
    store_tracks(store, ("r", 1))
    store_presence(store, ("r", 0.0, 1.9 + 0.1, 1))
    publish(store, Settings())
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT object_s FROM camera_hours").fetchall() == [(2.0,)]


def test_hours_of_a_camera_count_an_object_of_two_recordings_once(store: Store) -> None:
    recordings = [
        {"recording_id": recording_id, "started_at_utc": STARTED + timedelta(seconds=4 * number)}
        for number, recording_id in enumerate("ab")
    ]
    store_recordings(store, *recordings)
    store_tracks(store, ("a", 1), ("b", 1), ("b", 2))
    link = {"recording_id": "b", "track_id": 1, "previous_recording_id": "a", "previous_track_id": 1, "gap_s": 0.1}
    store.replace(TRACK_LINKS, ["b"], sparse_rows(TRACK_LINKS, link))
    store_presence(store, ("a", 0.0, 2.0, 1), ("b", 0.0, 4.0, 2))
    publish(store, Settings())
    with open_results(store.data_folder) as results:
        query = (
            "SELECT camera, epoch(hour_utc)::INT // 3600 % 24, track_count, max_at_once FROM camera_hours ORDER BY ALL"
        )
        assert results.execute(query).fetchall() == [("gate", 8, 1, 1), ("gate", 9, 1, 2)]
        commented = "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'camera_hours' AND comment IS NOT NULL"
        assert results.execute(commented).fetchall() == [(6,)]
