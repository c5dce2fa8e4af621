import numpy as np
import pytest

from resources.inference.static import Unchanged

STILL = np.full((360, 640, 3), 90, np.uint8)


def noisy(seed: int, sigma: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, STILL.shape)
    return np.clip(STILL + noise, 0, 255).astype(np.uint8)


def with_object(size_px: int) -> np.ndarray:
    picture = noisy(99)
    picture[100 : 100 + size_px, 300 : 300 + size_px] = 160
    return picture


def test_the_first_picture_is_always_looked_at() -> None:
    assert not Unchanged(None).since_last(STILL)


def test_a_cameras_noise_is_no_change() -> None:
    unchanged = Unchanged(None)
    unchanged.since_last(noisy(0))
    assert all(unchanged.since_last(noisy(seed)) for seed in range(1, 20))


@pytest.mark.parametrize("size_px", [8, 16, 60])
def test_something_small_that_appears_is_a_change(size_px: int) -> None:
    unchanged = Unchanged(None)
    unchanged.since_last(noisy(0))
    assert not unchanged.since_last(with_object(size_px))


def test_what_changes_slowly_is_compared_with_what_was_looked_at_last() -> None:
    unchanged = Unchanged(None)
    looked = [not unchanged.since_last(STILL + np.uint8(step)) for step in range(30)]
    assert 3 <= sum(looked) <= 6


def test_every_so_many_pictures_one_is_looked_at_whatever_it_looks_like() -> None:
    unchanged = Unchanged(10)
    assert [index for index in range(30) if not unchanged.since_last(STILL)] == [0, 10, 20]


def test_another_colour_of_the_same_brightness_is_a_change() -> None:
    unchanged = Unchanged(None)
    unchanged.since_last(noisy(0))
    picture = noisy(1)
    picture[100:160, 300:360] = (64, 64, 138)  # BGR of the grey's own brightness
    assert not unchanged.since_last(picture)
