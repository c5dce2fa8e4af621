"""Eight-bit networks for OpenVINO, calibrated on the user's own pictures.

Every convolution gets weights of 255 levels, scaled per output channel, and an input of 256 levels between the mean
of the pictures' lowest and the mean of their highest values. OpenVINO then computes it with the processor's eight-bit
instructions. Depthwise convolutions, attention and the decoding of boxes stay as they are.

The scheme is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

_ACTIVATION_LEVELS = 256
_WEIGHT_LEVELS = 255


def quantized(network: Any, pictures: Sequence[np.ndarray]) -> Any:
    """A copy of an OpenVINO network whose convolutions compute in eight bits.

    Args:
        network: Takes one uint8 picture of shape (1, height_px, width_px, 3).
        pictures: Fitted pictures to calibrate on, uint8 of shape (height_px, width_px, 3).
    """
    from openvino import opset13 as ops

    low, high = _input_ranges(network, pictures)
    copy = network.clone()
    made: dict[tuple[str, int], Any] = {}
    for convolution in _convolutions(copy):
        source = convolution.input_value(0)
        weights = _constant(convolution.input_value(1).get_node())
        if weights is None:
            continue
        name = (source.get_node().get_friendly_name(), source.get_index())
        if name not in made:
            bounds = _bounds(low[convolution.get_friendly_name()], high[convolution.get_friendly_name()])
            ends = [ops.constant(np.full((1, 1, 1, 1), bound, np.float32)) for bound in bounds]
            made[name] = ops.fake_quantize(source, *ends, *ends, _ACTIVATION_LEVELS)
        convolution.input(0).replace_source_output(made[name].output(0))
        largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True).clip(1e-6)
        ends = [ops.constant(-largest), ops.constant(largest)]
        fewer = ops.fake_quantize(ops.constant(weights), *ends, *ends, _WEIGHT_LEVELS)
        convolution.input(1).replace_source_output(fewer.output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _convolutions(network: Any) -> list[Any]:
    return [node for node in network.get_ordered_ops() if node.get_type_name() == "Convolution"]


def _constant(node: Any) -> np.ndarray | None:
    """The float32 value of a constant, also behind a change of type; None for anything else."""
    if node.get_type_name() == "Convert":
        return _constant(node.input_value(0).get_node())
    if node.get_type_name() != "Constant":
        return None
    return np.asarray(node.get_data(), np.float32)


def _bounds(low: float, high: float) -> tuple[float, float]:
    """The range widened so that zero is one of its levels: padding with zeros must stay exact."""
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
    step = (high - low) / (_ACTIVATION_LEVELS - 1)
    below = round(-low / step)
    return -below * step, (_ACTIVATION_LEVELS - 1 - below) * step


def _input_ranges(network: Any, pictures: Sequence[np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
    """By convolution, the mean over pictures of the lowest and of the highest value of its input."""
    import openvino
    from openvino import opset13 as ops

    copy = network.clone()
    convolutions = _convolutions(copy)
    axes = ops.constant(np.arange(4))
    results = []
    for convolution in convolutions:
        source = convolution.input_value(0)
        results += [ops.result(ops.reduce_min(source, axes)), ops.result(ops.reduce_max(source, axes))]
    measuring = openvino.Model(results, copy.get_parameters(), "ranges")
    compiled = openvino.Core().compile_model(measuring, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    values = np.zeros((len(pictures), len(results)))
    for row, picture in zip(values, pictures, strict=True):
        request.infer({0: picture[None]})
        row[:] = [request.get_output_tensor(index).data.item() for index in range(len(results))]
    means = values.mean(axis=0)
    names = [convolution.get_friendly_name() for convolution in convolutions]
    return dict(zip(names, means[0::2], strict=True)), dict(zip(names, means[1::2], strict=True))
