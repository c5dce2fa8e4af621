"""Outputs of plain detectors, built by hand from known boxes, are decoded to these boxes."""

from typing import Any

import numpy as np
import pytest

from resources.config.detection_config import DetectionSettings
from resources.config.network_config import NetworkSettings
from resources.errors import PipelineError
from resources.inference.nms import Candidates
from resources.inference.plain_heads import decode_plain_outputs

SIZE_PX = (64, 32)  # width and height of the input
CLASSES = ("person", "car", "dog")
BOXES = np.array([[4, 4, 20, 28], [30, 6, 62, 26]], np.float32)
SCORES = np.array([0.9, 0.6], np.float32)
CLASS_IDS = [1, 2]
LOGITS = np.log(SCORES / (1 - SCORES))


def describe(**values: Any) -> NetworkSettings:
    return NetworkSettings.model_validate({"classes": CLASSES, **values})


def decode(outputs: list[np.ndarray], network: NetworkSettings, **settings: Any) -> Candidates:
    return decode_plain_outputs(outputs, network, SIZE_PX, DetectionSettings.model_validate(settings))


def check_boxes(candidates: Candidates, atol_px: float = 0.01) -> None:
    assert np.allclose(candidates.xyxy, BOXES, atol=atol_px)
    assert np.allclose(candidates.confidence, SCORES, atol=1e-4)
    assert candidates.class_id.tolist() == CLASS_IDS


