"""From pictures to a network's input, and from its raw output to boxes in the picture.

Both are those of Ultralytics: what its predictor finds in a picture is found here.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from resources.errors import PipelineError
from resources.inference.weights import STRIDE_PX, ModelWeights
from resources.settings import DetectionSettings

PADDING_GREY = 114
_CLASS_OFFSET_PX = 7680.0  # moves the boxes of different classes apart, so that one pass of NMS serves all classes
_CLASSES_KEPT = 5
_NMS_ROWS = 256  # bounds the memory that many candidates take


@dataclass(frozen=True)
class Found:
    """What a model finds in one picture, best first. All lengths are in pixels of the picture.

    Attributes:
        xyxy: float32 array of shape (n, 4), corners of the upright boxes.
        confidence: float32 array of shape (n,).
        class_id: int32 array of shape (n,).
        keypoints: float32 array of shape (n, points, 3) with x, y and confidence; None but for the task pose.
        oriented: float32 array of shape (n, 5) with centre x, centre y, width, height and clockwise turn in radians;
            None but for the task obb.
        polygons: One float32 array of shape (corners, 2) per box, the outline of its mask; None but for the task
            segment.
        mask_areas: float64 array of shape (n,), the area of each mask in square pixels; None but for the task segment.
        is_reused: Whether this was found in an earlier picture that looks the same.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    keypoints: np.ndarray | None = None
    oriented: np.ndarray | None = None
    polygons: list[np.ndarray] | None = field(default=None, compare=False)
    mask_areas: np.ndarray | None = None
    is_reused: bool = False

    def __len__(self) -> int:
        return len(self.confidence)


class Fit(Protocol):
    """How pictures of one size become a network's input."""

    @property
    def input_width_px(self) -> int:
        """Width of the network's input."""
        ...

    @property
    def input_height_px(self) -> int:
        """Height of the network's input."""
        ...

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Fit a uint8 picture of shape (height_px, width_px, 3); the result has the input's height and width."""
        ...


