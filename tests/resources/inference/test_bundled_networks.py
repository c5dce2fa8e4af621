"""The bundled networks for crops: the same outputs as their originals, and the head of CenterFace."""

from pathlib import Path

import numpy as np
import pytest

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference.plain_heads import decode_plain_outputs
from resources.inference.plain_networks import BUNDLED_FOLDER, CENTERFACE


def test_the_converted_face_detector_gives_the_outputs_of_the_original(corpus: Path) -> None:
    import openvino

    image = np.random.default_rng(0).integers(0, 255, (1, 3, 96, 64)).astype(np.float32)
    networks = [BUNDLED_FOLDER / "centerface.xml", corpus / "models" / "centerface.onnx"]
    outputs = []
    for file in networks:
        network = openvino.Core().read_model(file)
        network.reshape([1, 3, 96, 64])
        compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs.append([np.asarray(array) for array in compiled(image).values()])
    for ours, original in zip(*outputs, strict=True):
        assert ours.shape == original.shape
        assert np.abs(ours - original).max() < 0.01 * np.abs(original).max()


def test_centres_sizes_and_offsets_become_boxes() -> None:
    heatmap, size, offset = np.zeros((1, 8, 6)), np.zeros((2, 8, 6)), np.zeros((2, 8, 6))
    heatmap[0, 3, 2], size[:, 3, 2], offset[:, 3, 2] = 0.9, np.log([5, 3]), (0.25, -0.25)
    heatmap[0, 7, 5] = 0.05
    outputs = [heatmap, size, offset, np.zeros((10, 8, 6))]
    candidates = decode_plain_outputs(outputs, CENTERFACE, (24, 32), DetectionSettings(min_confidence=0.5))
    # Row 3 and column 2 of cells of 4 px: the centre is at x = (2 - 0.25 + 0.5) * 4, y = (3 + 0.25 + 0.5) * 4.
    assert candidates.xyxy == pytest.approx(np.array([[9 - 6, 15 - 10, 9 + 6, 15 + 10]]))
    assert candidates.confidence == pytest.approx(np.array([0.9]))
    with pytest.raises(PipelineError, match="not those of a head center"):
        decode_plain_outputs(outputs[:2], CENTERFACE, (24, 32), DetectionSettings())