def gfl_outputs(offset: float, *, has_logits: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores and distances of anchors of strides 8 and 16, of which two have the boxes."""
    counts = 8 * 4 + 4 * 2
    scores = np.full((counts, 3), -9.0 if has_logits else 0.0, np.float32)
    distances = np.zeros((counts, 4, 8), np.float32)
    # The anchor in row 1, column 1 of stride 8, and the one in row 1, column 2 of stride 16.
    for index, anchor, stride, (column, row) in ((0, 9, 8, (1, 1)), (1, 32 + 6, 16, (2, 1))):
        x, y = (column + offset) * stride, (row + offset) * stride
        sides = np.array([x - BOXES[index, 0], y - BOXES[index, 1], BOXES[index, 2] - x, BOXES[index, 3] - y]) / stride
        scores[anchor, CLASS_IDS[index]] = LOGITS[index] if has_logits else SCORES[index]
        for side, distance in enumerate(sides):
            low = int(distance)
            share = distance - low
            distances[anchor, side] = -30
            distances[anchor, side, low] = np.log(max(1 - share, 1e-9))
            distances[anchor, side, low + 1] = np.log(max(share, 1e-9))
    return scores, distances.reshape(counts, 32)


@pytest.mark.parametrize("offset", [0.5, 0.25])
@pytest.mark.parametrize("layout", ["two outputs", "levels", "joined", "joined levels"])
def test_a_gfl_head_is_decoded_however_its_outputs_are_split(layout: str, offset: float) -> None:
    scores, distances = gfl_outputs(offset)
    joined = np.concatenate([scores, distances], axis=1)
    outputs = {
        "two outputs": [scores, distances],
        "levels": [distances[32:], scores[:32], distances[:32], scores[32:]],
        "joined": [joined],
        "joined levels": [joined[32:], joined[:32]],
    }[layout]
    check_boxes(decode(outputs, describe(head="gfl", strides=(8, 16), anchor_offset=offset)))


def test_a_gfl_head_with_logits_is_decoded() -> None:
    outputs = [*gfl_outputs(0.5, has_logits=True)]
    check_boxes(decode(outputs, describe(head="gfl", strides=(8, 16), has_logits=True)))


def yolo_rows(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows of centre, size and class scores; a third row has a box of low confidence."""
    rows = np.zeros((12, 7), np.float32)
    rows[:2, :2], rows[:2, 2:4] = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows[[0, 1], [4 + class_id for class_id in CLASS_IDS]] = scores
    rows[2] = [10, 10, 5, 5, 0.05, 0, 0]
    return rows


def test_a_yolo_head_is_decoded_in_both_orders_of_its_axes() -> None:
    rows = yolo_rows(BOXES, SCORES)
    check_boxes(decode([rows], describe(head="yolo")))
    check_boxes(decode([rows.T[None]], describe(head="yolo")))


def test_scores_of_a_yolo_head_are_multiplied_by_objectness() -> None:
    rows = yolo_rows(BOXES, np.array([1.0, 0.75]))
    with_objectness = np.insert(rows, 4, [0.9, 0.8, *[0.0] * 10], axis=1)
    check_boxes(decode([with_objectness], describe(head="yolo", has_objectness=True)))


def test_boxes_of_a_yolo_head_that_are_relative_to_a_grid_are_decoded() -> None:
    rows = np.zeros((8 * 4, 7), np.float32)
    rows[:, 2:4] = -9
    centre, size = (BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]
    for index, (column, row) in enumerate(((1, 2), (5, 2))):
        anchor = row * 8 + column
        rows[anchor, :2] = centre[index] / 8 - [column, row]
        rows[anchor, 2:4] = np.log(size[index] / 8)
        rows[anchor, 4 + CLASS_IDS[index]] = SCORES[index]
    check_boxes(decode([rows], describe(head="yolo", strides=(8,))), atol_px=0.05)


def test_an_ssd_head_with_rows_of_detection_output_is_decoded() -> None:
    shares = BOXES / np.tile(SIZE_PX, 2)
    rows = [[0, class_id + 1, score, *box] for class_id, score, box in zip(CLASS_IDS, SCORES, shares, strict=True)]
    output = np.array([[*rows, [0, 1, 0.05, 0, 0, 1, 1], [-1, *[0.0] * 6]]], np.float32)[None]
    check_boxes(decode([output], describe(head="ssd", box_unit="shares", first_class=1)))


@pytest.mark.parametrize(
    "outputs",
    [
        [np.concatenate([BOXES, SCORES[:, None], np.array(CLASS_IDS)[:, None]], axis=1)],
        [BOXES, np.array([[0.05, 0.9, 0.05], [0.1, 0.3, 0.6]], np.float32)],
        [BOXES, np.array(CLASS_IDS), SCORES],
        [np.concatenate([BOXES, SCORES[:, None]], axis=1), np.array(CLASS_IDS)],
    ],
    ids=["rows", "scores by class", "labels and scores", "labels"],
)
def test_an_ssd_head_with_corners_in_pixels_is_decoded(outputs: list[np.ndarray]) -> None:
    check_boxes(decode(outputs, describe(head="ssd")))


def test_an_ssd_head_with_logits_and_a_background_is_decoded() -> None:
    probabilities = np.array([[0.02, 0.04, 0.9, 0.04], [0.2, 0.1, 0.1, 0.6]])
    network = describe(head="ssd", first_class=1, has_logits=True)
    check_boxes(decode([BOXES, np.log(probabilities) + 3], network))


def test_overlapping_boxes_of_a_class_are_suppressed_and_classes_selected() -> None:
    rows = yolo_rows(BOXES, SCORES)
    rows[3] = rows[0] * [1, 1, 1, 1, 0.9, 0.9, 0.9]
    check_boxes(decode([rows], describe(head="yolo")))
    only_dogs = decode_plain_outputs([rows], describe(head="yolo"), SIZE_PX, DetectionSettings(), np.array([2]))
    assert only_dogs.class_id.tolist() == [2]


@pytest.mark.parametrize(
    ("values", "outputs"),
    [
        ({"head": "gfl", "strides": (8,)}, [np.zeros((40, 3)), np.zeros((40, 32))]),  # anchors of two strides
        ({"head": "gfl", "strides": (8, 16)}, [np.zeros((40, 3))]),
        ({"head": "yolo"}, [np.zeros((12, 9))]),
        ({"head": "yolo"}, [np.zeros((12, 7)), np.zeros((12, 7))]),
        ({"head": "ssd"}, [np.zeros((12, 4))]),
    ],
)
def test_outputs_of_another_head_are_an_error_that_names_their_shapes(
    values: dict[str, Any], outputs: list[np.ndarray]
) -> None:
    with pytest.raises(PipelineError, match=r"^network: the outputs have the shapes \(\d+, \d+\).*correct head"):
        decode(outputs, describe(**values))
