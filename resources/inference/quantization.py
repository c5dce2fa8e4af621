"""Quantization of OpenVINO networks to int8, calibrated on frames of the user's own recordings.

The weights of every convolution get 255 levels, scaled per output channel. Its input gets 256 levels, between the mean
over the calibration images of the lowest values and that of the highest values. OpenVINO then computes the convolution
with the processor's int8 instructions. Depthwise convolutions, attention and the decoding of boxes are not quantized.

The scheme is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018. NNCF does the same, but would add 214 MB of packages, such as
SciPy; with its presets the bundled model had 93 % to 114 % of this speed, and three to five times the error of boxes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

_ACTIVATION_LEVELS = 256
_WEIGHT_LEVELS = 255


def quantize(network: Any, images: Sequence[np.ndarray]) -> Any:
    """Return a copy of an OpenVINO network whose convolutions compute in int8.

    Args:
        network: Its input is one uint8 image of shape (1, height_px, width_px, 3).
        images: Letterboxed images to calibrate on, uint8 of shape (height_px, width_px, 3).
    """
    from openvino import opset13 as ops

    low, high = _measure_input_ranges(network, images)
    copy = network.clone()
    quantized_inputs: dict[tuple[str, int], Any] = {}
    for convolution in _convolutions(copy):
        source = convolution.input_value(0)
        weights = _constant_value(convolution.input_value(1).get_node())
        if weights is None:
            continue
        name = (source.get_node().get_friendly_name(), source.get_index())
        if name not in quantized_inputs:
            bounds = _align_to_zero(low[convolution.get_friendly_name()], high[convolution.get_friendly_name()])
            limits = [ops.constant(np.full((1, 1, 1, 1), bound, np.float32)) for bound in bounds]
            quantized_inputs[name] = ops.fake_quantize(source, *limits, *limits, _ACTIVATION_LEVELS)
        convolution.input(0).replace_source_output(quantized_inputs[name].output(0))
        largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True).clip(1e-6)
        limits = [ops.constant(-largest), ops.constant(largest)]
        quantized_weights = ops.fake_quantize(ops.constant(weights), *limits, *limits, _WEIGHT_LEVELS)
        convolution.input(1).replace_source_output(quantized_weights.output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _convolutions(network: Any) -> list[Any]:
    return [node for node in network.get_ordered_ops() if node.get_type_name() == "Convolution"]


def _constant_value(node: Any) -> np.ndarray | None:
    """Return the float32 value of a constant, also behind a type conversion; None for any other node."""
    if node.get_type_name() == "Convert":
        return _constant_value(node.input_value(0).get_node())
    if node.get_type_name() != "Constant":
        return None
    return np.asarray(node.get_data(), np.float32)


def _align_to_zero(low: float, high: float) -> tuple[float, float]:
    """Widen a range so that zero is one of its levels: zero padding must stay exact."""
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
    step = (high - low) / (_ACTIVATION_LEVELS - 1)
    zero_level = round(-low / step)
    return -zero_level * step, (_ACTIVATION_LEVELS - 1 - zero_level) * step


def _measure_input_ranges(network: Any, images: Sequence[np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
    """Measure, by convolution, the mean over images of the lowest and of the highest value of its input."""
    import openvino
    from openvino import opset13 as ops

    copy = network.clone()
    convolutions = _convolutions(copy)
    axes = ops.constant(np.arange(4))
    results = []
    for convolution in convolutions:
        source = convolution.input_value(0)
        results += [ops.result(ops.reduce_min(source, axes)), ops.result(ops.reduce_max(source, axes))]
    range_network = openvino.Model(results, copy.get_parameters(), "ranges")
    compiled = openvino.Core().compile_model(range_network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    values = np.zeros((len(images), len(results)))
    for row, image in zip(values, images, strict=True):
        request.infer({0: image[None]})
        row[:] = [request.get_output_tensor(index).data.item() for index in range(len(results))]
    means = values.mean(axis=0)
    names = [convolution.get_friendly_name() for convolution in convolutions]
    return dict(zip(names, means[0::2], strict=True)), dict(zip(names, means[1::2], strict=True))
