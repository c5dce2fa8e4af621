"""Decoding of the outputs of plain detectors, which the settings describe, to candidate boxes in input pixels."""

from collections.abc import Sequence

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.config.network_config import NetworkSettings
from resources.errors import PipelineError
from resources.inference.decode_heads import select_best
from resources.inference.nms import Candidates

_DETECTION_OUTPUT_VALUES = 7  # image, class, confidence and corners: OpenVINO's operation DetectionOutput
_MIN_PROBABILITY = 1e-7


def decode_plain_outputs(
    outputs: Sequence[np.ndarray],
    network: NetworkSettings,
    input_size_px: tuple[int, int],
    settings: DetectionSettings,
    selected_class_ids: np.ndarray | None = None,
) -> Candidates:
    """Decode the outputs of a plain detector to boxes in input pixels, best first, after thresholds and NMS.

    Args:
        outputs: The outputs for one image, without the batch axis.
        network: Description of the network.
        input_size_px: Width and height of the network's input.
        settings: Thresholds.
        selected_class_ids: Class indices to keep, shape (k,); None keeps all.

    Raises:
        PipelineError: The outputs are not those of such a network.
    """
    decode = {"gfl": _decode_gfl, "yolo": _decode_yolo, "ssd": _decode_ssd, "center": _decode_center}[network.head]
    candidates = decode([_squeeze(output) for output in outputs], network, input_size_px, settings.min_confidence)
    return select_best(candidates, settings, selected_class_ids)


def _squeeze(output: np.ndarray) -> np.ndarray:
    """Drop leading axes of length 1 from an array of more than two axes; integers stay integers."""
    while output.ndim > 2 and output.shape[0] == 1:
        output = output[0]
    return output if np.issubdtype(output.dtype, np.integer) else output.astype(np.float32, copy=False)


def _decode_gfl(
    outputs: Sequence[np.ndarray], network: NetworkSettings, size_px: tuple[int, int], min_confidence: float
) -> Candidates:
    """Decode class scores and, for each side, the distribution of the distance from the anchor in units of the stride.

    Scores and distances may be one array or two, of each level or of all levels.

    Li et al., "Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection",
    2020.
    """
    class_count = len(network.class_names)
    anchors = _anchors(network, size_px)
    # Levels with small strides have more anchors.
    by_level = sorted((output for output in outputs if output.ndim == 2), key=lambda output: -len(output))
    joined = [output for output in by_level if output.shape[1] > class_count and _has_sides(output, class_count)]
    if joined and len(joined) == len(outputs):
        scores, distances = np.split(np.concatenate(joined), [class_count], axis=1)
    else:
        score_parts = [output for output in by_level if output.shape[1] == class_count]
        distance_parts = [output for output in by_level if output.shape[1] != class_count and _has_sides(output, 0)]
        if not score_parts or len(score_parts) != len(distance_parts) or 2 * len(score_parts) != len(outputs):
            raise _shape_error(outputs, network, size_px)
        scores, distances = np.concatenate(score_parts), np.concatenate(distance_parts)
    if len(scores) != len(anchors) or len(distances) != len(anchors):
        raise _shape_error(outputs, network, size_px)
    rows, class_id, confidence = _select_by_score(scores, _min_score(network, min_confidence))
    if network.has_logits:
        confidence = _sigmoid(confidence)
    distribution = softmax(distances[rows].reshape(len(rows), 4, distances.shape[1] // 4))
    distance_px = (distribution @ np.arange(distribution.shape[2], dtype=np.float32)) * anchors[rows, 2:3]
    centre = anchors[rows, :2]
    xyxy = np.concatenate([centre - distance_px[:, :2], centre + distance_px[:, 2:]], axis=1)
    return _candidates(xyxy, confidence, class_id)


def _decode_yolo(
    outputs: Sequence[np.ndarray], network: NetworkSettings, size_px: tuple[int, int], min_confidence: float
) -> Candidates:
    """Decode (boxes, values) or (values, boxes) with centre, size, objectness where the network has it, and scores."""
    first_score = 5 if network.has_objectness else 4
    value_count = first_score + len(network.class_names)
    if len(outputs) != 1 or outputs[0].ndim != 2 or value_count not in outputs[0].shape:
        raise _shape_error(outputs, network, size_px)
    rows = outputs[0] if outputs[0].shape[1] == value_count else outputs[0].T
    scores = _sigmoid(rows[:, 4:]) if network.has_logits else rows[:, 4:]
    if network.has_objectness:
        scores = scores[:, :1] * scores[:, 1:]
    indices, class_id, confidence = _select_by_score(scores, min_confidence)
    centre, size = rows[indices, :2], rows[indices, 2:4]
    if network.strides:
        anchors = _anchors(network, size_px, offset=0.0)
        if len(anchors) != len(rows):
            raise _shape_error(outputs, network, size_px)
        stride_px = anchors[indices, 2:]
        centre, size = anchors[indices, :2] + centre * stride_px, np.exp(size) * stride_px
    return _candidates(np.concatenate([centre - size / 2, centre + size / 2], axis=1), confidence, class_id)


def _decode_ssd(
    outputs: Sequence[np.ndarray], network: NetworkSettings, size_px: tuple[int, int], min_confidence: float
) -> Candidates:
    """Decode corners.

    One output has rows of OpenVINO's DetectionOutput, or rows of corners, confidence and class. Otherwise, there are
    corners with scores by class, or corners with a confidence (in the same or a further output) and integer classes.
    """
    if len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] == _DETECTION_OUTPUT_VALUES:
        rows = outputs[0]
        rows = rows[rows[:, 0] >= 0]  # a negative image marks the end
        xyxy, confidence, labels = rows[:, 3:], rows[:, 2], rows[:, 1]
    elif len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] == 6:
        xyxy, confidence, labels = outputs[0][:, :4], outputs[0][:, 4], outputs[0][:, 5]
    else:
        xyxy, confidence, labels = _read_ssd_outputs(outputs, network, size_px, min_confidence)
    class_id = labels.astype(np.int32) - network.first_class
    is_kept = (confidence > min_confidence) & (class_id >= 0) & (class_id < len(network.class_names))
    if network.box_unit == "shares":
        xyxy = xyxy * np.array(size_px * 2, np.float32)
    return _candidates(xyxy[is_kept], confidence[is_kept], class_id[is_kept])


