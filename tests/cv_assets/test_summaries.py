"""Summaries per minute, hour, heatmap cell, zone and line, of boxes and events with known answers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cv_assets.summaries import TABLES as SUMMARY_TABLES
from cv_assets.summaries import summarize
from cv_assets.zone_summaries import TABLES as ZONE_SUMMARY_TABLES
from cv_assets.zone_summaries import summarize_zones
from resources.schema.columns import Table
from resources.schema.model_tables import DETECTIONS, MODEL_RUNS
from resources.schema.recording_tables import FRAMES, RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.schema.summary_tables import RECORDING_HOURS
from resources.schema.track_tables import TRACK_LINKS, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS, ZONE_SECONDS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE as STARTED
from tests.builders.table_rows import recording_row, sparse_rows
from tests.builders.track_rows import moving_track_boxes


def assert_rules_hold(tables: Sequence[Table], rows_by_table: Mapping[str, pa.Table]) -> None:
    for table in tables:
        rows = rows_by_table[table.name].select(table.arrow_schema.names).cast(table.arrow_schema)
        assert broken_rules(table, rows) == []


def test_hours_follow_the_wall_clock_and_heatmap_cells_the_bottom_centre_of_boxes() -> None:
    boxes = moving_track_boxes([15.0] * 40)  # 4 s from 08:59:58, bottom centre at (15, 100)
    captured = [STARTED + timedelta(seconds=frame_index / 10) for frame_index in range(40)]
    boxes = boxes.set_column(boxes.column_names.index("captured_at_utc"), "captured_at_utc", pa.array(captured))
    inputs = {
        "recordings": sparse_rows(RECORDINGS, recording_row()),
        "frames": sparse_rows(FRAMES, *({"frame_index": index, "time_s": index / 10} for index in range(40))),
        "detections": sparse_rows(DETECTIONS, {"frame_index": 0}),
        "model_runs": sparse_rows(
            MODEL_RUNS,
            {"model_id": "m", "engine_name": "e", "analysed_frame_count": 40, "reused_frame_count": 0},
        ),
        "tracks": sparse_rows(TRACKS, {"track_id": 1, "class_name": "person", "start_s": 0.0}),
        "track_boxes": boxes,
    }
    rows_by_table = summarize(inputs)
    assert_rules_hold(SUMMARY_TABLES, rows_by_table)
    hours = rows_by_table["recording_hours"].to_pylist()
    assert [row["hour_utc"].astimezone(UTC).hour for row in hours] == [8, 9]
    assert [(row["new_track_count"], row["max_at_once"]) for row in hours] == [(1, 1), (0, 1)]
    assert [row["object_s"] for row in hours] == pytest.approx([2, 2])
    cells = rows_by_table["heatmap_cells"].to_pylist()
    assert [(cell["row_index"], cell["column_index"], cell["track_count"]) for cell in cells] == [(10, 1, 1)]
    assert [cell["object_s"] for cell in cells] == pytest.approx([4])
    assert rows_by_table["class_minutes"].to_pylist()[0]["minute_start_utc"] == STARTED

    without_start = inputs | {
        "recordings": sparse_rows(RECORDINGS, recording_row(started_at_utc=None)),
        "track_boxes": moving_track_boxes([15.0] * 3, captured_at_utc=None),
    }
    rows_by_table = summarize(without_start)
    assert rows_by_table["recording_hours"].num_rows == 0
    assert rows_by_table["class_minutes"]["minute_start_utc"].to_pylist() == [None]


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
        "recordings": sparse_rows(RECORDINGS, recording_row()),
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
    assert minutes[1]["minute_start_utc"] == STARTED + timedelta(minutes=1)
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


def test_hours_of_a_camera_count_an_object_of_two_recordings_once(store: Store) -> None:
    recordings = [
        recording_row(recording_id, STARTED + timedelta(seconds=4 * number)) for number, recording_id in enumerate("ab")
    ]
    store.replace(RECORDINGS, ["a", "b"], sparse_rows(RECORDINGS, *recordings))
    measures = dict.fromkeys(TRACKS.arrow_schema.names, 1.0) | {"class_id": 0, "class_name": "person"}
    extent = {"start_s": 0.0, "first_frame_index": 0, "last_frame_index": 3, "box_count": 3}
    tracks = [
        {**measures, **extent, "recording_id": recording_id, "track_id": track_id}
        for recording_id, track_id in (("a", 1), ("b", 1), ("b", 2))
    ]
    store.replace(TRACKS, ["a", "b"], sparse_rows(TRACKS, *tracks))
    link = {"recording_id": "b", "track_id": 1, "previous_recording_id": "a", "previous_track_id": 1, "gap_s": 0.1}
    store.replace(TRACK_LINKS, ["b"], sparse_rows(TRACK_LINKS, link))
    eight, nine = (STARTED.replace(hour=hour, minute=0, second=0) for hour in (8, 9))
    hours = [
        {"recording_id": "a", "hour_utc": eight, "new_track_count": 1, "max_at_once": 1},
        {"recording_id": "b", "hour_utc": nine, "new_track_count": 2, "max_at_once": 2},
    ]
    shared = {"camera": "gate", "class_name": "person", "object_s": 4.0}
    store.replace(RECORDING_HOURS, ["a", "b"], sparse_rows(RECORDING_HOURS, *hours, **shared))
    publish(store)
    with open_results(store.data_folder) as results:
        query = (
            "SELECT camera, epoch(hour_utc)::INT // 3600 % 24, track_count, max_at_once FROM camera_hours ORDER BY ALL"
        )
        assert results.execute(query).fetchall() == [("gate", 8, 1, 1), ("gate", 9, 1, 2)]
        commented = "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'camera_hours' AND comment IS NOT NULL"
        assert results.execute(commented).fetchall() == [(6,)]