@dataclass(frozen=True)
class Letterbox:
    """How a picture is fitted into the model's input, and boxes back into the picture.

    The same fit as Ultralytics' `LetterBox`: scaled to the longer side, padded to a multiple of the stride, or to the
    one size that an exported network takes.
    """

    input_width_px: int
    input_height_px: int
    scaled_width_px: int
    scaled_height_px: int
    left_px: int
    top_px: int
    scale: float

    @classmethod
    def of(cls, width_px: int, height_px: int, image_size_px: int, stride_px: int = STRIDE_PX) -> "Letterbox":
        """The fit of a picture into an input of a longer side `image_size_px`, its sides multiples of a stride."""
        scale = min(image_size_px / width_px, image_size_px / height_px)
        scaled_width, scaled_height = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        return cls._padded(scaled_width, scaled_height, -scaled_width % stride_px, -scaled_height % stride_px, scale)

    @classmethod
    def into(cls, width_px: int, height_px: int, input_width_px: int, input_height_px: int) -> "Letterbox":
        """The fit of a picture into an input of exactly this size."""
        scale = min(input_width_px / width_px, input_height_px / height_px)
        scaled_width, scaled_height = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        return cls._padded(
            scaled_width, scaled_height, input_width_px - scaled_width, input_height_px - scaled_height, scale
        )

    @classmethod
    def _padded(cls, width_px: int, height_px: int, pad_x_px: int, pad_y_px: int, scale: float) -> "Letterbox":
        # Half a pixel of padding goes to the right and to the bottom, as in Ultralytics.
        left, top = round(pad_x_px / 2 - 0.1), round(pad_y_px / 2 - 0.1)
        return cls(width_px + pad_x_px, height_px + pad_y_px, width_px, height_px, left, top, scale)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """See `Fit.apply`."""
        import cv2

        size = (self.scaled_width_px, self.scaled_height_px)
        if (self.input_width_px, self.input_height_px) == size:
            return picture if picture.shape[1::-1] == size else cv2.resize(picture, size)
        fitted = np.empty((self.input_height_px, self.input_width_px, 3), np.uint8)
        bottom_px, right_px = self.top_px + size[1], self.left_px + size[0]
        for padding in (
            fitted[: self.top_px],
            fitted[bottom_px:],
            fitted[self.top_px : bottom_px, : self.left_px],
            fitted[self.top_px : bottom_px, right_px:],
        ):
            padding[:] = PADDING_GREY
        inside = fitted[self.top_px : bottom_px, self.left_px : right_px]
        if picture.shape[1::-1] == size:
            inside[:] = picture
        else:
            cv2.resize(picture, size, dst=inside)
        return fitted

    def back(self, xy: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
        """Points in input pixels, x and y in turn along the last axis, as points in the picture, clipped to it."""
        count = xy.shape[-1] // 2
        moved = (xy - np.array([self.left_px, self.top_px] * count, np.float32)) / np.float32(self.scale)
        return np.clip(moved, 0, np.array([width_px, height_px] * count, np.float32))


@dataclass(frozen=True)
class CentreCrop:
    """How a picture becomes a classifier's input: its shorter side scaled to the input's, the middle cut out."""

    input_width_px: int
    input_height_px: int

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """See `Fit.apply`."""
        from PIL import Image  # its scaling averages over all pixels, which OpenCV's linear one does not

        height_px, width_px = picture.shape[:2]
        scale = max(self.input_width_px / width_px, self.input_height_px / height_px)
        size = (
            max(self.input_width_px, int(width_px * scale)),
            max(self.input_height_px, int(height_px * scale)),
        )
        scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        left, top = round((size[0] - self.input_width_px) / 2), round((size[1] - self.input_height_px) / 2)
        return np.ascontiguousarray(scaled[top : top + self.input_height_px, left : left + self.input_width_px])


def fit_of(model: ModelWeights, width_px: int, height_px: int, image_size_px: int | None) -> Letterbox | CentreCrop:
    """How pictures of one size become a model's input.

    Args:
        model: A network of one input size keeps it.
        width_px: Width of the pictures.
        height_px: Height of the pictures.
        image_size_px: Longer side of the input; None means what the model was trained with.
    """
    size_px = image_size_px or model.image_size_px
    if model.task == "classify":
        return CentreCrop(model.input_width_px or size_px, model.input_height_px or size_px)
    if model.input_width_px and model.input_height_px:
        return Letterbox.into(width_px, height_px, model.input_width_px, model.input_height_px)
    return Letterbox.of(width_px, height_px, size_px, model.stride_px)


@dataclass(frozen=True)
class Candidates:
    """What passes the thresholds, best first, in pixels of the network's input.

    Attributes:
        xyxy: float32 array of shape (n, 4), corners; for the task obb centre, width and height.
        confidence: float32 array of shape (n,).
        class_id: int32 array of shape (n,).
        extra: float32 array of shape (n, values): mask coefficients, keypoints or the turn.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    extra: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def take(self, chosen: np.ndarray | slice) -> "Candidates":
        """Only the chosen ones."""
        return Candidates(self.xyxy[chosen], self.confidence[chosen], self.class_id[chosen], self.extra[chosen])


def decode_output(
    output: np.ndarray,
    class_count: int,
    settings: DetectionSettings,
    wanted: np.ndarray | None = None,
    *,
    extra_count: int = 0,
    is_oriented: bool = False,
) -> Candidates:
    """The boxes in a network's raw output, in input pixels, best first.

    Args:
        output: float32, (4 + class_count + extra_count, anchors) with centre, size, class scores and extra values; or
            (boxes, 6 + extra_count) with corners, confidence, class and extra values from networks that need no NMS.
        class_count: Number of classes of the model.
        settings: Thresholds.
        wanted: Class indices to keep, shape (k,); None keeps all.
        extra_count: Values per box beyond box and classes.
        is_oriented: Whether boxes are turned: they stay centre and size, and the last extra value is the turn.

    Raises:
        PipelineError: The output has neither shape.
    """
    first_extra = 4 + class_count
    if output.ndim == 2 and output.shape[1] == 6 + extra_count:  # first: no network has so few anchors
        rows = output[output[:, 4] > settings.min_confidence]
        found = Candidates(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32), rows[:, 6:])
        needs_nms = False
    elif output.ndim == 2 and output.shape[0] == first_extra + extra_count:
        scores = output[4:first_extra]
        best = scores.max(axis=0)
        candidates = np.flatnonzero(best > settings.min_confidence)
        chosen = output[:, candidates].T
        box, half = chosen[:, :4], chosen[:, 2:4] / 2
        xyxy = box if is_oriented else np.concatenate([box[:, :2] - half, box[:, :2] + half], axis=1)
        class_id = chosen[:, 4:first_extra].argmax(axis=1).astype(np.int32)
        found = Candidates(xyxy, best[candidates], class_id, chosen[:, first_extra:])
        needs_nms = True
    else:
        raise PipelineError(
            f"The model's output has the shape {output.shape}, not that of a detector of {class_count} classes."
        )
    if wanted is not None:
        found = found.take(np.isin(found.class_id, wanted))
    found = found.take(np.argsort(-found.confidence, kind="stable"))
    if needs_nms and len(found.confidence):
        found = found.take(_kept_by_nms(found, settings.nms_iou, is_oriented=is_oriented))
    return found.take(slice(settings.max_per_frame))


def _kept_by_nms(found: Candidates, iou_threshold: float, *, is_oriented: bool) -> np.ndarray:
    if is_oriented:
        shared = probabilistic_iou(np.concatenate([found.xyxy, found.extra[:, -1:]], axis=1))
        shared *= found.class_id[:, None] == found.class_id[None, :]
        # As Ultralytics does it for turned boxes: dropped by any better one, also by one that is itself dropped.
        return np.flatnonzero(~(np.triu(shared, 1) > iou_threshold).any(axis=0))
    offset = (found.class_id * _CLASS_OFFSET_PX)[:, None].astype(np.float32)
    return _nms(found.xyxy + offset, iou_threshold)


def _nms(xyxy: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression of boxes that are sorted best first.

    Args:
        xyxy: Corners, shape (n, 4).
        iou_threshold: A box overlapping a better one by more than this is dropped.

    Returns:
        Ascending indices of the boxes that stay.
    """
    left, top, right, bottom = np.ascontiguousarray(xyxy.T)
    area = (right - left) * (bottom - top)
    alive = np.ones(len(xyxy), bool)
    # Many boxes at a time with all that follow: box by box, most of the time would go into calling numpy.
    for first in range(0, len(xyxy), _NMS_ROWS):
        those, rest = (slice(first, first + _NMS_ROWS), None), slice(first, None)
        width = np.minimum(right[those], right[rest]) - np.maximum(left[those], left[rest])
        height = np.minimum(bottom[those], bottom[rest]) - np.maximum(top[those], top[rest])
        shared = width.clip(0) * height.clip(0)
        drops = np.triu(~(shared <= iou_threshold * (area[those] + area[rest] - shared)), 1)
        for index in np.flatnonzero(drops.any(axis=1)):
            if alive[first + index]:
                alive[rest] &= ~drops[index]
    return np.flatnonzero(alive)


def probabilistic_iou(boxes: np.ndarray) -> np.ndarray:
    """How much turned boxes overlap, each taken for a normal distribution.

    Args:
        boxes: Centre x, centre y, width, height and turn in radians, shape (n, 5).

    Returns:
        float array of shape (n, n), 0 to 1.

    Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for Object Detection", 2021.
    """
    x, y = boxes[:, 0], boxes[:, 1]
    along, across = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    a, b = along * cos**2 + across * sin**2, along * sin**2 + across * cos**2
    c = (along - across) * cos * sin
    tiny = 1e-7
    sum_a, sum_b, sum_c = a[:, None] + a, b[:, None] + b, c[:, None] + c
    dx, dy = x[:, None] - x, y[:, None] - y
    determinant = sum_a * sum_b - sum_c**2
    distance = (sum_a * dy**2 + sum_b * dx**2) / (determinant + tiny) / 4
    distance += sum_c * -dx * dy / (determinant + tiny) / 2
    own = np.sqrt((a * b - c**2).clip(0))
    distance += np.log(determinant / (4 * own[:, None] * own + tiny) + tiny) / 2
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance.clip(tiny, 100)) + tiny))


