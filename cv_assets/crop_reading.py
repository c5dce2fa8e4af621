"""Reads the crops of a recording for crop models, and keeps the error of one crop from the others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from cv_assets.crop_selection import Crop, crop_origin
from resources.errors import PipelineError, RecordingError, summarize_exception
from resources.media.progress import ReportProgress
from resources.schema.columns import BOX
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store

CROP_KEY = ("recording_id", "track_id", "rank")
DELETED = "The picture was deleted by retention (retention.crops_after_days)."
_COLUMNS = (*CROP_KEY, "class_name", "frame_index", "time_s", *(column.name for column in BOX), "crop_scale", "jpeg")
_BATCH = 128  # crops that are decoded at once, and whose answers are repeated one by one after an error
_Answer = TypeVar("_Answer")


def read_crops(recording_id: str, store: Store, classes: Sequence[str] | None) -> list[dict[str, Any]]:
    """Read the crops of one recording, by track and rank.

    Args:
        recording_id: The recording.
        store: The tables.
        classes: Only tracks of these classes; None for all.
    """
    crops = store.read(CROPS, [recording_id], list(_COLUMNS)).to_pylist()
    selected = [crop for crop in crops if classes is None or crop["class_name"] in classes]
    return sorted(selected, key=lambda crop: (crop["track_id"], crop["rank"]))


def answer_crops(
    crops: Sequence[Mapping[str, Any]],
    compute: Callable[[Iterable[Crop]], Iterable[_Answer]],
    progress: ReportProgress,
) -> Iterator[tuple[Mapping[str, Any], _Answer | None, str | None]]:
    """Compute the answers for crops; one without a picture, or with which the model fails, gets the reason.

    Args:
        crops: Rows of `crops`, with the JPEG.
        compute: Yields one answer for each of several crops, in order.
        progress: Takes the number of answered crops.

    Yields:
        The row, the answer, and the reason why there is none; in order.

    Raises:
        RecordingError: The model fails with every crop.
    """
    done_count, failed_count = 0, 0
    for first in range(0, len(crops), _BATCH):
        decoded = [(row, decode_jpeg(row["jpeg"])) for row in crops[first : first + _BATCH]]
        readable = [Crop(row, image) for row, image in decoded if not isinstance(image, str)]
        answers = iter(_compute_each(readable, compute))
        error: str | None = None
        for row, image in decoded:
            if isinstance(image, str):
                yield row, None, image
                continue
            answer, error = next(answers)
            failed_count += error is not None
            yield row, answer, error
        done_count += len(readable)
        if failed_count > 1 and failed_count == done_count:
            raise RecordingError(f"The crop model fails with each of {failed_count} crops: {error}")
        progress(min(len(crops), done_count), len(crops))


def _compute_each(
    crops: Sequence[Crop], compute: Callable[[Iterable[Crop]], Iterable[_Answer]]
) -> list[tuple[_Answer | None, str | None]]:
    """Compute the answers for some crops; after an error one by one, so that it costs the crop that causes it alone."""
    if not crops:
        return []
    try:
        return [(answer, None) for answer in compute(crops)]
    except PipelineError:
        raise
    except Exception as error:
        # Models and libraries raise errors of many types; each is the reason of its crop.
        if len(crops) == 1:
            return [(None, f"The crop model fails: {summarize_exception(error)}")]
        return [result for crop in crops for result in _compute_each([crop], compute)]


def decode_jpeg(jpeg: bytes | None) -> np.ndarray | str:
    """Decode a crop to uint8 BGR; a sentence if that is not possible."""
    import cv2

    if jpeg is None:
        return DELETED
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    return "The picture is not a JPEG." if image is None else np.asarray(image)


def box_of(row: Mapping[str, Any]) -> np.ndarray:
    """Corners of the object of a crop in pixels of the normalized video, shape (4,)."""
    return np.array([row[column.name] for column in BOX])


def scale_of(row: Mapping[str, Any]) -> float:
    """Pixels of a crop per pixel of the normalized video."""
    return float(row.get("crop_scale") or 1)


def cut_box(crop: Crop, padding: float) -> np.ndarray:
    """Cut the margin off a crop.

    Args:
        crop: The crop.
        padding: Margin with which it was cut, as a share of the box's size.

    Returns:
        The picture of the object's box, at least one pixel wide and high.
    """
    box = box_of(crop.row)
    edges = (box - np.tile(crop_origin(box, padding), 2)) * scale_of(crop.row)
    left, top, right, bottom = np.round(edges).astype(int)
    height_px, width_px = crop.image.shape[:2]
    left, top = min(max(left, 0), width_px - 1), min(max(top, 0), height_px - 1)
    return crop.image[top : max(top + 1, bottom), left : max(left + 1, right)]


def box_columns(xyxy: Sequence[float] | np.ndarray | None, row: Mapping[str, Any], padding: float) -> dict[str, Any]:
    """Columns of a box that was found in a crop, in pixels of the normalized video; NULL without a box."""
    if xyxy is None:
        return {column.name: None for column in BOX}
    left, top = crop_origin(box_of(row), padding)
    corners = np.asarray(xyxy, float) / scale_of(row) + np.array([left, top, left, top])
    return {column.name: float(value) for column, value in zip(BOX, corners, strict=True)}
