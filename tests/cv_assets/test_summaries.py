"""Sums by minute, hour, cell, zone and line, of boxes and events with known answers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cv_assets.summaries import STAGE, summarize
from cv_assets.zone_summaries import STAGE as ZONE_STAGE
from cv_assets.zone_summaries import summarize_zones
from resources.results import open_results, publish
from resources.schema import (
    DETECTIONS,
    FRAMES,
    MODEL_RUNS,
    RECORDING_HOURS,
    RECORDINGS,
    TRACK_LINKS,
    TRACKS,
    ZONE_EVENTS,
    ZONE_SECONDS,
    Table,
    broken_rules,
)
from resources.storage import Store
from tests.cv_assets.test_zone_events import walk_boxes

STARTED = datetime(2026, 3, 1, 8, 59, 58, tzinfo=UTC)


def table(declared: Table, *rows: dict[str, Any], **shared: Any) -> pa.Table:
    """Rows of a table, columns that are not named being NULL; they are not stored, so rules need not hold."""
    names = declared.arrow_schema.names
    schema = pa.schema([pa.field(field.name, field.type) for field in declared.arrow_schema])
    return pa.Table.from_pylist([dict.fromkeys(names) | shared | row for row in rows], schema=schema)


def recording(recording_id: str = "r", started: datetime | None = STARTED) -> dict[str, Any]:
    told = {"status": "ok", "source_path": "r", "fingerprint": "r", "size_bytes": 1, "mtime_utc": STARTED}
    size = {"width_px": 320, "height_px": 200, "rate_fps": 10.0, "frame_count": 40, "duration_s_from_content": 4.0}
    return {"recording_id": recording_id, "camera": "gate", "started_at_utc": started, **told, **size}


def test_hours_follow_the_wall_clock_and_cells_the_feet() -> None:
    boxes = walk_boxes([15.0] * 40)  # 4 s from 08:59:58, feet at (15, 100)
    captured = [STARTED + timedelta(seconds=frame / 10) for frame in range(40)]
    boxes = boxes.set_column(boxes.column_names.index("captured_at_utc"), "captured_at_utc", pa.array(captured))
    track = {"track_id": 1, "class_name": "person", "start_s": 0.0}
    inputs = {
        "recordings": table(RECORDINGS, recording()),
        "frames": table(FRAMES, *({"frame_index": frame, "time_s": frame / 10} for frame in range(40))),
        "detections": table(DETECTIONS, {"frame_index": 0}),
        "model_runs": table(
            MODEL_RUNS,
            {"model_id": "m", "engine_name": "e", "analysed_frame_count": 40, "reused_frame_count": 0},
        ),
        "tracks": table(TRACKS, track),
        "track_boxes": boxes,
    }
    found = summarize(inputs)
    for declared in STAGE.tables:
        rows = found[declared.name].select(declared.arrow_schema.names).cast(declared.arrow_schema)
        assert broken_rules(declared, rows) == []
    hours = found["recording_hours"].to_pylist()
    assert [row["hour_utc"].astimezone(UTC).hour for row in hours] == [8, 9]
    assert [(row["new_track_count"], row["max_at_once"]) for row in hours] == [(1, 1), (0, 1)]
    assert [row["object_s"] for row in hours] == pytest.approx([2, 2])
    cells = [(row["row_index"], row["column_index"], row["track_count"]) for row in found["heatmap_cells"].to_pylist()]
    assert cells == [(10, 1, 1)]  # cells of 10 px
    assert found["heatmap_cells"]["object_s"].to_pylist() == pytest.approx([4])
    minute = found["class_minutes"].to_pylist()[0]
    assert minute["minute_start_utc"] == STARTED

    unknown = summarize(inputs | {"recordings": table(RECORDINGS, recording(started=None)), "track_boxes": walk_boxes(
        [15.0] * 3, captured_at_utc=None)})  # fmt: skip
    assert unknown["recording_hours"].num_rows == 0
    assert unknown["class_minutes"]["minute_start_utc"].to_pylist() == [None]


def event(track_id: int, index: int, event: str, time_s: float, place: str, **changed: Any) -> dict[str, Any]:
    kind = "zone_name" if event in ("enter", "exit") else "line_name"
    told = {"track_id": track_id, "event_index": index, "event": event, "time_s": time_s, kind: place}
    return {"recording_id": "r", "class_name": "person", **told, **changed}


def test_zones_and_lines_are_summed_up_by_minute_and_way() -> None:
    events = table(
        ZONE_EVENTS,
        event(1, 0, "enter", 10, "yard"),
        event(1, 1, "exit", 20, "yard", dwell_s=10.0),
        event(2, 0, "enter", 30, "yard"),
        event(2, 1, "exit", 70, "yard", dwell_s=40.0),
        event(1, 2, "in", 21, "north"),
        event(1, 3, "in", 31, "south"),
        event(2, 2, "in", 80, "north"),
        event(2, 3, "out", 90, "north"),
    )
    inside = [
        {"recording_id": "r", "zone_name": "yard", "second_index": second, "mean_occupancy": occupied,
         "max_occupancy": 2, "mean_queue": 0.0, "max_queue": 0}
        for second, occupied in ((0, 1.0), (1, 2.0), (60, 0.5))
    ]  # fmt: skip
    inputs = {
        "recordings": table(RECORDINGS, recording()),
        "zone_events": events,
        "zone_seconds": table(ZONE_SECONDS, *inside),
    }
    found = summarize_zones(inputs)
    for declared in ZONE_STAGE.tables:
        rows = found[declared.name].select(declared.arrow_schema.names).cast(declared.arrow_schema)
        assert broken_rules(declared, rows) == []
    minutes = found["zone_minutes"].to_pylist()
    assert [(m["minute_index"], m["mean_occupancy"], m["enter_count"], m["exit_count"]) for m in minutes] == [
        (0, 1.5, 2, 1),
        (1, 0.5, 0, 1),
    ]
    assert [m["dwell_p50_s"] for m in minutes] == [10, 40]
    assert minutes[1]["minute_start_utc"] == STARTED + timedelta(minutes=1)
    lines = [
        (r["line_name"], r["direction"], r["minute_index"], r["crossing_count"])
        for r in found["line_minutes"].to_pylist()
    ]
    assert lines == [("north", "in", 0, 1), ("north", "in", 1, 1), ("north", "out", 1, 1), ("south", "in", 0, 1)]
    ways = found["origin_destinations"].to_pylist()
    assert [(w["origin_line"], w["destination_line"], w["track_count"], w["median_travel_s"]) for w in ways] == [
        ("north", "north", 1, 10),
        ("north", "south", 1, 10),
    ]


def test_a_camera_counts_over_its_files_and_nobody_twice(store: Store) -> None:
    rows = [recording(name, STARTED + timedelta(seconds=4 * number)) for number, name in enumerate("ab")]
    store.replace(RECORDINGS, ["a", "b"], table(RECORDINGS, *rows))
    number = dict.fromkeys(TRACKS.arrow_schema.names, 1.0) | {"class_id": 0, "class_name": "person"}
    ends = {"start_s": 0.0, "first_frame_index": 0, "last_frame_index": 3, "box_count": 3}
    tracks = [number | ends | {"recording_id": r, "track_id": t} for r, t in (("a", 1), ("b", 1), ("b", 2))]
    store.replace(TRACKS, ["a", "b"], table(TRACKS, *tracks))
    link = {"recording_id": "b", "track_id": 1, "previous_recording_id": "a", "previous_track_id": 1, "gap_s": 0.1}
    store.replace(TRACK_LINKS, ["b"], table(TRACK_LINKS, link))
    eight, nine = (STARTED.replace(hour=hour, minute=0, second=0) for hour in (8, 9))
    hours = [
        {"recording_id": "a", "hour_utc": eight, "new_track_count": 1, "max_at_once": 1},
        {"recording_id": "b", "hour_utc": nine, "new_track_count": 2, "max_at_once": 2},
    ]
    shared = {"camera": "gate", "class_name": "person", "object_s": 4.0}
    store.replace(RECORDING_HOURS, ["a", "b"], table(RECORDING_HOURS, *hours, **shared))
    publish(store)
    with open_results(store.data_folder) as results:
        query = (
            "SELECT camera, epoch(hour_utc)::INT // 3600 % 24, track_count, max_at_once FROM camera_hours ORDER BY ALL"
        )
        assert results.execute(query).fetchall() == [("gate", 8, 1, 1), ("gate", 9, 1, 2)]
        commented = "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'camera_hours' AND comment IS NOT NULL"
        assert results.execute(commented).fetchall() == [(6,)]