def found_in(
    outputs: tuple[np.ndarray, ...],
    model: ModelWeights,
    fit: Letterbox | CentreCrop,
    settings: DetectionSettings,
    wanted: np.ndarray | None,
    width_px: int,
    height_px: int,
) -> Found:
    """What a network's raw outputs say about a picture.

    Args:
        outputs: The network's outputs for one picture; the second, of shape (coefficients, rows, columns), holds the
            mask prototypes of the task segment.
        model: Whose outputs these are.
        fit: How the picture was fitted into the input.
        settings: Thresholds.
        wanted: Class indices to keep, shape (k,); None keeps all.
        width_px: Width of the picture.
        height_px: Height of the picture.
    """
    class_count = len(model.class_names)
    if isinstance(fit, CentreCrop):
        return _classes(outputs[0], wanted, width_px, height_px)
    extra_count = {
        "segment": outputs[1].shape[0] if len(outputs) > 1 else 0,
        "pose": model.keypoint_count * model.keypoint_values,
        "obb": 1,
    }.get(model.task, 0)
    found = decode_output(
        outputs[0], class_count, settings, wanted, extra_count=extra_count, is_oriented=model.task == "obb"
    )
    if model.task == "obb":
        return _oriented(found, fit, width_px, height_px)
    xyxy = fit.back(found.xyxy, width_px, height_px)
    if model.task == "pose":
        points = found.extra.reshape(-1, model.keypoint_count, model.keypoint_values)
        confidence = points[..., 2:] if model.keypoint_values == 3 else np.ones_like(points[..., :1])
        keypoints = np.concatenate([fit.back(points[..., :2], width_px, height_px), confidence], axis=2)
        return Found(xyxy, found.confidence, found.class_id, keypoints=keypoints)
    if model.task == "segment":
        return _masked(found, xyxy, outputs[1], fit, width_px, height_px)
    return Found(xyxy, found.confidence, found.class_id)


