"""Lines, zones, trips and the ground: scenes with known answers, and hundreds of drawn ones."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.track_links import link_rows, neighbours
from cv_assets.zone_events import TABLES, find_zone_events, zone_rows
from demo.crowd import CrowdSettings, draw_crossings
from resources.schema import RECORDINGS, TRACK_BOXES, broken_rules
from resources.settings import CameraSettings, Settings, TrackSettings
from resources.storage import Store
from resources.zones import anchors, border_changes, contains, crossings, homography, to_ground
from tests.conftest import CORPUS
from tests.cv_assets.test_tracks import tracked

UP_THE_MIDDLE = np.array([[100.0, 100.0], [100.0, 0.0]])
STARTED = datetime(2026, 3, 1, 8, tzinfo=UTC)


def crossed(x: Sequence[float], line: np.ndarray = UP_THE_MIDDLE, margin_px: float = 10.0) -> list[tuple[int, float]]:
    """Crossings (sign, position) of one object that is at each x in turn, at height 50."""
    points = np.column_stack([x, np.full(len(x), 50.0)])
    found = crossings(np.ones(len(x)), points, np.full(len(x), margin_px), line)
    return [(int(s), round(float(r + f), 3)) for s, r, f in zip(found.sign, found.row, found.share, strict=True)]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        pytest.param([60, 80, 120, 140], [(1, 1.5)], id="straight across"),
        pytest.param([140, 120, 80, 60], [(-1, 1.5)], id="the other way"),
        pytest.param([60, 95, 105, 95, 105, 140], [(1, 3.5)], id="trembling on the line counts once, at its last"),
        pytest.param([60, 95, 105, 95, 60], [], id="touching it and going back"),
        pytest.param([60, 120, 60], [(1, 0.667), (-1, 1.333)], id="across and back"),
        pytest.param([60, 100, 140], [(1, 1.0)], id="a box exactly on the line"),
        pytest.param([103, 97, 60], [(-1, 0.5)], id="first seen just beyond the line"),
        pytest.param([102, 97, 60], [], id="first seen on the line"),
        pytest.param([60, 95, 102, 103], [(1, 1.714)], id="last seen just beyond the line"),
        pytest.param([60], [], id="a single box"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_a_crossing_counts_once_it_is_clear(x: list[float], expected: list[tuple[int, float]]) -> None:
    assert crossed(x) == expected


def test_reversing_the_line_or_the_time_swaps_in_and_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = 100 + np.cumsum(rng.normal(0, 15, 60))
        signs = [sign for sign, _ in crossed(x.tolist())]
        assert [sign for sign, _ in crossed(x.tolist(), UP_THE_MIDDLE[::-1])] == [-sign for sign in signs]
        assert [sign for sign, _ in crossed(x[::-1].tolist())] == [-sign for sign in signs[::-1]]


def test_who_walks_round_the_end_of_a_line_does_not_cross_it() -> None:
    round_it = np.array([[60, 50], [60, 150], [140, 150], [140, 50]], float)
    assert len(crossings(np.ones(4), round_it, np.full(4, 10.0), UP_THE_MIDDLE).row) == 0


def test_a_line_of_several_pieces_is_crossed_once_at_its_corners() -> None:
    corner = np.array([[100, 100], [100, 50], [100, 0]], float)
    assert crossed([60, 140], corner) == [(1, 0.5)]  # exactly through the point that two pieces share
    bent = np.array([[50, 100], [100, 50], [50, 0]], float)
    assert crossed([60, 140], bent) == [(1, 0.5)]


def test_tracks_are_kept_apart() -> None:
    points = np.array([[60, 50], [80, 50], [120, 50], [140, 50]], float)
    assert len(crossings(np.array([1, 1, 2, 2]), points, np.full(4, 10.0), UP_THE_MIDDLE).row) == 0


SQUARE = np.array([[100, 0], [200, 0], [200, 100], [100, 100]], float)


@pytest.mark.parametrize(
    ("x", "signs", "inside"),
    [
        pytest.param([60, 150, 250], [1, -1], "010", id="through"),
        pytest.param([60, 105, 95, 105, 95, 60], [], "000000", id="trembling at the border"),
        pytest.param([150, 250], [-1], "10", id="begins inside"),
        pytest.param([60, 150, 160], [1], "011", id="ends inside"),
        pytest.param([105, 150, 105], [], "111", id="inside throughout"),
        pytest.param([101, 102, 101], [], "111", id="never clear of the border"),
        pytest.param([60, 80], [], "00", id="never there"),
    ],
)
def test_zones_are_entered_and_left_once_it_is_clear(x: list[float], signs: list[int], inside: str) -> None:
    points = np.column_stack([x, np.full(len(x), 50.0)])
    changes, is_inside = border_changes(np.ones(len(x)), points, np.full(len(x), 20.0), SQUARE)
    assert changes.sign.tolist() == signs
    assert "".join(str(int(value)) for value in is_inside) == inside


def test_a_point_is_inside_a_hollow_zone_as_one_sees_it() -> None:
    hook = np.array([[0, 0], [30, 0], [30, 30], [20, 30], [20, 10], [10, 10], [10, 30], [0, 30]], float)
    points = np.array([[5, 20], [15, 20], [25, 20], [15, 5], [40, 5]], float)
    assert contains(hook, points).tolist() == [True, False, True, True, False]


def test_the_ground_is_found_from_four_points_and_from_more() -> None:
    truth = np.array([[0.02, 0.003, -3], [0.001, 0.06, -8], [0.0001, 0.002, 1.0]])
    points = np.array([[100, 400], [500, 420], [560, 200], [80, 180], [300, 300], [200, 350]], float)
    metres = to_ground(truth, points)
    for count in (4, 6):
        assert to_ground(homography(points[:count], metres[:count]), points) == pytest.approx(metres)
    above_horizon = np.array([[300.0, -5000.0]])
    assert np.isnan(to_ground(homography(points, metres), above_horizon)).all()


def walk_boxes(x: Sequence[float], rate_fps: float = 10.0, **changed: Any) -> pa.Table:
    """Boxes of a 20 x 50 px object whose bottom centre is at each x in turn, at height 100."""
    rows = [
        {
            "recording_id": "r",
            "track_id": 1,
            "frame_index": frame,
            "time_s": frame / rate_fps,
            "captured_at_utc": STARTED + timedelta(seconds=frame / rate_fps),
            "detection_index": 0,
            "is_interpolated": False,
            "class_id": 0,
            "class_name": "person",
            "confidence": 0.9,
            "x_min_px": place - 10,
            "y_min_px": 50.0,
            "x_max_px": place + 10,
            "y_max_px": 100.0,
            **changed,
        }
        for frame, place in enumerate(x)
    ]
    return pa.Table.from_pylist(rows, schema=TRACK_BOXES.arrow_schema)


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


def rows_of(boxes: pa.Table, camera: CameraSettings = CAMERA) -> dict[str, list[dict[str, Any]]]:
    count = max(boxes["frame_index"].to_pylist(), default=0) + 1
    frames = pa.table({"frame_index": np.arange(count, dtype=np.int32), "time_s": np.arange(count) / 10})
    found = zone_rows("r", boxes, frames, camera, 400, 200)
    for table in TABLES:
        assert broken_rules(table, found[table.name]) == []
    return {name: rows.to_pylist() for name, rows in found.items()}


def test_a_walk_through_gives_events_dwell_trip_speed_and_metres() -> None:
    found = rows_of(walk_boxes(np.arange(50, 255, 10).tolist()))  # 100 px/s, which is 5 m/s
    events = [(e["event"], e["zone_name"] or e["line_name"], round(e["time_s"], 3)) for e in found["zone_events"]]
    assert sorted(events) == [
        ("enter", "yard", 0.5),
        ("exit", "yard", 1.5),
        ("in", "first", 0.5),
        ("in", "second", 1.5),
    ]
    event = next(e for e in found["zone_events"] if e["event"] == "exit")
    assert event["dwell_s"] == pytest.approx(1.0)
    assert event["captured_at_utc"] == STARTED + timedelta(seconds=1.5)
    assert (event["x_px"], event["y_px"], event["x_m"], event["y_m"]) == pytest.approx((200, 100, 10, 5))
    assert (event["speed_px_s"], event["speed_m_s"]) == pytest.approx((100, 5))
    assert not event["is_at_track_end"]
    trip = found["line_trips"][0]
    assert (trip["from_line"], trip["to_line"], trip["to_direction"]) == ("first", "second", "in")
    assert (trip["travel_s"], trip["distance_px"], trip["speed_m_s"]) == pytest.approx((1, 100, 5))
    ground = found["ground_tracks"][0]
    assert (ground["mean_speed_m_s"], ground["path_m"]) == pytest.approx((5, 10))
    assert (ground["first_x_m"], ground["last_x_m"], ground["last_y_m"]) == pytest.approx((2.5, 12.5, 5))


def test_who_stands_in_a_zone_queues_and_who_is_there_at_the_ends_is_marked() -> None:
    standing = walk_boxes([150.0] * 25)
    found = rows_of(standing)
    marks = [(e["event"], e["is_at_track_end"], e["dwell_s"]) for e in found["zone_events"]]
    assert marks == [("enter", True, None), ("exit", True, pytest.approx(2.5))]
    seconds = [(s["second_index"], s["max_occupancy"], s["mean_queue"]) for s in found["zone_seconds"]]
    assert seconds == [(0, 1, 1.0), (1, 1, 1.0), (2, 1, 1.0)]
    walking = rows_of(walk_boxes(np.arange(110, 195, 10).tolist()))["zone_seconds"]
    assert [(s["max_occupancy"], s["max_queue"]) for s in walking] == [(1, 0)]


def test_nothing_drawn_and_nobody_there_give_no_rows() -> None:
    assert not any(rows_of(walk_boxes(range(50)), CameraSettings()).values())
    nobody = rows_of(walk_boxes([]))
    assert nobody["zone_events"] == nobody["line_trips"] == nobody["ground_tracks"] == []
    assert [row["max_occupancy"] for row in nobody["zone_seconds"]] == [0]


def test_crossings_of_drawn_scenes_are_counted_exactly() -> None:
    """People cross, turn round, come back and stand on the line, hide each other, and up to a fifth is missed."""
    kinds = (
        CrowdSettings(walker_count=3, duration_s=16),
        CrowdSettings(walker_count=4, duration_s=16, miss_rate=0.2, jitter=0.02),
        CrowdSettings(walker_count=3, duration_s=16, rate_fps=12.5, miss_rate=0.1),
    )
    wrong, seeds = [], range(1000, 1070)
    for drawn in kinds:
        line = np.array([[drawn.width_px / 2, drawn.height_px], [drawn.width_px / 2, 0.0]])
        for seed in seeds:
            crowd, rightwards, leftwards = draw_crossings(seed, drawn)
            rows = tracked(crowd, TrackSettings())
            rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
            margin = CameraSettings().hysteresis * (rows[:, 5] - rows[:, 3])
            sign = crossings(rows[:, 1], anchors(rows[:, 2:], "bottom_centre"), margin, line).sign
            if (int((sign > 0).sum()), int((sign < 0).sum())) != (rightwards, leftwards):
                wrong.append((drawn, seed))
    assert len(wrong) <= 0.01 * len(kinds) * len(seeds), wrong


def test_the_true_boxes_of_a_real_sequence_cross_its_middle_as_people_counted(corpus: Any) -> None:
    truth = np.loadtxt(CORPUS / "ground_truth" / "TUD-Campus" / "gt.txt", delimiter=",")
    truth = truth[np.lexsort((truth[:, 0], truth[:, 1]))]
    xyxy = np.column_stack([truth[:, 2:4] - 1, truth[:, 2:4] - 1 + truth[:, 4:6]])
    line = np.array([[320.0, 480.0], [320.0, 0.0]])
    sign = crossings(truth[:, 1], anchors(xyxy, "bottom_centre"), 0.1 * truth[:, 5], line).sign
    assert ((sign > 0).sum(), (sign < 0).sum()) == (4, 1)


def recording(recording_id: str, start_s: float, camera: str = "gate") -> dict[str, Any]:
    return {
        "recording_id": recording_id,
        "camera": camera,
        "started_at_utc": STARTED + timedelta(seconds=start_s),
        "duration_s_from_content": 10.0,
    }


def test_neighbours_are_of_the_same_camera_and_close_in_time() -> None:
    rows = [
        recording("a", 0),
        recording("b", 10.5),
        recording("c", 20.6),
        recording("x", 10, "yard"),
        recording("d", 99),
    ]
    assert neighbours("b", rows, 1.0) == ("a", "c")
    assert neighbours("a", rows, 1.0) == (None, "b")
    assert neighbours("d", rows, 1.0) == (None, None)
    assert neighbours("b", rows, 0.2) == (None, "c")
    unknown = [{**row, "started_at_utc": None} for row in rows]
    assert neighbours("b", unknown, 1.0) == (None, None)


def test_who_walks_over_the_boundary_is_one_and_who_appears_elsewhere_is_another() -> None:
    way = np.arange(50, 150, 1.0)
    boxes = {"a": walk_boxes(way.tolist())}
    boxes["b"] = pa.concat_tables([
        walk_boxes((way + 100)[:50].tolist(), recording_id="b", track_id=1),
        walk_boxes((way + 500)[:50].tolist(), recording_id="b", track_id=2),
    ])  # fmt: skip
    links = link_rows(recording("a", 0), recording("b", 10.2), boxes, 2.0).to_pylist()
    assert [(link["track_id"], link["previous_track_id"]) for link in links] == [(1, 1)]
    assert links[0]["gap_s"] == pytest.approx(0.3)


def test_a_line_on_the_boundary_is_crossed_once(store: Store) -> None:
    """The object comes to the line in one file and leaves it in the next: only together they show the crossing."""
    from cv_assets.track_links import link_recording

    camera = CAMERA.model_copy(update={"joined_within_s": 2.0})
    settings = Settings(cameras={"gate": camera})
    rows = []
    for name, start_s in (("a", 0.0), ("b", 10.0)):
        row = dict.fromkeys(RECORDINGS.arrow_schema.names) | recording(name, start_s)
        told = {"status": "ok", "source_path": name, "fingerprint": name, "size_bytes": 1, "mtime_utc": STARTED}
        rows.append(row | told | {"frame_count": 100, "width_px": 400, "height_px": 200})
    store.replace(RECORDINGS, ["a", "b"], pa.Table.from_pylist(rows, schema=RECORDINGS.arrow_schema))
    way = np.linspace(51, 149, 200)  # at 100 between the two
    for name, part in (("a", way[:100]), ("b", way[100:])):
        store.replace(TRACK_BOXES, [name], walk_boxes(part.tolist(), recording_id=name))
    for name in ("b", "a"):  # the later file came first
        link_recording(name, store, settings)
    from resources.schema import TRACK_LINKS, ZONE_EVENTS

    assert [(link["recording_id"], link["track_id"]) for link in store.read(TRACK_LINKS).to_pylist()] == [("b", 1)]
    for name in ("a", "b"):
        find_zone_events(name, store, settings)
    events = store.read(ZONE_EVENTS).to_pylist()
    assert [e["event"] for e in events if e["line_name"] == "first"] == ["in"]
