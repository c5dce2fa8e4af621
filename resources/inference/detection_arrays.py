"""The result of a model on one frame, as arrays in pixels of the frame."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.geometry.zone_geometry import polygon_contains
from resources.inference.decode_heads import decode_output
from resources.inference.detection_region import DetectionRegion
from resources.inference.letterbox import CentreCrop, Letterbox
from resources.inference.nms import Candidates
from resources.inference.plain_heads import decode_plain_outputs, softmax
from resources.inference.weights_description import ModelWeights

_MAX_CLASSES_PER_FRAME = 5


@dataclass(frozen=True)
class Detections:
    """The detections of a model in one frame, best first. All lengths are in pixels of the frame.

    Attributes:
        xyxy: float32 array of shape (n, 4), corners of the upright boxes.
        confidence: float32 array of shape (n,).
        class_id: int32 array of shape (n,).
        keypoints: float32 array of shape (n, points, 3) with x, y and confidence; None except for the task pose.
        oriented_boxes: float32 array of shape (n, 5) with centre x, centre y, width, height and clockwise rotation in
            radians; None except for the task obb.
        polygons: One float32 array of shape (corners, 2) per box, the outline of its mask; None except for the task
            segment.
        mask_areas: float64 array of shape (n,), the area of each mask in square pixels; None except for the task
            segment.
        is_reused: Whether these are the detections of an earlier frame, because this frame has not changed since.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    keypoints: np.ndarray | None = None
    oriented_boxes: np.ndarray | None = None
    polygons: list[np.ndarray] | None = field(default=None, compare=False)
    mask_areas: np.ndarray | None = None
    is_reused: bool = False

    def __len__(self) -> int:
        return len(self.confidence)

    def to_full_frame(self, region: DetectionRegion, *, keep_outside: bool = False) -> "Detections":
        """Convert detections in a region's rectangle to pixels of the whole frame.

        Boxes whose centre lies outside the region's polygons are dropped.

        Args:
            region: The region on which the model ran.
            keep_outside: Whether to keep boxes outside the polygons, as for classes of the whole region.
        """
        if not region.polygons:
            return self
        offset = np.array([region.left_px, region.top_px], np.float32)
        xyxy = self.xyxy + np.tile(offset, 2)
        centres = (xyxy[:, :2] + xyxy[:, 2:]) / 2
        is_in_region = np.any([polygon_contains(polygon, centres) for polygon in region.polygons], axis=0)
        indices = np.flatnonzero(is_in_region | keep_outside)
        keypoints, boxes = self.keypoints, self.oriented_boxes
        return replace(
            self,
            xyxy=xyxy[indices],
            confidence=self.confidence[indices],
            class_id=self.class_id[indices],
            keypoints=None if keypoints is None else keypoints[indices] + np.array([*offset, 0], np.float32),
            oriented_boxes=None if boxes is None else boxes[indices] + np.array([*offset, 0, 0, 0], np.float32),
            polygons=None if self.polygons is None else [self.polygons[index] + offset for index in indices],
            mask_areas=None if self.mask_areas is None else self.mask_areas[indices],
        )


def read_detections(
    outputs: tuple[np.ndarray, ...],
    model: ModelWeights,
    fit: Letterbox | CentreCrop,
    settings: DetectionSettings,
    selected_class_ids: np.ndarray | None,
    width_px: int,
    height_px: int,
) -> Detections:
    """Read the detections in one frame from a network's raw outputs.

    Args:
        outputs: The network's outputs for one frame; the second, of shape (coefficients, rows, columns), contains the
            mask prototypes of the task segment.
        model: The network's weights.
        fit: How the frame was resized to the network's input.
        settings: Thresholds.
        selected_class_ids: Class indices to keep, shape (k,); None keeps all.
        width_px: Width of the frame.
        height_px: Height of the frame.
    """
    class_count = len(model.class_names)
    if isinstance(fit, CentreCrop):
        scores = outputs[0].ravel()
        if model.network is not None and model.network.has_logits:
            scores = softmax(scores.astype(np.float32))
        return _read_classes(scores, selected_class_ids, width_px, height_px)
    if model.network is not None:
        input_size_px = (fit.input_width_px, fit.input_height_px)
        candidates = decode_plain_outputs(outputs, model.network, input_size_px, settings, selected_class_ids)
        xyxy = fit.to_frame_pixels(candidates.xyxy, width_px, height_px)
        return Detections(xyxy, candidates.confidence, candidates.class_id)
    extra_count = {
        "segment": outputs[1].shape[0] if len(outputs) > 1 else 0,
        "pose": model.keypoint_count * model.keypoint_values,
        "obb": 1,
    }.get(model.task, 0)
    candidates = decode_output(
        outputs[0], class_count, settings, selected_class_ids, extra_count=extra_count, is_oriented=model.task == "obb"
    )
    if model.task == "obb":
        return _read_oriented_boxes(candidates, fit, width_px, height_px)
    xyxy = fit.to_frame_pixels(candidates.xyxy, width_px, height_px)
    if model.task == "pose":
        points = candidates.extra.reshape(-1, model.keypoint_count, model.keypoint_values)
        confidence = points[..., 2:] if model.keypoint_values == 3 else np.ones_like(points[..., :1])
        keypoints = np.concatenate([fit.to_frame_pixels(points[..., :2], width_px, height_px), confidence], axis=2)
        return Detections(xyxy, candidates.confidence, candidates.class_id, keypoints=keypoints)
    if model.task == "segment":
        return _read_masks(candidates, xyxy, outputs[1], fit, width_px, height_px)
    return Detections(xyxy, candidates.confidence, candidates.class_id)


