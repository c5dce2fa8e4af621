from fractions import Fraction

import av
import numpy as np
import pytest

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


def test_a_sample_is_spread_over_the_video(make_video: MakeVideo) -> None:
    video = make_video("a.mp4", 240)
    few, all_over = sample(video, 4, 240, Fraction(24)), sample(video, 12, 240, Fraction(24))
    assert [number_in(picture) for picture in few] == [1, 79, 159, 239]
    assert [number_in(picture) for picture in all_over] == np.linspace(0, 239, 12).astype(int).tolist()