def _decode_center(
    outputs: Sequence[np.ndarray], network: NetworkSettings, size_px: tuple[int, int], min_confidence: float
) -> Candidates:
    """Decode a heatmap of centres, the logarithms of height and width, and the offset of each centre.

    The outputs are maps of one cell per stride: (rows, columns) or (1, rows, columns) for the heatmap of the only
    class, then size and offset, each (2, rows, columns). Further outputs, such as landmarks, are ignored.

    Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019.
    """
    if len(outputs) < 3 or outputs[0].ndim != 2 or outputs[1].shape != (2, *outputs[0].shape):
        raise _shape_error(outputs, network, size_px)
    heatmap, size, offset = outputs[:3]
    if offset.shape != size.shape or len(network.class_names) != 1:
        raise _shape_error(outputs, network, size_px)
    rows, columns = np.nonzero(heatmap > min_confidence)
    stride_px = size_px[1] / heatmap.shape[0]
    height, width = np.exp(size[:, rows, columns]) * stride_px
    y, x = (np.stack([rows, columns]) + offset[:, rows, columns] + 0.5) * stride_px
    xyxy = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    return _candidates(xyxy, heatmap[rows, columns], np.zeros(len(rows)))


def _read_ssd_outputs(
    outputs: Sequence[np.ndarray], network: NetworkSettings, size_px: tuple[int, int], min_confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read corners, confidence and class of boxes from separate outputs."""
    boxes = [output for output in outputs if output.ndim == 2 and output.shape[1] in (4, 5)]
    score_count = network.first_class + len(network.class_names)
    scores = [output for output in outputs if output.ndim == 2 and output.shape[1] == score_count]
    if len(outputs) == 2 and len(boxes) >= 1 and len(scores) >= 1 and boxes[0] is not scores[-1]:
        by_class = softmax(scores[-1]) if network.has_logits else scores[-1]
        labels = by_class[:, network.first_class :].argmax(axis=1) + network.first_class
        return boxes[0][:, :4], by_class[np.arange(len(labels)), labels], labels
    flat = [output.ravel() for output in outputs if output.ndim == 1 or 1 in output.shape]
    labels_parts = [output for output in flat if np.issubdtype(output.dtype, np.integer)]
    confidences = [output for output in flat if not np.issubdtype(output.dtype, np.integer)]
    if len(boxes) == len(labels_parts) == 1 and len(outputs) == 2 + len(confidences):
        confidence = confidences[0] if confidences else boxes[0][:, 4] if boxes[0].shape[1] == 5 else None
        if confidence is not None:
            return boxes[0][:, :4], confidence, labels_parts[0]
    raise _shape_error(outputs, network, size_px)


def _anchors(network: NetworkSettings, size_px: tuple[int, int], offset: float | None = None) -> np.ndarray:
    """Position of each anchor and its stride, twice: x, y, stride, stride; level by level, row by row."""
    levels = []
    for stride_px in network.strides:
        columns, rows = (-(-side_px // stride_px) for side_px in size_px)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) + (network.anchor_offset if offset is None else offset)
        strides = np.full(len(x), stride_px)
        levels.append(np.stack([x * stride_px, y * stride_px, strides, strides], axis=1))
    return np.concatenate(levels).astype(np.float32)


def _select_by_score(scores: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the rows whose best score is above a bound, with the class and the score."""
    best = scores.max(axis=1)
    rows = np.flatnonzero(best > min_score)
    return rows, scores[rows].argmax(axis=1).astype(np.int32), best[rows]


def _min_score(network: NetworkSettings, min_confidence: float) -> float:
    """The bound of a score that stands for a confidence: its logit where scores are logits."""
    share = max(min_confidence, _MIN_PROBABILITY)
    return float(np.log(share / (1 - share))) if network.has_logits else min_confidence


def _has_sides(output: np.ndarray, first: int) -> bool:
    """Whether the values of an anchor after the first ones are distributions of four sides."""
    value_count = int(output.shape[1]) - first
    return value_count % 4 == 0 and value_count >= 8


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values)))


def softmax(values: np.ndarray) -> np.ndarray:
    """Shares that values stand for as logits, along the last axis."""
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _candidates(xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> Candidates:
    return Candidates(
        xyxy.astype(np.float32),
        confidence.astype(np.float32),
        class_id.astype(np.int32),
        np.zeros((len(confidence), 0), np.float32),
    )


def _shape_error(outputs: Sequence[np.ndarray], network: NetworkSettings, size_px: tuple[int, int]) -> PipelineError:
    shapes = ", ".join(str(output.shape) for output in outputs)
    return PipelineError(
        f"network: the outputs have the shapes {shapes} for images of {size_px[0]}x{size_px[1]} px, which are not "
        f"those of a head {network.head} of {len(network.class_names)} classes: correct head, classes, strides or the "
        "other keys."
    )
