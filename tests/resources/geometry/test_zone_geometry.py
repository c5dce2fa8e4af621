"""Line crossings and zone transitions: of single objects with known answers, of drawn crowds and of real people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from demo.crowd import CrowdSettings, simulate_crossings
from resources.config.camera_config import CameraSettings
from resources.config.tracking_config import TrackSettings
from resources.geometry.zone_geometry import (
    anchor_points,
    find_line_crossings,
    find_zone_transitions,
    polygon_contains,
    velocities,
)
from tests.builders.track_rows import track_crowd

VERTICAL_LINE = np.array([[100.0, 100.0], [100.0, 0.0]])
SQUARE = np.array([[100, 0], [200, 0], [200, 100], [100, 100]], float)


def crossings_of(
    x_px: Sequence[float], line: np.ndarray = VERTICAL_LINE, margin_px: float = 10.0
) -> list[tuple[int, float]]:
    """Crossings of an object at height 50 px, as (sign, position among its boxes).

    Args:
        x_px: Positions of the object in time order.
        line: The line, shape (k, 2).
        margin_px: Distance at which the object is clear of the line.
    """
    points = np.column_stack([x_px, np.full(len(x_px), 50.0)])
    crossings = find_line_crossings(np.ones(len(x_px)), points, np.full(len(x_px), margin_px), line)
    return [
        (int(sign), round(float(row + fraction), 3))
        for sign, row, fraction in zip(crossings.sign, crossings.row, crossings.fraction, strict=True)
    ]


@pytest.mark.parametrize(
    ("x_px", "expected"),
    [
        pytest.param([60, 80, 120, 140], [(1, 1.5)], id="left to right"),
        pytest.param([140, 120, 80, 60], [(-1, 1.5)], id="right to left"),
        pytest.param([60, 95, 105, 95, 105, 140], [(1, 3.5)], id="jitter on the line counts once, at its end"),
        pytest.param([60, 95, 105, 95, 60], [], id="to the line and back"),
        pytest.param([60, 120, 60], [(1, 0.667), (-1, 1.333)], id="across and back"),
        pytest.param([60, 100, 140], [(1, 1.0)], id="a box exactly on the line"),
        pytest.param([103, 97, 60], [(-1, 0.5)], id="first box just beyond the line"),
        pytest.param([102, 97, 60], [], id="first box on the line"),
        pytest.param([60, 95, 102, 103], [(1, 1.714)], id="last box just beyond the line"),
        pytest.param([60], [], id="one box"),
        pytest.param([], [], id="no boxes"),
    ],
)
def test_a_crossing_counts_once_the_object_is_clear_of_the_line(
    x_px: list[float], expected: list[tuple[int, float]]
) -> None:
    assert crossings_of(x_px) == expected


def test_reversing_the_line_or_the_time_swaps_in_and_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x_px = 100 + np.cumsum(rng.normal(0, 15, 60))
        signs = [sign for sign, _ in crossings_of(x_px.tolist())]
        assert [sign for sign, _ in crossings_of(x_px.tolist(), VERTICAL_LINE[::-1])] == [-sign for sign in signs]
        assert [sign for sign, _ in crossings_of(x_px[::-1].tolist())] == [-sign for sign in signs[::-1]]


def test_a_path_around_the_end_of_a_line_does_not_cross_it() -> None:
    path = np.array([[60, 50], [60, 150], [140, 150], [140, 50]], float)
    assert len(find_line_crossings(np.ones(4), path, np.full(4, 10.0), VERTICAL_LINE).row) == 0


def test_a_line_of_several_segments_is_crossed_once_at_its_corners() -> None:
    collinear = np.array([[100, 100], [100, 50], [100, 0]], float)
    assert crossings_of([60, 140], collinear) == [(1, 0.5)]  # exactly through the end point of both segments
    bent = np.array([[50, 100], [100, 50], [50, 0]], float)
    assert crossings_of([60, 140], bent) == [(1, 0.5)]


def test_boxes_of_different_tracks_make_no_crossing() -> None:
    points = np.array([[60, 50], [80, 50], [120, 50], [140, 50]], float)
    assert len(find_line_crossings(np.array([1, 1, 2, 2]), points, np.full(4, 10.0), VERTICAL_LINE).row) == 0


@pytest.mark.parametrize(
    ("x_px", "signs", "inside"),
    [
        pytest.param([60, 150, 250], [1, -1], "010", id="through"),
        pytest.param([60, 105, 95, 105, 95, 60], [], "000000", id="jitter at the border"),
        pytest.param([150, 250], [-1], "10", id="starts inside"),
        pytest.param([60, 150, 160], [1], "011", id="ends inside"),
        pytest.param([105, 150, 105], [], "111", id="always inside"),
        pytest.param([101, 102, 101], [], "111", id="never clear of the border"),
        pytest.param([60, 80], [], "00", id="always outside"),
    ],
)
def test_a_zone_transition_counts_once_the_object_is_clear_of_the_border(
    x_px: list[float], signs: list[int], inside: str
) -> None:
    points = np.column_stack([x_px, np.full(len(x_px), 50.0)])
    changes, is_inside = find_zone_transitions(np.ones(len(x_px)), points, np.full(len(x_px), 20.0), SQUARE)
    assert changes.sign.tolist() == signs
    assert "".join(str(int(value)) for value in is_inside) == inside


def test_a_concave_polygon_does_not_contain_its_notch() -> None:
    hook = np.array([[0, 0], [30, 0], [30, 30], [20, 30], [20, 10], [10, 10], [10, 30], [0, 30]], float)
    points = np.array([[5, 20], [15, 20], [25, 20], [15, 5], [40, 5]], float)
    assert polygon_contains(hook, points).tolist() == [True, False, True, True, False]


def test_the_speed_of_a_track_is_its_own_also_with_times_before_the_recording() -> None:
    time_s = np.arange(-300, 10, 0.5)  # seen for five minutes in the preceding recording
    track_id, is_first = np.repeat([1, 2], len(time_s)), np.repeat([True, False], len(time_s))
    x_px = np.concatenate([40 * time_s, np.zeros(len(time_s))])
    velocity = velocities(track_id, np.tile(time_s, 2), np.column_stack([x_px, np.zeros(len(x_px))]), 1.0)
    assert velocity[is_first, 0] == pytest.approx(40)
    assert not velocity[~is_first].any()


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(1000, 1010), marks=pytest.mark.slow), pytest.param(range(1000, 1070), marks=pytest.mark.long)],
)
def test_crossings_of_drawn_crowds_are_counted_exactly(seeds: range) -> None:
    """People cross, turn, come back, stand on the line and occlude each other; up to a fifth of the boxes is missed."""
    settings_of_crowds = (
        CrowdSettings(person_count=3, duration_s=16),
        CrowdSettings(person_count=4, duration_s=16, miss_rate=0.2, jitter=0.02),
        CrowdSettings(person_count=3, duration_s=16, rate_fps=12.5, miss_rate=0.1),
    )
    wrong = []
    for settings in settings_of_crowds:
        line = np.array([[settings.width_px / 2, settings.height_px], [settings.width_px / 2, 0.0]])
        for seed in seeds:
            crowd, in_count, out_count = simulate_crossings(seed, settings)
            rows = track_crowd(crowd, TrackSettings())
            rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
            margin_px = CameraSettings().hysteresis * (rows[:, 5] - rows[:, 3])
            points = anchor_points(rows[:, 2:], "bottom_centre")
            sign = find_line_crossings(rows[:, 1], points, margin_px, line).sign
            if (int((sign > 0).sum()), int((sign < 0).sum())) != (in_count, out_count):
                wrong.append((settings, seed))
    assert len(wrong) <= 0.01 * len(settings_of_crowds) * len(seeds), wrong


def test_crossings_in_annotated_boxes_of_a_real_video_match_a_manual_count(corpus: Path) -> None:
    truth = np.loadtxt(corpus / "ground_truth" / "TUD-Campus" / "gt.txt", delimiter=",")
    truth = truth[np.lexsort((truth[:, 0], truth[:, 1]))]
    xyxy = np.column_stack([truth[:, 2:4] - 1, truth[:, 2:4] - 1 + truth[:, 4:6]])
    line = np.array([[320.0, 480.0], [320.0, 0.0]])
    sign = find_line_crossings(truth[:, 1], anchor_points(xyxy, "bottom_centre"), 0.1 * truth[:, 5], line).sign
    assert ((sign > 0).sum(), (sign < 0).sum()) == (4, 1)
