"""Selection and clipping of crops."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.crop_selection import BestCrops, crop_image, measure_sharpness, rank_crops, select_candidates
from resources.config.tracking_config import CropSettings, TrackSettings
from resources.schema.track_tables import TRACK_BOXES
from tests.builders.track_rows import moving_detections, track_associated


def box_rows(*boxes: tuple[int, int, tuple[float, float, float, float]]) -> pa.Table:
    """Rows of track_boxes from (track, frame, corners)."""
    rows = [
        {
            **{"recording_id": "a", "track_id": track_id, "frame_index": frame_index, "time_s": frame_index / 10},
            **{"detection_index": 0, "is_interpolated": False, "class_id": 0, "class_name": "person"},
            **dict(zip(("x_min_px", "y_min_px", "x_max_px", "y_max_px"), corners, strict=True)),
            "confidence": 0.5,
        }
        for track_id, frame_index, corners in boxes
    ]
    return pa.Table.from_pylist(rows, schema=TRACK_BOXES.arrow_schema)


def candidates(boxes: pa.Table, **settings: Any) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = select_candidates(boxes, 640, 360, CropSettings(**settings)).to_pylist()
    return rows


def test_candidates_are_spread_over_the_track_and_not_cut_off() -> None:
    boxes = track_associated(moving_detections(range(30)), 30, TrackSettings(min_duration_s=0))[1]
    assert boxes.schema.names == TRACK_BOXES.arrow_schema.names
    rows = candidates(boxes, per_track=3, min_side_px=5)
    assert [row["part"] for row in rows] == [1] * 4 + [2] * 4 + [3] * 4
    frame_indices = [row["frame_index"] for row in rows]
    assert frame_indices[0] == 1  # the box of frame 0 touches the edge of the frame
    assert all(0 < step <= 5 for step in np.diff(frame_indices))
    assert candidates(boxes, min_side_px=11) == []


def test_a_box_that_another_covers_has_a_lower_score() -> None:
    rows = candidates(box_rows((1, 0, (10, 10, 30, 30)), (2, 0, (20, 10, 60, 30)), (3, 0, (100, 10, 120, 30))))
    scores = {row["track_id"]: row["score"] for row in rows}
    alone = 20 * 0.5**0.25
    assert scores == pytest.approx({1: alone * 0.85, 2: alone * np.sqrt(2) * 0.925, 3: alone})


def draw_stripes(contrast: int) -> np.ndarray:
    image = np.full((360, 640, 3), 100, np.uint8)
    image[:, ::4] += np.uint8(contrast)
    return image


def test_the_sharpest_candidate_of_each_part_is_cropped_and_the_best_part_ranks_first() -> None:
    contrasts = [10, 40, 20, 5, 60, 30, 80, 15]
    boxes = box_rows(*((1, frame_index, (100, 100, 140, 160)) for frame_index in range(len(contrasts))))
    best_crops = BestCrops(candidates(boxes, per_track=2), padding=0.25)
    assert best_crops.frame_indices == [*range(8)]
    crops = [crop for index in range(8) for crop in best_crops.add(index, draw_stripes(contrasts[index]))]
    assert best_crops.missing_frame_index is None
    assert [crop.row["frame_index"] for crop in crops] == [1, 6]
    assert {crop.image.shape for crop in crops} == {(90, 60, 3)}
    assert crops[1].row["sharpness"] == pytest.approx(4 * crops[0].row["sharpness"], rel=0.05)
    rows = rank_crops([dict(crop.row) for crop in crops])
    assert [(row["rank"], row["frame_index"]) for row in rows] == [(1, 6), (2, 1)]


def test_the_ranks_of_each_track_begin_at_one() -> None:
    rows = [{"track_id": track_id, "score": score, "frame_index": 0} for track_id, score in ((2, 1), (1, 3), (2, 5))]
    assert [(row["track_id"], row["score"], row["rank"]) for row in rank_crops(rows)] == [
        (1, 3, 1),
        (2, 5, 1),
        (2, 1, 2),
    ]


def test_a_blurred_picture_is_less_sharp() -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 255, (200, 100, 3)).astype(np.uint8)
    assert measure_sharpness(image) > 3 * measure_sharpness(cv2.GaussianBlur(image, (0, 0), 4))
    assert measure_sharpness(np.full((3, 2, 3), 7, np.uint8)) == 0


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
