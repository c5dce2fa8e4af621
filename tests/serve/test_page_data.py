"""The data of the pages, as plain values: chunks of boxes, lanes, counts, library, gaps, questions."""

import io
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import duckdb
import numpy as np
import openpyxl
import pyarrow as pa
import pytest

from cv_assets.zone_events import zone_rows
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.schema.model_tables import KEYPOINTS, MASKS, ORIENTED_BOXES
from resources.schema.recording_tables import FRAMES
from resources.schema.summary_tables import CLASS_PRESENCE
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from serve.pages import box_chunks
from serve.pages.box_chunks import BoxCache, read_chunk_index
from serve.pages.camera_rows import find_gaps
from serve.pages.count_tables import read_interval_counts, write_csv, write_xlsx
from serve.pages.frame_times import read_frame_times
from serve.pages.mp4_times import read_header_times
from serve.pages.object_gallery import ObjectFilter, read_objects
from serve.pages.recording_library import Library, LibraryFilter, month_weeks, neighbouring_months
from serve.pages.shape_chunks import has_shapes, pack_shapes
from serve.pages.shape_questions import DrawnShapes, count_at_shapes, drawn_camera
from serve.pages.timeline_lanes import MAX_BINS, read_timeline
from tests.builders.numbered_videos import write_numbered_video
from tests.builders.table_rows import sparse_rows, store_recordings
from tests.builders.track_rows import moving_track_boxes

LINE = {"name": "middle", "points": [[0.5, 0], [0.5, 1]]}
ROW = np.dtype(
    [("frame", "<u2"), ("class", "<u2"), ("track", "<u4"), ("confidence", "u1"), ("flags", "u1"), ("box", "<u2", 4)]
)
_OBB = ("centre_x_px", "centre_y_px", "box_width_px", "box_height_px", "angle_deg")
_KEYPOINTS = (
    {"keypoint_index": 1, "x_px": 320.0, "y_px": 200.0, "confidence": 0.9},
    {"keypoint_index": 0, "x_px": 5.0, "y_px": 5.0, "confidence": 0.1},
)
PRESENCE = [
    {"start_s": start_s, "end_s": end_s, "object_count": count}
    for start_s, end_s, count in ((0.0, 0.5, 1), (0.5, 0.6, 3), (0.6, 3.0, 1))
]
WALK_PX = [10.0 + 10 * step for step in range(30)]
"""From the left to the right of the frame, across its middle at 160 px."""


def frame_rows(recording_id: str, count: int) -> pa.Table:
    values: dict[str, Any] = {"recording_id": recording_id, "is_duplicated": False}
    zeros = ("gap_s", "brightness", "sharpness", "motion", "scene_score", "black_share", "camera_x_px", "camera_y_px")
    rows = [{"frame_index": k, "source_frame_index": k, "time_s": k / 10} for k in range(count)]
    return sparse_rows(FRAMES, *rows, **values, **dict.fromkeys(zeros, 0.0))


