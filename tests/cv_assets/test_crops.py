"""Selection and clipping of crops."""

import numpy as np
import pytest

from cv_assets.crops import crop_image, select_crops
from resources.config.tracking_config import CropSettings, TrackSettings
from resources.schema.track_tables import TRACK_BOXES
from tests.builders.track_rows import moving_detections, track_associated


def test_crops_are_spread_over_the_track_and_ranked() -> None:
    boxes = track_associated(moving_detections(range(30)), 30, TrackSettings(min_duration_s=0))[1]
    assert boxes.schema.names == TRACK_BOXES.arrow_schema.names
    crops = select_crops(boxes, 640, 360, CropSettings(per_track=3, min_side_px=5))
    # The best box of each third of the track; that of frame 0 touches the edge of the frame.
    assert [frame_index // 10 for frame_index in crops["frame_index"].to_pylist()] == [0, 1, 2]
    assert 0 not in crops["frame_index"].to_pylist()
    assert sorted(crops["rank"].to_pylist()) == [1, 2, 3]
    assert select_crops(boxes, 640, 360, CropSettings(min_side_px=11)).num_rows == 0


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        pytest.param((10, 5, 30, 45), (44, 22, 3), id="inside"),
        pytest.param((-5, -5, 5, 5), (6, 6, 3), id="over the top left corner"),
        pytest.param((96, 46, 104, 54), (5, 5, 3), id="over the bottom right corner"),
        pytest.param((50, 10, 50, 10), (1, 1, 3), id="without area"),
    ],
)
def test_crops_are_padded_and_clipped(box: tuple[int, int, int, int], shape: tuple[int, int, int]) -> None:
    assert crop_image(np.zeros((50, 100, 3), np.uint8), np.array(box, float), 0.05).shape == shape
