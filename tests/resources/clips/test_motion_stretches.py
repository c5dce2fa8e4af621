"""Motion of drawn measures: what rises clearly above the calm quarter is found, noise and pulses are not."""

import av
import numpy as np
import pytest

from resources.clips.motion_stretches import motion_stretches
from resources.media.frame_measures import FrameMeasures

RATE_FPS = 10.0


def calm(frame_count: int, level: float = 0.4) -> np.ndarray:
    """Noise of a camera, with the pulse of a keyframe every two seconds."""
    motion = np.random.default_rng(0).normal(level, 0.03, frame_count)
    motion[::20] += 2
    return motion.clip(0)


@pytest.mark.parametrize("level", [0.0, 0.4, 5.0])
def test_noise_and_keyframes_are_no_motion(level: float) -> None:
    assert motion_stretches(calm(3000, level), RATE_FPS) == []


@pytest.mark.parametrize("level", [0.0, 0.4, 2.0])
def test_what_passes_is_found_where_it_passes(level: float) -> None:
    motion = calm(3000, level)
    motion[1000:1050] += 1.0
    motion[2000:2003] += 1.0  # shorter than half a second
    ((first, last),) = motion_stretches(motion, RATE_FPS)
    assert [first, last] == pytest.approx([1000, 1049], abs=3)


def test_a_recording_of_one_frame_has_no_motion() -> None:
    assert motion_stretches(np.zeros(1), RATE_FPS) == []
    assert motion_stretches(np.zeros(0), RATE_FPS) == []


def test_an_object_that_no_model_knows_is_found_by_the_measures_of_frames() -> None:
    random, measures = np.random.default_rng(0), FrameMeasures()
    for frame_index in range(300):
        luma = random.normal(100, 2, (180, 320))
        if 150 <= frame_index < 190:
            left = 6 * (frame_index - 150)
            luma[90:120, left : left + 30] += 80
        planes = np.vstack([luma, np.full((90, 320), 128)]).astype(np.uint8)
        measures.add(av.VideoFrame.from_ndarray(planes, format="yuv420p"))
    ((first, last),) = motion_stretches(np.array(measures.motion), RATE_FPS)
    assert [first, last] == pytest.approx([150, 190], abs=3)
