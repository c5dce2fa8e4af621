"""The homography from the frame to the ground plane."""

import numpy as np
import pytest

from resources.geometry.homography import fit_homography, project_to_ground


def test_a_homography_is_fitted_to_four_or_more_points() -> None:
    truth = np.array([[0.02, 0.003, -3], [0.001, 0.06, -8], [0.0001, 0.002, 1.0]])
    points = np.array([[100, 400], [500, 420], [560, 200], [80, 180], [300, 300], [200, 350]], float)
    metres = project_to_ground(truth, points)
    for count in (4, 6):
        assert project_to_ground(fit_homography(points[:count], metres[:count]), points) == pytest.approx(metres)
    above_horizon = np.array([[300.0, -5000.0]])
    assert np.isnan(project_to_ground(fit_homography(points, metres), above_horizon)).all()