def _classes(output: np.ndarray, wanted: np.ndarray | None, width_px: int, height_px: int) -> Found:
    """The likeliest classes of a picture, each with the whole picture as its box."""
    scores = output.ravel()
    order = np.argsort(-scores, kind="stable")
    if wanted is not None:
        order = order[np.isin(order, wanted)]
    order = order[:_CLASSES_KEPT]
    xyxy = np.tile(np.array([0, 0, width_px, height_px], np.float32), (len(order), 1))
    return Found(xyxy, scores[order], order.astype(np.int32))


def _oriented(found: Candidates, fit: Letterbox, width_px: int, height_px: int) -> Found:
    """Turned boxes, and the upright ones that enclose them."""
    turn = found.extra[:, 0]
    size = found.xyxy[:, 2:] / np.float32(fit.scale)
    centre = (found.xyxy[:, :2] - np.array([fit.left_px, fit.top_px], np.float32)) / np.float32(fit.scale)
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    half = np.stack([size[:, 0] * cos + size[:, 1] * sin, size[:, 0] * sin + size[:, 1] * cos], axis=1) / 2
    bounds = np.array([width_px, height_px] * 2, np.float32)
    xyxy = np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, bounds)
    oriented = np.concatenate([centre, size, turn[:, None]], axis=1)
    return Found(xyxy, found.confidence, found.class_id, oriented=oriented)


def _masked(
    found: Candidates, xyxy: np.ndarray, prototypes: np.ndarray, fit: Letterbox, width_px: int, height_px: int
) -> Found:
    """Boxes with the outlines of their masks; a box whose mask is empty is left out."""
    import cv2

    polygons, areas, kept = [], [], []
    size = (fit.input_width_px, fit.input_height_px)
    for index, (box, coefficients) in enumerate(zip(found.xyxy, found.extra, strict=True)):
        logits = np.tensordot(coefficients, prototypes, axes=1).astype(np.float32)
        # The pixels whose corner lies in the box, as Ultralytics cuts masks.
        left, top, right, bottom = (max(0, math.ceil(float(side))) for side in box)
        mask = (cv2.resize(logits, size)[top:bottom, left:right] > 0).astype(np.uint8)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0] if mask.size else ()
        if not contours:
            continue
        outline = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(np.float32)
        polygons.append(fit.back(outline + np.array([left, top], np.float32), width_px, height_px))
        areas.append(float(mask.sum()) / fit.scale**2)
        kept.append(index)
    chosen = np.array(kept, np.int64)
    return Found(
        xyxy[chosen], found.confidence[chosen], found.class_id[chosen], polygons=polygons, mask_areas=np.array(areas)
    )
