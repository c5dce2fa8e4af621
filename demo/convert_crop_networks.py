"""Converts the bundled networks for crops: MobileNetV2 as an embedding of 256 values, and CenterFace.

The results are in the repository: neither an installation nor a test runs this script. It reads the files that
resources/bundled_models/NOTICE.md names, and recordings, to which the reduction of the embedding is fitted:

    python -m demo.convert_crop_networks mobilenet_v2-b0353104.pth centerface.onnx FOLDER_OF_RECORDINGS
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.inference.detector import Models
from resources.inference.letterbox import Letterbox
from resources.inference.plain_networks import BUNDLED_FOLDER, MOBILENET

SIZE_PX = 224
"""Side of the embedding's input."""
DIMENSIONS = 256
"""Number of values of the embedding."""
_STRIPS = 3  # upper, middle and lower part of the picture, as of a person
# Early layers know colours and textures, the last one what kind of object it is. With the last one alone, the crops of
# TUD-Campus reach a top-1 of 0.71 and an mAP of 0.52; with all of these, 0.85 and 0.69.
_LAYERS = (1, 3, 6, 10, 13, 18)
_CHANGE_FLOOR = 0.3  # of the mean change by mirroring; features that change less count alike
_DETAIL_LAYERS = (6, 10, 13)  # whose means are kept as they are, for probes: small things are lost in the reduction
_COLUMN_WEIGHTS = (0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0)  # from left to right: the background shows at the sides
_FRAMES, _PATCHES = 80, 4  # of each recording, and of each of its frames
_MIN_SIDE_PX, _SEED = 16, 0


@dataclass(frozen=True)
class Reduction:
    """A linear map of features to the embedding.

    Attributes:
        matrix: Shape (features, DIMENSIONS).
        bias: Shape (DIMENSIONS,).
        loss: Share of the variance that is lost.
        scaling: The features as they are compared, of which the matrix keeps a part; shape (features, features).
        mean: Mean of the features.
    """

    matrix: np.ndarray
    bias: np.ndarray
    loss: float
    scaling: np.ndarray
    mean: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, mirrored: np.ndarray, block_sizes: Sequence[int]) -> "Reduction":
        """Fit a principal component analysis to features that count less, the more mirroring the picture changes them.

        Before that, each feature is divided by its deviation, and each layer has equal weight. Mirroring leaves the
        object as it is, so what it changes says nothing about the object (within-class covariance normalization: Hatch
        and Stolcke, "Generalized Linear Kernels for One-Versus-All Classification", ICASSP 2006).

        Args:
            features: Shape (crops, features).
            mirrored: Those of the mirrored crops.
            block_sizes: Number of features of each layer.
        """
        mean, weight = features.mean(axis=0), 1 / (features.std(axis=0) + 1e-6)
        weight /= np.repeat(np.sqrt(block_sizes), block_sizes)
        changes = ((features - mirrored) / 2 * weight).astype(np.float32)
        change_variances, axes = np.linalg.eigh(changes.T @ changes / len(changes))
        floor = _CHANGE_FLOOR * change_variances.mean()
        steadying = (axes * np.sqrt(floor / (change_variances.clip(0) + floor))) @ axes.T
        scaling = (weight[:, None] * steadying).astype(np.float32)
        scaled = ((features - mean) @ scaling).astype(np.float32)
        variances, axes = np.linalg.eigh(scaled.T @ scaled)  # in rising order
        matrix = scaling @ axes[:, ::-1][:, :DIMENSIONS]
        loss = 1 - float(variances[-DIMENSIONS:].sum() / variances.sum())
        return cls(matrix, -mean @ matrix, loss, scaling, mean)

    def measure_loss(self, features: np.ndarray) -> float:
        """Share of the variance of other features, to which the reduction was not fitted, that is lost."""
        kept = ((features @ self.matrix + self.bias) ** 2).sum()
        return 1 - float(kept / (((features - self.mean) @ self.scaling) ** 2).sum())


def main() -> None:
    """Convert both networks."""
    mobilenet, centerface, recordings = map(Path, sys.argv[1:])
    _write_embedding(mobilenet, recordings)
    _write_centerface(centerface)


def _write_centerface(source: Path) -> None:
    import openvino

    network = openvino.Core().read_model(source)
    network.reshape([1, 3, -1, -1])
    _save(network, "centerface")


