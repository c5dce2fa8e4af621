import numpy as np
import pytest

from resources.errors import PipelineError
from resources.inference.postprocessing import Letterbox, _nms, decode_output
from resources.settings import DetectionSettings

SETTINGS = DetectionSettings()


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected"),
    [
        (1280, 720, (640, 384)),
        (800, 600, (640, 480)),
        (360, 640, (384, 640)),
        (100, 50, (640, 320)),
        (641, 3, (640, 32)),
    ],
)
def test_pictures_are_fitted_as_ultralytics_fits_them(width_px: int, height_px: int, expected: tuple[int, int]) -> None:
    from ultralytics.data.augment import LetterBox

    picture = np.random.default_rng(0).integers(0, 255, (height_px, width_px, 3), np.uint8)
    ours = Letterbox.of(width_px, height_px, 640)
    assert (ours.input_width_px, ours.input_height_px) == expected
    assert np.array_equal(ours.apply(picture), LetterBox((640, 640), auto=True, stride=32)(image=picture))


def test_boxes_come_back_into_the_picture() -> None:
    letterbox = Letterbox.of(1280, 720, 640)
    inside = np.array([[letterbox.left_px + 10, letterbox.top_px + 20, 110, 120], [-50, -50, 9999, 9999]], np.float32)
    back = letterbox.back(inside, 1280, 720)
    assert back[0].tolist() == [20, 40, (110 - letterbox.left_px) * 2, (120 - letterbox.top_px) * 2]
    assert back[1].tolist() == [0, 0, 1280, 720]


def raw_output(boxes: list[tuple[float, float, float, float, int, float]], class_count: int = 3) -> np.ndarray:
    """A network's output with boxes given as centre x, centre y, width, height, class, confidence."""
    output = np.zeros((4 + class_count, 50), np.float32)
    for column, (x, y, width, height, class_id, confidence) in enumerate(boxes):
        output[:4, column] = x, y, width, height
        output[4 + class_id, column] = confidence
    return output


def test_of_overlapping_boxes_of_a_class_the_best_stays() -> None:
    found = decode_output(
        raw_output(
            [(50, 50, 20, 20, 0, 0.6), (51, 50, 20, 20, 0, 0.9), (51, 50, 20, 20, 1, 0.5), (90, 90, 5, 5, 2, 0.05)]
        ),
        3,
        SETTINGS,
    )
    assert found.confidence.tolist() == pytest.approx([0.9, 0.5])
    assert found.class_id.tolist() == [0, 1]
    assert found.xyxy[0].tolist() == [41, 40, 61, 60]


def test_suppression_agrees_with_torchvision() -> None:
    import torch
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(1)
    boxes = [
        (*rng.uniform(20, 80, 2), *rng.uniform(10, 30, 2), int(rng.integers(3)), float(rng.uniform(0.2, 1)))
        for _ in range(45)
    ]
    found = decode_output(raw_output(boxes), 3, SETTINGS)
    values = np.array(boxes, np.float32)
    xyxy = np.concatenate([values[:, :2] - values[:, 2:4] / 2, values[:, :2] + values[:, 2:4] / 2], axis=1)
    kept = batched_nms(torch.tensor(xyxy), torch.tensor(values[:, 5]), torch.tensor(values[:, 4]), SETTINGS.nms_iou)
    assert found.confidence.tolist() == pytest.approx(values[kept.numpy(), 5].tolist())


@pytest.mark.parametrize("count", [0, 1, 45, 256, 700])
def test_suppression_of_many_boxes_agrees_with_torchvision(count: int) -> None:
    import torch
    from torchvision.ops import nms

    rng = np.random.default_rng(count)
    centres, sizes = rng.uniform(0, 300, (count, 2)), rng.uniform(20, 60, (count, 2))
    xyxy = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype(np.float32)
    best_first = torch.arange(count, 0, -1, dtype=torch.float32)
    kept = _nms(xyxy, 0.4)
    assert kept.tolist() == nms(torch.tensor(xyxy).reshape(-1, 4), best_first, 0.4).tolist()
    assert count < 45 or len(kept) < count


def test_networks_without_suppression_and_empty_frames_are_read() -> None:
    rows = np.array([[1, 2, 3, 4, 0.9, 2], [1, 2, 3, 4, 0.05, 0]], np.float32)
    assert decode_output(rows, 3, SETTINGS).class_id.tolist() == [2]
    assert len(decode_output(raw_output([]), 3, SETTINGS)) == 0
    with pytest.raises(PipelineError, match=r"shape \(9, 50\)"):
        decode_output(np.zeros((9, 50), np.float32), 3, SETTINGS)


def test_only_wanted_classes_are_kept() -> None:
    output = raw_output([(50, 50, 20, 20, 0, 0.6), (90, 50, 20, 20, 2, 0.9)])
    assert decode_output(output, 3, SETTINGS, np.array([0])).class_id.tolist() == [0]
