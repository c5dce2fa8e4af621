import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame

from resources.errors import RejectedRecordingError
from resources.inference.static import Unchanged, changed_pictures
from resources.region import Region
from tests.conftest import MakeVideo, number_in

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


def changes(video: Path, wanted: Sequence[int], part_frames: int, region: Region) -> list[int | None]:
    """The numbers drawn in the pictures that are given."""
    given = changed_pictures(video, wanted, Fraction(24), region, part_frames)
    return [None if picture is None else number_in(picture) for picture in given]


@pytest.mark.parametrize("part_frames", [7, 25, 60, 100])
def test_parts_are_looked_at_each_by_itself_and_given_in_order(part_frames: int, make_video: MakeVideo) -> None:
    video, wanted = make_video("a.mp4", 100), [*range(1, 100, 2)]
    expected: list[int | None] = []
    for first in range(0, len(wanted), part_frames):
        expected += changes(video, wanted[first : first + part_frames], 100, Region.of((), 128, 96))
    found = changes(video, wanted, part_frames, Region.of((), 128, 96))
    assert found == expected
    assert len(found) == len(wanted)
    assert {found[first] for first in range(0, len(wanted), part_frames)} == set(wanted[::part_frames])
    corner = changes(video, wanted, part_frames, Region(126, 94, 2, 2))  # where nothing moves
    assert [n for n in corner if n is not None] == wanted[::part_frames]


def test_what_ends_early_gives_no_frames_of_later_parts(make_video: MakeVideo) -> None:
    video = make_video("a.mp4", 40)
    assert len(changes(video, [*range(30), *range(60, 90), *range(30, 40)], 30, Region.of((), 128, 96))) == 30


def test_one_who_stops_half_way_is_not_kept_waiting_and_no_thread_stays(make_video: MakeVideo) -> None:
    video, before = make_video("a.mp4", 200), threading.active_count()
    source = changed_pictures(video, range(200), Fraction(24), Region.of((), 128, 96), 20)
    next(source)
    assert threading.active_count() > before
    source.close()
    assert threading.active_count() == before


def test_a_file_that_cannot_be_decoded_is_told_where_its_frames_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(RejectedRecordingError, match="not a video"):
        list(changed_pictures(tmp_path / "a.mp4", range(50), Fraction(24), WHOLE, 20))


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
