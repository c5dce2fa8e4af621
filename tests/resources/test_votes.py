import numpy as np
import pytest

from resources.votes import is_decided


@pytest.mark.parametrize(
    ("votes", "observations", "expected"),
    [(3, 3, True), (2, 2, False), (3, 5, True), (59, 100, False), (60, 100, True), (0, 0, False)],
)
def test_three_observations_of_which_60_percent_agree_decide(votes: int, observations: int, expected: bool) -> None:
    assert is_decided(np.array([votes]), np.array([observations])).tolist() == [expected]
