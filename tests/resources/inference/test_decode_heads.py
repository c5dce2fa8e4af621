"""Decoding of raw network outputs, and the non-maximum suppression in it."""

from collections.abc import Sequence

import numpy as np
import pytest

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference.decode_heads import decode_output
from resources.inference.nms import greedy_nms

SETTINGS = DetectionSettings()


def build_output(boxes: Sequence[tuple[float, float, float, float, int, float]], class_count: int = 3) -> np.ndarray:
    """Build a network's output from boxes: centre x, centre y, width, height, class, confidence."""
    output = np.zeros((4 + class_count, 50), np.float32)
    for anchor, (x, y, width, height, class_id, confidence) in enumerate(boxes):
        output[:4, anchor] = x, y, width, height
        output[4 + class_id, anchor] = confidence
    return output


def test_the_best_of_overlapping_boxes_of_a_class_is_kept() -> None:
    boxes = [(50, 50, 20, 20, 0, 0.6), (51, 50, 20, 20, 0, 0.9), (51, 50, 20, 20, 1, 0.5), (90, 90, 5, 5, 2, 0.05)]
    candidates = decode_output(build_output(boxes), 3, SETTINGS)
    assert candidates.confidence.tolist() == pytest.approx([0.9, 0.5])
    assert candidates.class_id.tolist() == [0, 1]
    assert candidates.xyxy[0].tolist() == [41, 40, 61, 60]


def test_nms_by_class_agrees_with_torchvision() -> None:
    import torch
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(1)
    boxes = [
        (*rng.uniform(20, 80, 2), *rng.uniform(10, 30, 2), int(rng.integers(3)), float(rng.uniform(0.2, 1)))
        for _ in range(45)
    ]
    candidates = decode_output(build_output(boxes), 3, SETTINGS)
    values = np.array(boxes, np.float32)
    xyxy = np.concatenate([values[:, :2] - values[:, 2:4] / 2, values[:, :2] + values[:, 2:4] / 2], axis=1)
    expected = batched_nms(torch.tensor(xyxy), torch.tensor(values[:, 5]), torch.tensor(values[:, 4]), SETTINGS.nms_iou)
    assert candidates.confidence.tolist() == pytest.approx(values[expected.numpy(), 5].tolist())


@pytest.mark.parametrize("count", [0, 1, 45, 256, 700])
def test_nms_of_any_number_of_boxes_agrees_with_torchvision(count: int) -> None:
    import torch
    from torchvision.ops import nms

    rng = np.random.default_rng(count)
    centres, sizes = rng.uniform(0, 300, (count, 2)), rng.uniform(20, 60, (count, 2))
    xyxy = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype(np.float32)
    confidence = torch.arange(count, 0, -1, dtype=torch.float32)
    indices = greedy_nms(xyxy, 0.4)
    assert indices.tolist() == nms(torch.tensor(xyxy).reshape(-1, 4), confidence, 0.4).tolist()
    assert count < 45 or len(indices) < count


def test_outputs_of_heads_without_nms_and_without_boxes_are_decoded() -> None:
    rows = np.array([[1, 2, 3, 4, 0.9, 2], [1, 2, 3, 4, 0.05, 0]], np.float32)
    assert decode_output(rows, 3, SETTINGS).class_id.tolist() == [2]
    assert len(decode_output(build_output([]), 3, SETTINGS)) == 0


def test_an_output_of_unknown_shape_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"shape \(9, 50\)"):
        decode_output(np.zeros((9, 50), np.float32), 3, SETTINGS)


def test_only_selected_classes_are_kept() -> None:
    output = build_output([(50, 50, 20, 20, 0, 0.6), (90, 50, 20, 20, 2, 0.9)])
    assert decode_output(output, 3, SETTINGS, np.array([0])).class_id.tolist() == [0]