def track_row(recording_id: str, track_id: int, class_name: str, start_s: float, end_s: float) -> dict[str, Any]:
    numbers = ("mean_confidence", "path_px", "mean_speed_px_s", "first_x_px", "first_y_px", "last_x_px", "last_y_px")
    return {
        "recording_id": recording_id, "track_id": track_id, "class_id": 0, "class_name": class_name, "start_s": start_s,
        "end_s": end_s, "duration_s": end_s - start_s, "first_frame_index": int(start_s * 10),
        "last_frame_index": int(end_s * 10), "box_count": 30, "is_doubtful": False, **dict.fromkeys(numbers, 0.5),
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """Two recordings, "r" and "s", each with a person who walks across the middle; in "r" a car follows."""
    settings = Settings(data_folder=tmp_path_factory.mktemp("data"))
    store = Store(settings.data_folder)
    start = datetime(2026, 3, 1, 8, 59, 58, tzinfo=UTC)
    store_recordings(
        store,
        {"recording_id": "r", "source_path": "gate/morning.mp4"},
        {"recording_id": "s", "started_at_utc": start + timedelta(days=1), "camera": None, "source_path": "s.mp4"},
    )
    car: dict[str, Any] = {"track_id": 70_001, "class_name": "car", "confidence": None}
    car |= {"is_interpolated": True, "detection_index": None}
    boxes = {
        "r": pa.concat_tables([moving_track_boxes(WALK_PX), moving_track_boxes(WALK_PX[:20], **car)]),
        "s": moving_track_boxes(WALK_PX, recording_id="s"),
    }
    tracks = [
        track_row("r", 1, "person", 0, 3),
        track_row("r", 70_001, "car", 2.5, 3),
        track_row("s", 1, "person", 0, 3),
    ]
    camera = CameraSettings.model_validate({"lines": [LINE]})
    shape = {"recording_id": "r", "frame_index": 3, "detection_index": 0}
    for table, rows in {
        FRAMES: [frame_rows("r", 40), frame_rows("s", 40)], TRACK_BOXES: list(boxes.values()),
        MASKS: [sparse_rows(MASKS, {**shape, "area_px": 9.0, "polygon_px": [0.0, 0.0, 320.0, 0.0, 160.0, 200.0]})],
        ORIENTED_BOXES: [sparse_rows(ORIENTED_BOXES, {**shape, **dict(zip(_OBB, (100, 50, 40, 20, 90), strict=True))})],
        KEYPOINTS: [sparse_rows(KEYPOINTS, *({**shape, **keypoint} for keypoint in _KEYPOINTS))],
        TRACKS: [sparse_rows(TRACKS, *tracks)],
        CLASS_PRESENCE: [sparse_rows(CLASS_PRESENCE, *PRESENCE, recording_id="r", class_name="person")],
        ZONE_EVENTS: [zone_rows(name, rows, frame_rows(name, 40), camera, 320, 200)["zone_events"]
                      for name, rows in boxes.items()],
    }.items():  # fmt: skip
        store.replace(table, ["r", "s"], pa.concat_tables(rows))
    publish(store, settings)
    return open_results(settings.data_folder)


def test_chunks_hold_every_box_of_their_frames(
    results: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_chunks, "CHUNK_BOXES", 12)
    monkeypatch.setattr(box_chunks, "_BLOCK_BOXES", 24)
    index = read_chunk_index(results, "r", (320, 200))
    assert index.classes == ("car", "person") and sum(index.box_counts) == 50 and index.first_frames[0] == 0
    cache = BoxCache()
    ends = [*index.first_frames[1:], 40]
    chunks = [cache.chunk(results, "snapshot", "r", index, a, b) for a, b in zip(index.first_frames, ends, strict=True)]
    rows = [np.frombuffer(chunk, ROW) for chunk in chunks]
    assert [len(part) for part in rows] == list(index.box_counts) and len(rows) > 3
    frames = np.concatenate([part["frame"] + first for part, first in zip(rows, index.first_frames, strict=True)])
    assert np.bincount(frames).tolist() == [2] * 20 + [1] * 10
    every = np.concatenate(rows)
    person, car = every[every["track"] == 1], every[every["track"] == 70_001]
    assert len(car) == 20 and set(car["flags"]) == {box_chunks.IS_INTERPOLATED} and set(car["confidence"]) == {0}
    assert np.allclose(
        person["box"] / 65_535 * [320, 200, 320, 200], [[x - 10, 50, x + 10, 100] for x in WALK_PX], atol=0.01
    )
    assert np.allclose((person["confidence"] - 1) / 254, 0.9, atol=0.002)


def test_a_recording_without_boxes_has_an_empty_chunk(results: duckdb.DuckDBPyConnection) -> None:
    index = read_chunk_index(results, "nothing", (320, 200))
    assert index.classes == () and BoxCache().chunk(results, "snapshot", "nothing", index, 0, 100) == b""


def test_shapes_follow_the_boxes_of_their_detections(results: duckdb.DuckDBPyConnection) -> None:
    assert has_shapes(results, "r") and not has_shapes(results, "s")
    words = np.frombuffer(pack_shapes(results, "r", ["car", "person"], (320, 200), (2, 10)), "<u2").tolist()
    full = 65_534
    mask, oriented, keypoints = words[:11], words[11:24], words[24:]
    assert mask == [1, 1, 0, 1, 3, 0, 0, full, 0, full // 2, full]
    assert oriented[:5] == [1, 1, 1, 1, 4]
    # Turned by a quarter: 20 px wide and 40 px high.
    corners = np.reshape(oriented[5:], (-1, 2)) / full * [320, 200]
    assert np.allclose(sorted(corners.tolist()), [[90, 30], [90, 70], [110, 30], [110, 70]], atol=0.01)
    assert keypoints == [1, 1, 2, 1, 2, 65_535, 65_535, full, full]


def test_the_timeline_has_events_and_peaks(results: duckdb.DuckDBPyConnection) -> None:
    timeline = read_timeline(results, "r", 4.0)
    events = sorted((event["name"], event["event"], event["class_name"]) for event in timeline["events"])
    assert events == [("middle", "out", "car"), ("middle", "out", "person")] and timeline["event_count"] == 2
    # Three persons for a moment in the middle of the first second: the peak of its bins alone.
    (lane,) = timeline["classes"]
    assert lane["name"] == "person"
    assert [lane["peaks"][int(time_s / timeline["bin_s"])] for time_s in (0.2, 0.55, 0.9, 3.5)] == [1, 3, 1, 0]
    assert timeline["bin_s"] == 4.0 / MAX_BINS and timeline["cuts"] == [] and timeline["marks"] == []


def test_counts_begin_at_full_minutes_of_the_clock(results: duckdb.DuckDBPyConnection) -> None:
    objects = [row for row in read_interval_counts(results, "r", 1) if row["name"] == "objects"]
    # The recording starts 2 s before nine: the car, at 2.5 s, is in the next minute.
    assert [(row["class_name"], row["interval_start_s"], row["count"]) for row in objects] == [
        ("person", 0, 1),
        ("car", 2, 1),
    ]
    nine_ms = datetime(2026, 3, 1, 9, tzinfo=UTC).timestamp() * 1000
    assert [row["interval_start_utc"] for row in objects] == [nine_ms - 60_000, nine_ms]
    assert len({row["interval_start_s"] for row in read_interval_counts(results, "r", 60)}) == 2


def test_files_hold_times_of_the_clock_and_no_formulas() -> None:
    rows = [{"name": "=1+1", "interval_start_utc": 1_772_355_600_000, "count": 3}]
    columns = ("name", "interval_start_utc", "count")
    assert write_csv(rows, columns).decode().splitlines()[1] == "=1+1,2026-03-01T09:00:00Z,3"
    sheet = openpyxl.load_workbook(io.BytesIO(write_xlsx([("counts", rows, columns)])))["counts"]
    name, time, count = sheet[2]
    assert (name.value, name.data_type, time.value, count.value) == ("=1+1", "s", datetime(2026, 3, 1, 9), 3)


def test_the_library_filters_by_camera_day_and_text(results: duckdb.DuckDBPyConnection) -> None:
    library = Library.read(results, "snapshot")
    assert [row["recording_id"] for row in library.rows] == ["s", "r"]
    for selection, ids in [
        (LibraryFilter(camera="-"), ["s"]), (LibraryFilter(camera="gate"), ["r"]),
        (LibraryFilter(day="2026-03-02"), ["s"]),
        (LibraryFilter(text="MORNING"), ["r"]), (LibraryFilter(status="failed"), []),
    ]:  # fmt: skip
        assert [row["recording_id"] for row in library.page(selection, 1)[0]] == ids, selection
    days = library.days(LibraryFilter(day="2026-03-02"))
    assert days == {"2026-03-01": 1, "2026-03-02": 1} and library.choices()["cameras"] == ["-", "gate"]
    weeks = month_weeks(days, "2026-03")
    assert weeks[0][:6] == [None] * 6 and weeks[0][6] == {"day": "2026-03-01", "number": 1, "count": 1}
    assert neighbouring_months({"2026-01-05": 1, "2026-04-01": 1}, "2026-03") == ("2026-01", "2026-04")


def test_gaps_lie_between_recordings_that_may_overlap() -> None:
    rows = [
        {"start_ms": start, "end_ms": end}
        for start, end in [(0, 10_000), (1_000, 5_000), (10_500, 20_000), (50_000, 60_000)]
    ]
    assert find_gaps(rows) == [{"start_ms": 20_000, "end_ms": 50_000}]


def test_objects_are_found_by_class_place_and_time(results: duckdb.DuckDBPyConnection) -> None:
    for selection, count in [
        (ObjectFilter(), 3), (ObjectFilter(class_name="person"), 2), (ObjectFilter(camera="-"), 1),
        (ObjectFilter(place="middle", class_name="car"), 1), (ObjectFilter(attribute="red"), 0),
        (ObjectFilter(from_utc="2026-03-02 00:00:00"), 1), (ObjectFilter(to_utc="2026-03-01 08:59:59"), 1),
        (ObjectFilter(recording_id="r", from_s=2.9), 2), (ObjectFilter(recording_id="r", to_s=1.0), 1),
        (ObjectFilter(min_duration_s=1), 2), (ObjectFilter(is_doubtful=True), 0),
    ]:  # fmt: skip
        assert read_objects(results, selection, 0, "newest").count == count, selection


@pytest.mark.parametrize("fixed_to", ["frame", "ground"])
@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param({"lines": [LINE]}, id="line"),
        pytest.param({"zones": [{"name": "left", "points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}]}, id="inside first"),
        pytest.param({"zones": [{"name": "right", "points": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}]}, id="inside last"),
        pytest.param({"zones": [{"name": "strip", "points": [[0.3, 0], [0.4, 0], [0.4, 1], [0.3, 1]]}]}, id="through"),
    ],
)
def test_a_question_has_the_events_of_the_stage(
    results: duckdb.DuckDBPyConnection, shapes: dict[str, Any], fixed_to: Literal["frame", "ground"]
) -> None:
    camera = drawn_camera(DrawnShapes(**shapes), CameraSettings(fixed_to=fixed_to))
    names = ("track_id", "event", "class_name")
    boxes = results.sql("SELECT * FROM track_boxes WHERE recording_id = 'r' ORDER BY track_id, time_s").to_arrow_table()
    events = zone_rows("r", boxes, frame_rows("r", 40), camera, 320, 200)["zone_events"].to_pylist()
    answer = count_at_shapes(results, ["r"], camera)["events"]
    assert sorted(tuple(row[name] for name in names) for row in answer) == sorted(
        tuple(row[name] for name in names) for row in events
    )
    # The last box lasts one frame, which the stage adds to the time of an exit.
    at = {(row["track_id"], row["event"]): row["time_s"] for row in events}
    assert all(abs(row["time_s"] - at[row["track_id"], row["event"]]) <= 0.1 + 1e-9 for row in answer)


def test_a_question_covers_several_recordings(results: duckdb.DuckDBPyConnection) -> None:
    camera = drawn_camera(DrawnShapes(lines=[LINE]), CameraSettings())
    answer = count_at_shapes(results, ["r", "s"], camera)
    assert answer["recording_count"] == 2
    stored = results.execute(
        "SELECT line_name, event, class_name, count(*) FROM zone_events GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert [tuple(row.values()) for row in answer["counts"]] == stored
    assert {(event["recording_id"], event["class_name"]) for event in answer["events"]} == {
        ("r", "car"),
        ("r", "person"),
        ("s", "person"),
    }


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (DrawnShapes(), "no zone and no line"),
        (DrawnShapes(zones=[{"name": "z", "points": [[0, 0], [1, 1]]}]), "at least 3 points"),
        (DrawnShapes(lines=[{"name": "l", "points": [[0, 0], [2, 1]]}]), "outside the frame"),
    ],
)
def test_an_invalid_shape_is_refused(shapes: DrawnShapes, sentence: str) -> None:
    with pytest.raises(PipelineError, match=sentence):
        drawn_camera(shapes, CameraSettings())


@pytest.mark.parametrize(
    ("name", "options", "start_s"),
    [
        pytest.param("plain.mp4", {}, 0, id="without B-frames"),
        pytest.param("b.mp4", {"options": {"preset": "veryfast", "bf": "3"}}, 0, id="B-frames, one edit"),
        pytest.param("late.mp4", {"options": {"preset": "veryfast", "bf": "3"}}, 5, id="late start, two edits"),
        pytest.param("late.mkv", {}, 5, id="Matroska"),
        pytest.param("cut.mp4", {"options": {"bf": "0"}, "clockwise_deg": 90}, 0, id="rotated"),
    ],
)
def test_frame_times_are_those_of_the_packets(tmp_path: Path, name: str, options: dict[str, Any], start_s: int) -> None:
    times = [Fraction(number, 25) + Fraction(number % 3, 300) + start_s for number in range(30)]
    video = write_numbered_video(tmp_path / name, times, rate=25, **options)
    with av.open(str(video)) as container:
        pts = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
        packet_times_s = np.array(pts) * float(container.streams.video[0].time_base or 1)
    assert np.allclose(read_frame_times(video), packet_times_s)
    assert np.allclose(packet_times_s, np.array(times, float), atol=0.001)


def test_frame_times_of_a_plain_file_are_in_its_header(tmp_path: Path) -> None:
    video = write_numbered_video(tmp_path / "b.mp4", 30, rate=25, options={"preset": "veryfast", "bf": "3"})
    times_s = read_header_times(video)
    assert times_s is not None and np.allclose(times_s, np.arange(30) / 25)
    content = bytearray(video.read_bytes())
    count = content.index(b"stts") + 12
    content[count : count + 4] = b"\xff" * 4  # so many frames that their times do not fit into the memory
    for damaged in (content[:200], content):
        video.write_bytes(damaged)
        assert read_header_times(video) is None