def _write_embedding(source: Path, recordings: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    network, block_sizes = _build_features(source)
    crops = list(_read_crops(recordings))
    print(f"{len(crops)} crops are read", flush=True)
    features = _compute_features(network, [crop for _, crop in crops])
    mirrored = _compute_features(network, [crop[:, ::-1] for _, crop in crops])
    print("Their features are computed", flush=True)
    reduction = Reduction.fit(features, mirrored, block_sizes)
    names = np.array([name for name, _ in crops])
    losses = []
    for name in sorted(set(names)):
        is_other = names != name
        fitted = Reduction.fit(features[is_other], mirrored[is_other], block_sizes)
        losses.append(fitted.measure_loss(features[~is_other]))
    print(
        f"{len(crops)} crops of {len(losses)} recordings, {features.shape[1]} features to {DIMENSIONS}: "
        f"{reduction.loss:.1%} of the variance is lost, of recordings left out of the fit {np.mean(losses):.1%}"
    )
    matrix, bias = (ops.constant(array.astype(np.float32)) for array in (reduction.matrix, reduction.bias))
    embedding = ops.add(ops.matmul(network.output(0).get_node().input_value(0), matrix, False, False), bias)
    embedding.output(0).set_names({"embedding"})
    details = network.output(1).get_node().input_value(0)
    details.set_names({"features"})
    outputs = [embedding.output(0), details]
    _save(openvino.Model(outputs, network.get_parameters(), "mobilenet-v2-embedding"), "mobilenet")


def _save(network: Any, name: str) -> None:
    import openvino

    target = BUNDLED_FOLDER / f"{name}.xml"
    openvino.save_model(network, target, compress_to_fp16=True)
    size = sum(file.stat().st_size for file in (target, target.with_suffix(".bin")))
    print(f"{target.name}: {size / 1e6:.1f} MB")


def _build_features(source: Path) -> tuple[Any, list[int]]:
    """Build the network from a normalized image to the means of strips of some layers.

    Returns:
        The OpenVINO network, whose second output has those of the detail layers in the middle of the picture; and the
        number of features of each layer of the first.
    """
    import openvino
    import torch
    import torchvision

    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(source, weights_only=True))

    def pool(layer: Any, strips: int) -> Any:
        return torch.nn.functional.adaptive_avg_pool2d(layer, (strips, 1)).flatten(1)

    class Features(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = model.features

        def forward(self, image: Any) -> Any:
            pooled, details = [], []
            for index, layer in enumerate(self.layers):
                image = layer(image)
                if index in _LAYERS:
                    pooled.append(pool(image, 1 if index == _LAYERS[-1] else _STRIPS))
                if index in _DETAIL_LAYERS:
                    weights = torch.tensor(_COLUMN_WEIGHTS).repeat_interleave(image.shape[-1] // len(_COLUMN_WEIGHTS))
                    details.append(pool(image * weights / weights.mean(), _STRIPS))
            return torch.cat(pooled, 1), torch.cat(details, 1)

    example = torch.zeros(1, 3, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        traced = torch.jit.trace(Features().eval(), example)
    network = openvino.convert_model(traced, example_input=example)
    network.reshape([1, 3, SIZE_PX, SIZE_PX])
    widths = [model.features[index].out_channels for index in _LAYERS]
    return network, [*(_STRIPS * width for width in widths[:-1]), widths[-1]]


def _read_crops(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Read the objects that the bundled detector finds in recordings, and random parts of their frames.

    Yields:
        Name of the recording and uint8 BGR crop.
    """
    import cv2

    random, models = np.random.default_rng(_SEED), Models()
    settings = DetectionSettings(weights="nanodet", min_confidence=0.3)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".avi", ".mkv")):
        frames = list(_sample_frames(cv2.VideoCapture(str(path))))
        if not frames:
            continue
        detector = models.detector(settings, frames[0].shape[1], frames[0].shape[0], "cpu")
        for frame, found in zip(frames, detector.detect(iter(frames)), strict=True):
            for left, top, right, bottom in [*found.xyxy.astype(int), *_random_boxes(frame, random)]:
                if min(right - left, bottom - top) >= _MIN_SIDE_PX:
                    yield path.name, frame[top:bottom, left:right]


def _sample_frames(capture: Any) -> Iterator[np.ndarray]:
    """Decode a recording and yield frames that are spread over it."""
    step = max(1, int(capture.get(7)) // _FRAMES)  # cv2.CAP_PROP_FRAME_COUNT
    index = 0
    while capture.grab():
        if index % step == 0:
            yield np.asarray(capture.retrieve()[1])
        index += 1


def _random_boxes(frame: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    height_px, width_px = frame.shape[:2]
    for _ in range(_PATCHES):
        share = random.uniform(0.08, 0.5)
        size = np.array([width_px * share * random.uniform(0.4, 1), height_px * share])
        left_top = random.uniform(0, np.array([width_px, height_px]) - size)
        yield np.concatenate([left_top, left_top + size]).astype(int)


def _compute_features(network: Any, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the features of crops, shape (crops, features)."""
    import openvino

    compiled = openvino.Core().compile_model(network, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    features = np.zeros((len(crops), network.output(0).shape[1]), np.float32)
    requests = openvino.AsyncInferQueue(compiled)
    requests.set_callback(lambda request, index: np.copyto(features[index], request.get_output_tensor(0).data[0]))
    for index, crop in enumerate(crops):
        resized = Letterbox.stretched(crop.shape[1], crop.shape[0], SIZE_PX, SIZE_PX).apply(crop)
        normalized = (resized[..., ::-1] - np.array(MOBILENET.mean)) / np.array(MOBILENET.std)
        requests.start_async({0: normalized.transpose(2, 0, 1)[None].astype(np.float32)}, index)
    requests.wait_all()
    return features


if __name__ == "__main__":
    main()
