import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame

from resources.errors import RejectedRecordingError
from resources.inference.detection_region import DetectionRegion
from resources.inference.frame_skipping import ChangeDetector, decode_changed_frames
from tests.builders.numbered_videos import MakeVideo, read_number

GREY_IMAGE = np.full((360, 640, 3), 90, np.uint8)
FULL_FRAME = DetectionRegion.from_polygons((), 640, 360)
FULL_NUMBERED_FRAME = DetectionRegion.from_polygons((), 128, 96)


def build_frame(image: np.ndarray) -> VideoFrame:
    """Build a frame of a normalized video."""
    return VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")


def draw_noisy_image(seed: int, sigma: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, GREY_IMAGE.shape)
    return np.clip(GREY_IMAGE + noise, 0, 255).astype(np.uint8)


def draw_object(size_px: int, left_px: int = 300) -> np.ndarray:
    image = draw_noisy_image(99)
    image[100 : 100 + size_px, left_px : left_px + size_px] = 160
    return image


def test_the_first_frame_is_always_changed() -> None:
    assert not ChangeDetector(FULL_FRAME).is_unchanged(build_frame(GREY_IMAGE))


def test_sensor_noise_is_no_change() -> None:
    change_detector = ChangeDetector(FULL_FRAME)
    change_detector.is_unchanged(build_frame(draw_noisy_image(0)))
    assert all(change_detector.is_unchanged(build_frame(draw_noisy_image(seed))) for seed in range(1, 20))


@pytest.mark.parametrize("size_px", [8, 16, 60])
def test_a_small_object_that_appears_is_a_change(size_px: int) -> None:
    change_detector = ChangeDetector(FULL_FRAME)
    change_detector.is_unchanged(build_frame(draw_noisy_image(0)))
    assert not change_detector.is_unchanged(build_frame(draw_object(size_px)))


@pytest.mark.parametrize("size", [(1280, 720), (768, 432), (1918, 1078), (90, 162), (40, 22)])
def test_a_change_in_any_corner_of_a_frame_of_any_size_is_detected(size: tuple[int, int]) -> None:
    grey_image = np.full((size[1], size[0], 3), 90, np.uint8)
    cell_px = max(2, size[0] // 80)
    for rows in (slice(0, cell_px), slice(size[1] - cell_px, None)):
        for columns in (slice(0, cell_px), slice(size[0] - cell_px, None)):
            change_detector = ChangeDetector(DetectionRegion.from_polygons((), *size))
            change_detector.is_unchanged(build_frame(grey_image))
            changed_image = grey_image.copy()
            changed_image[rows, columns] = 200
            assert not change_detector.is_unchanged(build_frame(changed_image))
            assert change_detector.is_unchanged(build_frame(changed_image))


def test_slow_changes_are_compared_with_the_last_changed_frame() -> None:
    change_detector = ChangeDetector(FULL_FRAME)
    is_changed = [not change_detector.is_unchanged(build_frame(GREY_IMAGE + np.uint8(step))) for step in range(30)]
    assert 3 <= sum(is_changed) <= 6


def read_changed_numbers(
    video: Path, frame_indices: Sequence[int], chunk_frame_count: int, region: DetectionRegion = FULL_NUMBERED_FRAME
) -> list[int | None]:
    """Read the numbers of the changed frames; None for an unchanged frame."""
    images = decode_changed_frames(video, frame_indices, Fraction(24), region, chunk_frame_count)
    return [None if image is None else read_number(image) for image in images]


@pytest.mark.parametrize("chunk_frame_count", [7, 25, 60, 100])
def test_chunks_are_independent_of_each_other_and_yielded_in_order(
    chunk_frame_count: int, make_video: MakeVideo
) -> None:
    video, frame_indices = make_video("a.mp4", 100), [*range(1, 100, 2)]
    starts = range(0, len(frame_indices), chunk_frame_count)
    expected: list[int | None] = []
    for start in starts:
        expected += read_changed_numbers(video, frame_indices[start : start + chunk_frame_count], 100)
    numbers = read_changed_numbers(video, frame_indices, chunk_frame_count)
    assert numbers == expected
    assert len(numbers) == len(frame_indices)
    assert {numbers[start] for start in starts} == set(frame_indices[::chunk_frame_count])
    still_corner = DetectionRegion(126, 94, 2, 2)
    corner_numbers = read_changed_numbers(video, frame_indices, chunk_frame_count, still_corner)
    assert [number for number in corner_numbers if number is not None] == frame_indices[::chunk_frame_count]


def test_no_frames_of_later_chunks_follow_where_the_file_ends_early(make_video: MakeVideo) -> None:
    video = make_video("a.mp4", 40)
    assert len(read_changed_numbers(video, [*range(30), *range(60, 90), *range(30, 40)], 30)) == 30


def test_closing_the_generator_early_ends_all_threads(make_video: MakeVideo) -> None:
    video, thread_count = make_video("a.mp4", 200), threading.active_count()
    images = decode_changed_frames(video, range(200), Fraction(24), FULL_NUMBERED_FRAME, 20)
    next(images)
    assert threading.active_count() > thread_count
    images.close()
    assert threading.active_count() == thread_count


def test_a_decoding_error_is_raised_where_the_frames_are_consumed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(RejectedRecordingError, match="not a video"):
        list(decode_changed_frames(tmp_path / "a.mp4", range(50), Fraction(24), FULL_FRAME, 20))


def test_another_colour_of_the_same_luma_is_a_change() -> None:
    change_detector = ChangeDetector(FULL_FRAME)
    change_detector.is_unchanged(build_frame(draw_noisy_image(0)))
    image = draw_noisy_image(1)
    image[100:160, 300:360] = (64, 64, 138)  # BGR with the luma of the grey image
    assert not change_detector.is_unchanged(build_frame(image))


def test_only_changes_inside_the_region_count() -> None:
    change_detector = ChangeDetector(DetectionRegion(321, 51, 201, 151))
    change_detector.is_unchanged(build_frame(draw_noisy_image(0)))
    assert change_detector.is_unchanged(build_frame(draw_object(60, left_px=200)))
    assert not change_detector.is_unchanged(build_frame(draw_object(4, left_px=518)))
