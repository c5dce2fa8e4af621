"""Plain networks: ONNX, OpenVINO or TorchScript networks that the settings describe, and those that are bundled."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.config.network_config import NetworkSettings
from resources.errors import PipelineError, summarize_exception
from resources.inference.plain_heads import decode_plain_outputs
from resources.inference.weights_description import STRIDE_PX, ModelWeights

BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled_models"
BUNDLED_NAME = "nanodet"
NANODET = NetworkSettings(
    head="gfl",
    classes="coco",
    colors="bgr",
    mean=(103.53, 116.28, 123.675),
    std=(57.375, 57.12, 58.395),
    strides=(8, 16, 32),
)
"""Description of the bundled detector, NanoDet-g."""
CENTERFACE = NetworkSettings(head="center", classes=("face",), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), strides=(4,))
"""Description of the bundled detector of faces, CenterFace."""
MOBILENET = NetworkSettings(head="embed", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), resize="stretch")
"""Description of the bundled network for embeddings: features of MobileNetV2, reduced to 256 values."""
BUNDLED = {BUNDLED_NAME: NANODET, "centerface": CENTERFACE, "mobilenet": MOBILENET}
"""Descriptions of the bundled networks by name."""
_IMAGE_SIZE_PX = 640  # of networks that accept any size
_CHECKED_SIZE_PX = 320  # of a network that accepts any size, when its outputs are checked


def bundled_network(path: Path) -> NetworkSettings | None:
    """Return the description of a bundled network; None for other weights."""
    return BUNDLED.get(path.stem) if path.parent == BUNDLED_FOLDER else None


@functools.lru_cache(maxsize=32)
def describe_plain_network(path: Path, content_hash: str, network: NetworkSettings) -> ModelWeights:
    """Read the input size of a plain network, and check that its outputs are as described.

    Args:
        path: The .onnx file, or the .xml of an OpenVINO network.
        content_hash: Hash of the file and of its description.
        network: The description.

    Raises:
        PipelineError: The network cannot be read, or its input or outputs are not as described.
    """
    import openvino

    try:
        graph = openvino.Core().read_model(path)
        shapes = [model_input.partial_shape for model_input in graph.inputs]
    except Exception as error:
        # OpenVINO raises errors of many types; the remedy is always the same.
        raise PipelineError(f"The weights {path} cannot be read as a network: {summarize_exception(error)}") from error
    channels = [] if len(shapes) != 1 or shapes[0].rank.is_dynamic else _channel_axes(shapes[0])
    if not channels:
        raise PipelineError(
            f"The weights {path} have the inputs {', '.join(map(str, shapes))}, but a network must have a single one, "
            "an image with 3 colours: use other weights."
        )
    is_channels_last = channels[0] == 3
    height, width = list(shapes[0])[1:3] if is_channels_last else list(shapes[0])[2:4]
    is_fixed = height.is_static and width.is_static
    size_px = (width.get_length(), height.get_length()) if is_fixed else None
    model = ModelWeights(
        path,
        content_hash,
        network.head if network.head in ("classify", "embed") else "detect",
        dict(enumerate(network.class_names)),
        max(size_px) if size_px else _IMAGE_SIZE_PX,
        input_width_px=size_px[0] if size_px else None,
        input_height_px=size_px[1] if size_px else None,
        stride_px=max(STRIDE_PX, *network.strides) if network.strides else STRIDE_PX,
        network=network,
        is_channels_last=is_channels_last,
    )
    _check_outputs(graph, model, size_px or (_CHECKED_SIZE_PX, _CHECKED_SIZE_PX))
    return model


def _channel_axes(shape: Any) -> list[int]:
    """Axes of an input of four axes that can be its three colours, the usual one first."""
    if len(shape) != 4:
        return []
    return [axis for axis in (1, 3) if shape[axis].is_static and shape[axis].get_length() == 3]


def _check_outputs(graph: Any, model: ModelWeights, size_px: tuple[int, int]) -> None:
    """Check by the shapes of the outputs that they can be decoded; shapes that depend on the image are not checked.

    Raises:
        PipelineError: They cannot be decoded.
    """
    assert model.network is not None
    try:
        reshape_input(graph, model, *size_px)
    except RuntimeError as error:
        raise PipelineError(
            f"The weights {model.path} cannot be used for one image of {size_px[0]}x{size_px[1]} px: "
            f"{summarize_exception(error)}"
        ) from error
    if any(output.partial_shape.is_dynamic for output in graph.outputs):
        return
    outputs = [
        np.zeros(
            list(output.shape)[1:] if has_batch_axis(output) else list(output.shape), output.element_type.to_dtype()
        )
        for output in graph.outputs
    ]
    if model.task != "detect":
        _check_vector(model, outputs)
        return
    try:
        decode_plain_outputs(outputs, model.network, size_px, DetectionSettings())
    except PipelineError as error:
        raise PipelineError(f"The weights {model.path} do not match their description. {error}") from error


def _check_vector(model: ModelWeights, outputs: list[np.ndarray]) -> None:
    """Check that the first output is one vector, with a score per class if the network classifies.

    Raises:
        PipelineError: It is not.
    """
    shape = outputs[0].shape
    if max(shape, default=0) != outputs[0].size or (model.class_names and outputs[0].size != len(model.class_names)):
        what = f"scores of {len(model.class_names)} classes" if model.class_names else "one vector"
        raise PipelineError(
            f"The weights {model.path} do not match their description: the first output has the shape {shape}, but "
            f"must be {what}."
        )


def reshape_input(graph: Any, model: ModelWeights, width_px: int, height_px: int) -> None:
    """Set the input of an OpenVINO network to one image of some size."""
    graph.reshape([1, height_px, width_px, 3] if model.is_channels_last else [1, 3, height_px, width_px])


def has_batch_axis(output: Any) -> bool:
    """Whether the first axis of an output is the batch; lists of boxes of plain detectors have no such axis."""
    return bool(len(output.partial_shape) > 1 and output.partial_shape[0] == 1)