def _read_classes(
    output: np.ndarray, selected_class_ids: np.ndarray | None, width_px: int, height_px: int
) -> Detections:
    """Read the most likely classes of a frame, each with the whole frame as its box."""
    scores = output.ravel()
    class_ids = np.argsort(-scores, kind="stable")
    if selected_class_ids is not None:
        class_ids = class_ids[np.isin(class_ids, selected_class_ids)]
    class_ids = class_ids[:_MAX_CLASSES_PER_FRAME]
    xyxy = np.tile(np.array([0, 0, width_px, height_px], np.float32), (len(class_ids), 1))
    return Detections(xyxy, scores[class_ids], class_ids.astype(np.int32))


def _read_oriented_boxes(candidates: Candidates, fit: Letterbox, width_px: int, height_px: int) -> Detections:
    """Read oriented boxes, with the upright boxes that enclose them."""
    rotation = candidates.extra[:, 0]
    size = candidates.xyxy[:, 2:] / np.float32(fit.scale)
    centre = (candidates.xyxy[:, :2] - np.array([fit.left_px, fit.top_px], np.float32)) / np.float32(fit.scale)
    cos, sin = np.abs(np.cos(rotation)), np.abs(np.sin(rotation))
    half_size = np.stack([size[:, 0] * cos + size[:, 1] * sin, size[:, 0] * sin + size[:, 1] * cos], axis=1) / 2
    bounds = np.array([width_px, height_px] * 2, np.float32)
    xyxy = np.clip(np.concatenate([centre - half_size, centre + half_size], axis=1), 0, bounds)
    oriented_boxes = np.concatenate([centre, size, rotation[:, None]], axis=1)
    return Detections(xyxy, candidates.confidence, candidates.class_id, oriented_boxes=oriented_boxes)


def _read_masks(
    candidates: Candidates, xyxy: np.ndarray, prototypes: np.ndarray, fit: Letterbox, width_px: int, height_px: int
) -> Detections:
    """Read boxes with the outlines of their masks; a box whose mask is empty is dropped."""
    import cv2

    polygons, areas, indices = [], [], []
    size = (fit.input_width_px, fit.input_height_px)
    for index, (box, coefficients) in enumerate(zip(candidates.xyxy, candidates.extra, strict=True)):
        logits = np.tensordot(coefficients, prototypes, axes=1).astype(np.float32)
        # The pixels whose top left corner lies inside the box, as Ultralytics crops masks.
        left, top, right, bottom = (max(0, math.ceil(float(side))) for side in box)
        mask = (cv2.resize(logits, size)[top:bottom, left:right] > 0).astype(np.uint8)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0] if mask.size else ()
        if not contours:
            continue
        outline = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(np.float32)
        polygons.append(fit.to_frame_pixels(outline + np.array([left, top], np.float32), width_px, height_px))
        areas.append(float(mask.sum()) / fit.scale**2)
        indices.append(index)
    order = np.array(indices, np.int64)
    return Detections(
        xyxy[order],
        candidates.confidence[order],
        candidates.class_id[order],
        polygons=polygons,
        mask_areas=np.array(areas),
    )
