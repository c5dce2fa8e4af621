"""<name>_crop_boxes: what a detector finds in each crop, in pixels of the normalized video."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cv_assets.crop_reading import CROP_KEY, answer_crops, box_columns
from cv_assets.crop_selection import Crop
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Detector
from resources.media.progress import ReportProgress


def box_rows(
    crops: Sequence[Mapping[str, Any]], detector: Detector, padding: float, progress: ReportProgress
) -> list[dict[str, Any]]:
    """Detect objects in crops; one without a box gets a row without a box, one without an answer the reason.

    Args:
        crops: Rows of `crops`.
        detector: The detector.
        padding: Margin with which the crops were cut.
        progress: Takes the number of crops.

    Returns:
        Rows of `crop_boxes`.
    """

    def detect(batch: Iterable[Crop]) -> Iterator[Detections]:
        return detector.detect(crop.image for crop in batch)

    model = {"model_id": detector.model_id, "engine_name": detector.engine_name}
    return [
        row | model
        for crop, answer, error in answer_crops(crops, detect, progress)
        for row in _rows_of_crop(crop, answer, error, detector.class_names, padding)
    ]


def _rows_of_crop(
    crop: Mapping[str, Any],
    answer: Detections | None,
    error: str | None,
    class_names: Mapping[int, str],
    padding: float,
) -> Iterator[dict[str, Any]]:
    key = {name: crop[name] for name in (*CROP_KEY, "frame_index", "time_s")}
    if answer is None or len(answer) == 0:
        no_box = {"class_name": None, "confidence": None, **box_columns(None, crop, padding)}
        yield {**key, "box_index": 0, **no_box, "error": error}
        return
    for index, (xyxy, confidence, class_id) in enumerate(
        zip(answer.xyxy, answer.confidence, answer.class_id, strict=True)
    ):
        yield {
            **key,
            "box_index": index,
            "class_name": class_names[int(class_id)],
            "confidence": float(confidence),
            **box_columns(xyxy, crop, padding),
            "error": None,
        }
