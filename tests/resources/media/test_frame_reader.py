from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.media import frame_reader
from resources.media.frame_reader import decode_frames, read_distant_images, read_images, sample_images
from tests.builders.numbered_videos import MakeVideo, read_number

RATE_FPS = Fraction(24)


@pytest.mark.parametrize("size_px", [(128, 96), (130, 98), (646, 362)])
def test_images_equal_those_of_a_new_conversion_context_per_frame(
    size_px: tuple[int, int], make_video: MakeVideo
) -> None:
    video = make_video("a.mp4", 40, size=size_px)
    with av.open(str(video)) as container:
        expected = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    every_image = list(read_images(video, None, RATE_FPS))
    assert all(np.array_equal(*images) for images in zip(expected, every_image, strict=True))
    later_images = list(read_images(video, [7, 8, 30], RATE_FPS))
    assert all(np.array_equal(expected[k], image) for k, image in zip([7, 8, 30], later_images, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "size_px"), [(2, (640, 360)), (2, (322, 180)), (3, (636, 360)), (3, (318, 180))])
def test_downscaled_images_equal_linear_interpolation_of_full_size_ones(
    factor: int, size_px: tuple[int, int], tmp_path: Path
) -> None:
    video = tmp_path / "a.mp4"
    write_video(demo_scene(3, 8, {"car": 2, "bicycle": 1}, width_px=size_px[0], height_px=size_px[1]), video)
    frame_indices, rate_fps = [0, 70, 150], Fraction(25)
    downscaled_size_px = size_px[0] // factor, size_px[1] // factor
    downscaled_images = read_images(video, frame_indices, rate_fps, downscale_factor=factor)
    for downscaled, full_size in zip(downscaled_images, read_images(video, frame_indices, rate_fps), strict=True):
        difference = np.abs(downscaled.astype(int) - cv2.resize(full_size, downscaled_size_px))
        # swscale truncates the fraction of each colour value.
        assert difference.mean() < 1.5
        assert np.percentile(difference, 99.9) <= 4


@pytest.mark.parametrize(
    ("count", "keyframe_interval", "expected"),
    [
        (4, 60, [0, 60, 120, 180]),
        (12, 60, [0, 4, 8, 60, 64, 68, 120, 124, 128, 180, 184, 188]),
        (12, 7, [0, 21, 42, 63, 84, 105, 126, 147, 168, 189, 217, 238]),
        (6, 1000, [0, 4, 8, 12, 16, 20]),
        (240, 1000, [*range(240)]),
    ],
)
def test_sampled_frames_follow_keyframes_of_the_whole_video(
    count: int, keyframe_interval: int, expected: list[int], make_video: MakeVideo
) -> None:
    video = make_video("a.mp4", 240, options={"g": str(keyframe_interval), "sc_threshold": "0"})
    assert [read_number(image) for image in sample_images(video, count, 240, RATE_FPS)] == expected


def test_distant_frames_are_read_with_seeks_and_are_the_same(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video("a.mp4", 300, options={"g": "10", "sc_threshold": "0"})
    frame_indices = [3, 4, 40, 47, 48, 120, 299]
    groups = []

    def record_group(path: Path, group: Sequence[int], rate_fps: Fraction) -> Iterator[np.ndarray]:
        groups.append([*group])
        yield from read_images(path, group, rate_fps)

    monkeypatch.setattr(frame_reader, "read_images", record_group)
    assert [read_number(image) for image in read_distant_images(video, frame_indices, RATE_FPS)] == frame_indices
    assert groups == [[3, 4], [40, 47, 48], [120], [299]]
    assert [read_number(image) for image in read_distant_images(video, [250, 310, 400], RATE_FPS)] == [250]
    assert list(read_distant_images(video, [], RATE_FPS)) == []


@pytest.mark.parametrize("x264_params", ["open-gop=1:keyint=40:scenecut=0:bframes=3", "intra-refresh=1:keyint=50"])
def test_seeking_yields_every_frame_with_open_gops_and_intra_refresh(x264_params: str, make_video: MakeVideo) -> None:
    """In these streams a decoder that starts at a keyframe omits some of the frames after it."""
    video = make_video("a.mp4", 240, options={"x264-params": x264_params})
    every_image = list(read_images(video, None, RATE_FPS))
    assert len(every_image) == 240
    for start in range(1, 240, 6):
        images = list(read_images(video, [*range(start, min(start + 8, 240))], RATE_FPS))
        assert len(images) == min(8, 240 - start)
        assert all(np.array_equal(*pair) for pair in zip(images, every_image[start:], strict=False))


def test_no_frame_is_decoded_for_no_indices(tmp_path: Path) -> None:
    assert list(decode_frames(tmp_path / "missing.mp4", [], RATE_FPS)) == []


def test_frames_after_the_end_are_omitted(make_video: MakeVideo) -> None:
    video = make_video("a.mp4", 40)
    assert [read_number(image) for image in read_images(video, [38, 39, 40, 41], RATE_FPS)] == [38, 39]
