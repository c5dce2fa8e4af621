"""The position of a moving camera, measured in drawn pictures, and counts at a line on the ground."""

from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from benchmarks.moving_camera import is_counted_exactly, measure_positions
from cv_assets.normalized_video import frame_rows
from demo.crowd import simulate_crossings
from demo.moving_camera import Movement, draw_pictures
from resources.config.media_config import VideoSettings
from resources.media.camera_position import CameraPosition
from resources.media.normalize import normalize
from tests.builders.video_files import write_images_as_video


@pytest.mark.slow
@pytest.mark.parametrize("movement", get_args(Movement))
def test_the_position_of_a_moving_camera_is_measured_and_its_line_follows_the_ground(movement: Movement) -> None:
    camera_px, measured_px, _ = measure_positions(2000, movement)
    assert np.abs(camera_px).max() > 20
    assert np.abs(measured_px - camera_px).max() < 5
    assert is_counted_exactly(2000, camera_px, measured_px)
    if movement == "pan":
        assert not is_counted_exactly(2000, camera_px, measured_px, fixed_to="frame")


def test_people_in_front_of_a_camera_that_stands_still_do_not_move_it() -> None:
    crowd = simulate_crossings(3)[0]
    position = CameraPosition()
    pictures = draw_pictures(3, crowd, np.zeros((60, 2)))
    assert {position.add(picture[::2, ::2].copy()) for picture in pictures} == {(0.0, 0.0)}


def test_the_camera_of_a_real_video_stands_still(corpus: Path) -> None:
    position = CameraPosition()
    with av.open(str(corpus / "ground_truth" / "TUD-Campus" / "TUD-Campus.mp4")) as container:
        pictures = [frame.to_ndarray(format="gray")[::2, ::2].copy() for frame in container.decode(video=0)]
    assert {position.add(picture) for picture in pictures} == {(0.0, 0.0)}


def test_positions_are_stored_in_pixels_of_the_normalized_video(tmp_path: Path) -> None:
    crowd = simulate_crossings(1)[0]
    camera_px = np.column_stack([np.linspace(0, 76, 20), np.linspace(0, -38, 20)])
    pictures = [np.repeat(picture[:, :, None], 3, axis=2) for picture in draw_pictures(0, crowd, camera_px)]
    write_images_as_video(tmp_path / "a.mkv", pictures)
    frames = frame_rows("r", normalize(tmp_path / "a.mkv", tmp_path / "out.mp4", VideoSettings()))
    # The pictures are half as large as the frame of the crowd.
    assert frames["camera_x_px"].to_numpy() == pytest.approx(camera_px[:, 0] / 2, abs=1.5)
    assert frames["camera_y_px"].to_numpy() == pytest.approx(camera_px[:, 1] / 2, abs=1.5)


def test_a_picture_of_another_size_starts_again_from_the_last_position() -> None:
    random, camera = np.random.default_rng(0), CameraPosition()
    large = random.integers(0, 255, (180, 320), np.uint8)
    assert camera.add(large) == camera.add(large) == (0, 0)
    for _ in range(3):  # none of them resembles another
        assert camera.add(random.integers(0, 255, (136, 240), np.uint8)) == (0, 0)
