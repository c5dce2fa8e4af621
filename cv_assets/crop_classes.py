"""<name>_crop_classes and <name>_track_classes: classes of crops, and the vote of each track."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cv_assets.crop_reading import CROP_KEY, DELETED, answer_crops, cut_box
from cv_assets.crop_selection import Crop
from resources.colour_names import measure_colours
from resources.inference.detector import Detector
from resources.inference.linear_probe import LinearProbe
from resources.media.progress import ReportProgress
from resources.own_stages.crop_callable import CropCallable
from resources.votes import UNSURE, is_decided

NONE = "none"
"""The vote of a crop in which a detector finds nothing."""
_PERSON = "person"
_PARTS: dict[str | None, tuple[float, float]] = {
    "upper": (0.18, 0.48),
    "lower": (0.55, 0.88),
}  # of a person's height: without head and shoes
_MIDDLE = (0.25, 0.75)  # of the width, and of the height of other objects: the background shows at the sides

Classes = Sequence[tuple[str, float]]
"""Names and confidences, most likely first."""


def class_rows(
    crops: Sequence[Mapping[str, Any]], detector: Detector, top_k: int, progress: ReportProgress
) -> list[dict[str, Any]]:
    """Classify crops; a crop without an answer gets a row with the reason.

    Args:
        crops: Rows of `crops`.
        detector: The classifier.
        top_k: Number of classes per crop.
        progress: Takes the number of classified crops.

    Returns:
        Rows of `crop_classes`.
    """

    def classify(batch: Iterable[Crop]) -> Iterator[dict[str | None, Classes]]:
        for answers in detector.detect(crop.image for crop in batch):
            pairs = zip(answers.class_id[:top_k], answers.confidence[:top_k], strict=True)
            yield {None: [(detector.class_names[int(class_id)], float(score)) for class_id, score in pairs]}

    model = {"model_id": detector.model_id, "engine_name": detector.engine_name}
    return [
        row | model
        for crop, answer, error in answer_crops(crops, classify, progress)
        for row in _rows_of_crop(crop, answer, error)
    ]


def callable_rows(
    crops: Sequence[Mapping[str, Any]], model: CropCallable, top_k: int, progress: ReportProgress
) -> list[dict[str, Any]]:
    """Classify crops with a callable; a crop without an answer gets a row with the reason.

    Args:
        crops: Rows of `crops`.
        model: The callable.
        top_k: Number of classes per crop.
        progress: Takes the number of crops.

    Returns:
        Rows of `crop_classes`.

    Raises:
        PipelineError: There is no such callable.
        RecordingError: The callable failed.
    """
    identity = {"model_id": f"{model.path}-{model.content_hash[:8]}", "engine_name": "python"}
    answers = model.classify([crop["jpeg"] for crop in crops if crop["jpeg"] is not None])
    rows: list[dict[str, Any]] = []
    for number, crop in enumerate(crops, 1):
        answer = DELETED if crop["jpeg"] is None else next(answers) or "The callable names no class."
        error = answer if isinstance(answer, str) else None
        classes: dict[str | None, Classes] | None = None if isinstance(answer, str) else {None: answer[:top_k]}
        rows += [row | identity for row in _rows_of_crop(crop, classes, error)]
        progress(number, len(crops))
    return rows


def colour_rows(
    crops: Sequence[Mapping[str, Any]], padding: float, top_k: int, progress: ReportProgress
) -> list[dict[str, Any]]:
    """Name the dominant colours of crops, of persons those of the upper and of the lower half.

    Args:
        crops: Rows of `crops`.
        padding: Margin with which they were cut.
        top_k: Number of colours per crop or half.
        progress: Takes the number of crops.

    Returns:
        Rows of `crop_classes`; the confidence of a colour is its share of the pixels.
    """

    def name_colours(batch: Iterable[Crop]) -> Iterator[dict[str | None, Classes]]:
        for crop in batch:
            box = cut_box(crop, padding)
            is_person = crop.row["class_name"] == _PERSON
            parts = _PARTS if is_person else {None: _MIDDLE}
            yield {part: measure_colours(_cut_share(box, _MIDDLE, rows))[:top_k] for part, rows in parts.items()}

    model = {"model_id": "colours-1", "engine_name": "opencv"}
    return [
        row | model
        for crop, answer, error in answer_crops(crops, name_colours, progress)
        for row in _rows_of_crop(crop, answer, error)
    ]


def probe_rows(
    embeddings: Sequence[Mapping[str, Any]], probe: LinearProbe, top_k: int, model_id: str
) -> list[dict[str, Any]]:
    """Classify crops by their stored embeddings; one without an embedding gets a row with the reason.

    Args:
        embeddings: Rows of `crop_embeddings`.
        probe: The probe.
        top_k: Number of classes per crop.
        model_id: Name and content hash of the probe.

    Returns:
        Rows of `crop_classes`.
    """
    rows: list[dict[str, Any]] = []
    for embedding in embeddings:
        answer: dict[str | None, Classes] | None = None
        error = embedding["error"]
        if error is None and embedding["model_id"] != probe.embedding_model_id:
            error = (
                f"The embedding is of {embedding['model_id']}, but the probe was taught on {probe.embedding_model_id}."
            )
        if error is None:
            values = probe.read_values(embedding)
            if values is None:
                error = "The embedding has no features, which the probe reads: recompute the embeddings."
            else:
                answer = {None: probe.classify(values)[:top_k]}
        rows += _rows_of_crop(embedding, answer, error)
    return [row | {"model_id": model_id, "engine_name": "numpy"} for row in rows]


def _cut_share(image: np.ndarray, columns: tuple[float, float], rows: tuple[float, float]) -> np.ndarray:
    height_px, width_px = image.shape[:2]
    top, left = int(rows[0] * height_px), int(columns[0] * width_px)
    return image[top : max(top + 1, round(rows[1] * height_px)), left : max(left + 1, round(columns[1] * width_px))]


def _rows_of_crop(
    crop: Mapping[str, Any], answer: Mapping[str | None, Classes] | None, error: str | None
) -> list[dict[str, Any]]:
    """Rows of `crop_classes` for one crop, without the model."""
    key = {name: crop[name] for name in CROP_KEY}
    if answer is None:
        return [{**key, "part": None, "class_rank": 1, "class_name": None, "confidence": None, "error": error}]
    return [
        {
            **key,
            "part": part,
            "class_rank": class_rank,
            "class_name": class_name,
            "confidence": float(np.clip(confidence, 0, 1)),
            "error": None,
        }
        for part, classes in answer.items()
        for class_rank, (class_name, confidence) in enumerate(classes, 1)
    ]


def vote_rows(rows: Sequence[Mapping[str, Any]], min_confidence: float) -> list[dict[str, Any]]:
    """Let the crops of each track vote on its class.

    Args:
        rows: Rows of `crop_classes`.
        min_confidence: Crops whose best class has a lower confidence do not vote.

    Returns:
        Rows of `track_classes`.
    """
    votes: dict[tuple[str, int, str | None], list[str | None]] = defaultdict(list)
    for row in rows:
        if row["class_rank"] == 1:
            is_vote = row["confidence"] is not None and row["confidence"] >= min_confidence
            key = (row["recording_id"], row["track_id"], row.get("part"))
            votes[key].append(row["class_name"] if is_vote else None)
    # A crop without an answer has no parts: it counts among the crops of each.
    parts_of_track: dict[tuple[str, int], set[str]] = defaultdict(set)
    for recording_id, track_id, part in votes:
        if part is not None:
            parts_of_track[recording_id, track_id].add(part)
    for (recording_id, track_id), parts in parts_of_track.items():
        failures = votes.pop((recording_id, track_id, None), [])
        for part in parts:
            votes[recording_id, track_id, part] += failures
    ordered = sorted(votes.items(), key=lambda item: (*item[0][:2], item[0][2] or ""))
    return [{**dict(zip(("recording_id", "track_id", "part"), key, strict=True)), **_count(v)} for key, v in ordered]


def box_vote_rows(rows: Sequence[Mapping[str, Any]], min_confidence: float) -> list[dict[str, Any]]:
    """Let the crops of each track vote on what a detector finds in them.

    Args:
        rows: Rows of `crop_boxes`.
        min_confidence: Boxes of a lower confidence do not count.

    Returns:
        Rows of `track_classes`; a crop votes for the class of its best box, and without a box for none.
    """
    votes: dict[tuple[str, int], list[str | None]] = defaultdict(list)
    for row in rows:
        if row["box_index"] == 0:
            has_box = row["confidence"] is not None and row["confidence"] >= min_confidence
            vote = None if row["error"] is not None else row["class_name"] if has_box else NONE
            votes[row["recording_id"], row["track_id"]].append(vote)
    return [
        {"recording_id": recording_id, "track_id": track_id, "part": None, **_count(answers)}
        for (recording_id, track_id), answers in sorted(votes.items())
    ]


def _count(answers: Sequence[str | None]) -> dict[str, Any]:
    """Count the votes of a track's crops; None is no vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    class_name, vote_count = min(votes.items(), key=lambda item: (-item[1], item[0]), default=(UNSURE, 0))
    return {
        "class_name": class_name if is_decided(np.array(vote_count), np.array(votes.total())) else UNSURE,
        "vote_count": vote_count,
        "voter_count": votes.total(),
        "crop_count": len(answers),
    }
