"""The homography from the frame to the ground plane."""

import numpy as np
import pytest

from resources.geometry.homography import fit_homography, project_to_ground

TRUTH = np.array([[0.02, 0.003, -3], [0.001, 0.06, -8], [0.0001, 0.002, 1.0]])
POINTS = np.array([[100, 400], [500, 420], [560, 200], [80, 180], [300, 300], [200, 350]], float)
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100]]


@pytest.mark.parametrize("point_count", [4, 6])
@pytest.mark.parametrize("offset_m", [0.0, 5_421_337.25], ids=["local metres", "national grid"])
@pytest.mark.parametrize("scale", [1.0, 1 / 640], ids=["px", "relative"])
def test_a_homography_is_fitted_to_four_or_more_points(point_count: int, offset_m: float, scale: float) -> None:
    metres = project_to_ground(TRUTH, POINTS) + offset_m
    homography = fit_homography(POINTS[:point_count] * scale, metres[:point_count])
    assert project_to_ground(homography, POINTS * scale) == pytest.approx(metres, rel=0, abs=1e-4)


def test_points_beyond_the_horizon_have_no_position() -> None:
    above_horizon = np.array([[300.0, -5000.0]])
    homography = fit_homography(POINTS, project_to_ground(TRUTH, POINTS))
    assert np.isnan(project_to_ground(homography, above_horizon)).all()


def test_inexact_points_are_fitted_by_least_squares() -> None:
    noise_px = np.random.default_rng(5).normal(0, 2, (10 * len(POINTS), 2))
    metres = project_to_ground(TRUTH, POINTS)
    homography = fit_homography(np.tile(POINTS, (10, 1)) + noise_px, np.tile(metres, (10, 1)))
    assert project_to_ground(homography, POINTS) == pytest.approx(metres, rel=0, abs=0.05)


@pytest.mark.parametrize(
    ("points", "metres", "sentence"),
    [
        pytest.param([[0, 0], [1, 1], [2, 2], [3, 3]], SQUARE, "many of the points lie on one line", id="line"),
        pytest.param([[0, 0], [1, 1], [2, 2], [3, 0]], SQUARE, "many of the points lie on one line", id="three"),
        pytest.param(SQUARE, [[0, 0], [1, 1], [2, 2], [3, 0]], "many of the metres lie on one line", id="metres"),
        pytest.param([[5, 5]] * 4, SQUARE, "many of the points lie on one line", id="one point"),
        pytest.param([[0, 0], [0, 0], [2, 2], [3, 0]], SQUARE, "many of the points lie on one line", id="twice"),
        pytest.param(
            [[0, 0], [1, 1], [2, 2], [3, 3], [0, 9]],
            [*SQUARE, [5, 7]],
            "many of the points lie on one line",
            id="all but one of five",
        ),
        pytest.param(SQUARE, [[0, 0], [1, 0], [0, 1], [1, 1]], "in the order of the points", id="order"),
    ],
)
def test_points_without_a_homography_are_refused(
    points: list[list[float]], metres: list[list[float]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_homography(np.array(points, float), np.array(metres, float))
