"""Decoding of a network's raw output to candidate boxes in input pixels."""

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference.nms import Candidates, suppress_overlaps


def decode_output(
    output: np.ndarray,
    class_count: int,
    settings: DetectionSettings,
    selected_class_ids: np.ndarray | None = None,
    *,
    extra_count: int = 0,
    is_oriented: bool = False,
) -> Candidates:
    """Decode a network's raw output to boxes in input pixels, best first, after thresholds and NMS.

    Args:
        output: float32, (4 + class_count + extra_count, anchors) with centre, size, class scores and extra values; or
            (boxes, 6 + extra_count) with corners, confidence, class and extra values from networks that need no NMS.
        class_count: Number of classes of the model.
        settings: Thresholds.
        selected_class_ids: Class indices to keep, shape (k,); None keeps all.
        extra_count: Values per box beyond box and classes.
        is_oriented: Whether boxes are oriented: they stay centre and size, and the last extra value is the rotation.

    Raises:
        PipelineError: The output has another shape.
    """
    first_extra = 4 + class_count
    # Tested first, because no network has as few as 6 + extra_count anchors.
    if output.ndim == 2 and output.shape[1] == 6 + extra_count:
        rows = output[output[:, 4] > settings.min_confidence]
        candidates = Candidates(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32), rows[:, 6:])
        needs_nms = False
    elif output.ndim == 2 and output.shape[0] == first_extra + extra_count:
        best_score = output[4:first_extra].max(axis=0)
        anchors = np.flatnonzero(best_score > settings.min_confidence)
        rows = output[:, anchors].T
        box, half_size = rows[:, :4], rows[:, 2:4] / 2
        xyxy = box if is_oriented else np.concatenate([box[:, :2] - half_size, box[:, :2] + half_size], axis=1)
        class_id = rows[:, 4:first_extra].argmax(axis=1).astype(np.int32)
        candidates = Candidates(xyxy, best_score[anchors], class_id, rows[:, first_extra:])
        needs_nms = True
    else:
        raise PipelineError(
            f"The model's output has the shape {output.shape}, not that of a detector of {class_count} classes: export "
            "the weights again with Ultralytics, or use others."
        )
    return select_best(candidates, settings, selected_class_ids, needs_nms=needs_nms, is_oriented=is_oriented)


def select_best(
    candidates: Candidates,
    settings: DetectionSettings,
    selected_class_ids: np.ndarray | None,
    *,
    needs_nms: bool = True,
    is_oriented: bool = False,
) -> Candidates:
    """Select the candidates of some classes that remain after NMS, best first, up to `max_per_frame`.

    Args:
        candidates: Candidates in any order.
        settings: Thresholds.
        selected_class_ids: Class indices to keep, shape (k,); None keeps all.
        needs_nms: Whether NMS is due.
        is_oriented: Whether boxes are oriented.
    """
    if selected_class_ids is not None:
        candidates = candidates.select(np.isin(candidates.class_id, selected_class_ids))
    candidates = candidates.select(np.argsort(-candidates.confidence, kind="stable"))
    if needs_nms and len(candidates.confidence):
        candidates = candidates.select(suppress_overlaps(candidates, settings.nms_iou, is_oriented=is_oriented))
    return candidates.select(slice(settings.max_per_frame))
