import numpy as np
import pytest
from av.video.frame import VideoFrame

from resources.inference.static import Unchanged
from resources.region import Region

STILL = np.full((360, 640, 3), 90, np.uint8)
WHOLE = Region.of((), 640, 360)


def shown(picture: np.ndarray) -> VideoFrame:
    """A frame as a normalized video has it."""
    return VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p")


def noisy(seed: int, sigma: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, STILL.shape)
    return np.clip(STILL + noise, 0, 255).astype(np.uint8)


def with_object(size_px: int, left_px: int = 300) -> np.ndarray:
    picture = noisy(99)
    picture[100 : 100 + size_px, left_px : left_px + size_px] = 160
    return picture


def test_the_first_picture_is_always_looked_at() -> None:
    assert not Unchanged(WHOLE).since_last(shown(STILL))


def test_a_cameras_noise_is_no_change() -> None:
    unchanged = Unchanged(WHOLE)
    unchanged.since_last(shown(noisy(0)))
    assert all(unchanged.since_last(shown(noisy(seed))) for seed in range(1, 20))


@pytest.mark.parametrize("size_px", [8, 16, 60])
def test_something_small_that_appears_is_a_change(size_px: int) -> None:
    unchanged = Unchanged(WHOLE)
    unchanged.since_last(shown(noisy(0)))
    assert not unchanged.since_last(shown(with_object(size_px)))


@pytest.mark.parametrize("size", [(1280, 720), (768, 432), (1918, 1078), (90, 162), (40, 22)])
def test_every_corner_of_a_picture_of_any_size_is_watched(size: tuple[int, int]) -> None:
    still = np.full((size[1], size[0], 3), 90, np.uint8)
    cell_px = max(2, size[0] // 80)
    for rows in (slice(0, cell_px), slice(size[1] - cell_px, None)):
        for columns in (slice(0, cell_px), slice(size[0] - cell_px, None)):
            unchanged = Unchanged(Region.of((), *size))
            unchanged.since_last(shown(still))
            picture = still.copy()
            picture[rows, columns] = 200
            assert not unchanged.since_last(shown(picture))
            assert unchanged.since_last(shown(picture))


def test_what_changes_slowly_is_compared_with_what_was_looked_at_last() -> None:
    unchanged = Unchanged(WHOLE)
    looked = [not unchanged.since_last(shown(STILL + np.uint8(step))) for step in range(30)]
    assert 3 <= sum(looked) <= 6


def test_every_so_many_pictures_one_is_looked_at_whatever_it_looks_like() -> None:
    unchanged = Unchanged(WHOLE, 10)
    assert [index for index in range(30) if not unchanged.since_last(shown(STILL))] == [0, 10, 20]


def test_another_colour_of_the_same_brightness_is_a_change() -> None:
    unchanged = Unchanged(WHOLE)
    unchanged.since_last(shown(noisy(0)))
    picture = noisy(1)
    picture[100:160, 300:360] = (64, 64, 138)  # BGR of the grey's own brightness
    assert not unchanged.since_last(shown(picture))


def test_only_a_change_within_the_region_counts() -> None:
    region = Region(321, 51, 201, 151)
    unchanged = Unchanged(region)
    unchanged.since_last(shown(noisy(0)))
    assert unchanged.since_last(shown(with_object(60, left_px=200)))
    assert not unchanged.since_last(shown(with_object(4, left_px=518)))
