from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from demo.scenes import demo_scene, write_video
from resources.footage import pictures, sample
from resources.media.reading import read_frames
from tests.conftest import MakeVideo, number_in


@pytest.mark.parametrize("size", [(128, 96), (130, 98), (646, 362)])
def test_pictures_are_those_that_each_frame_makes_by_itself(size: tuple[int, int], make_video: MakeVideo) -> None:
    video = make_video("a.mp4", 40, size=size)
    with av.open(str(video)) as container:
        alone = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    whole = [picture.copy() for _, picture in read_frames(video)]
    assert all(np.array_equal(one, other) for one, other in zip(alone, whole, strict=True))
    later = list(pictures(video, [7, 8, 30], Fraction(24)))
    assert all(np.array_equal(alone[index], found) for index, found in zip([7, 8, 30], later, strict=True))


@pytest.mark.parametrize(("times", "size"), [(2, (640, 360)), (2, (322, 180)), (3, (636, 360)), (3, (318, 180))])
def test_shrunk_pictures_are_those_that_interpolation_makes_of_whole_ones(
    times: int, size: tuple[int, int], tmp_path: Path
) -> None:
    video = tmp_path / "a.mp4"
    write_video(demo_scene(3, 8, {"car": 2, "bicycle": 1}, width_px=size[0], height_px=size[1]), video)
    wanted, rate, shown_px = [0, 70, 150], Fraction(25), (size[0] // times, size[1] // times)
    for shrunk, whole in zip(
        pictures(video, wanted, rate, shrunk_by=times), pictures(video, wanted, rate), strict=True
    ):
        difference = np.abs(shrunk.astype(int) - cv2.resize(whole, shown_px))
        # swscale drops what lies behind the point of each colour.
        assert difference.mean() < 1.5
        assert np.percentile(difference, 99.9) <= 4


@pytest.mark.parametrize(
    ("count", "keyframe_every", "expected"),
    [
        (4, 60, [0, 60, 120, 180]),
        (12, 60, [0, 4, 8, 60, 64, 68, 120, 124, 128, 180, 184, 188]),
        (12, 7, [0, 21, 42, 63, 84, 105, 126, 147, 168, 189, 217, 238]),
        (6, 1000, [0, 4, 8, 12, 16, 20]),
        (240, 1000, [*range(240)]),
    ],
)
def test_a_sample_is_of_frames_soon_after_keyframes_all_over_the_video(
    count: int, keyframe_every: int, expected: list[int], make_video: MakeVideo
) -> None:
    video = make_video("a.mp4", 240, options={"g": str(keyframe_every), "sc_threshold": "0"})
    assert [number_in(picture) for picture in sample(video, count, 240, Fraction(24))] == expected


@pytest.mark.parametrize("structure", ["open-gop=1:keyint=40:scenecut=0:bframes=3", "intra-refresh=1:keyint=50"])
def test_frames_are_found_from_anywhere_where_a_decoder_cannot_begin_at_each_keyframe(
    structure: str, make_video: MakeVideo
) -> None:
    video = make_video("a.mp4", 240, options={"x264-params": structure})
    whole = [picture.copy() for _, picture in read_frames(video)]
    assert len(whole) == 240
    for first in range(1, 240, 6):
        found = list(pictures(video, [*range(first, min(first + 8, 240))], Fraction(24)))
        assert len(found) == min(8, 240 - first)
        assert all(np.array_equal(one, other) for one, other in zip(found, whole[first:], strict=False))
