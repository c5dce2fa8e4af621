"""<name>_crop_texts and <name>_track_texts: text in crops, such as number plates, and the vote of each track."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cv_assets.crop_reading import CROP_KEY, answer_crops, box_columns
from cv_assets.crop_selection import Crop
from resources.inference.text_reader import TextLine, read_text, text_reader_id
from resources.media.progress import ReportProgress
from resources.votes import UNSURE, is_decided


def text_rows(crops: Sequence[Mapping[str, Any]], padding: float, progress: ReportProgress) -> list[dict[str, Any]]:
    """Read text in crops; one without a text gets a row without a text, one without an answer the reason.

    Args:
        crops: Rows of `crops`.
        padding: Margin with which the crops were cut.
        progress: Takes the number of crops.

    Returns:
        Rows of `crop_texts`.
    """

    def read(batch: Iterable[Crop]) -> Iterator[Sequence[TextLine]]:
        return (read_text(crop.image) for crop in batch)

    model = {"model_id": text_reader_id(), "engine_name": "openvino-f32"}
    return [
        row | model
        for crop, lines, error in answer_crops(crops, read, progress)
        for row in _rows_of_crop(crop, lines or (), error, padding)
    ]


def _rows_of_crop(
    crop: Mapping[str, Any], lines: Sequence[TextLine], error: str | None, padding: float
) -> Iterator[dict[str, Any]]:
    key = {name: crop[name] for name in (*CROP_KEY, "frame_index", "time_s")}
    if not lines:
        yield {**key, "text_index": 0, "text": None, "confidence": None, **box_columns(None, crop, padding)} | {
            "error": error
        }
    for index, line in enumerate(lines):
        yield {
            **key,
            "text_index": index,
            "text": line.text,
            "confidence": float(np.clip(line.confidence, 0, 1)),
            **box_columns(line.xyxy, crop, padding),
            "error": None,
        }


def text_vote_rows(rows: Sequence[Mapping[str, Any]], min_confidence: float) -> list[dict[str, Any]]:
    """Let the crops of each track vote on its text, each with its most confident text.

    Args:
        rows: Rows of `crop_texts`.
        min_confidence: Texts of a lower confidence do not vote.

    Returns:
        Rows of `track_texts`.
    """
    texts: dict[tuple[str, int], list[tuple[str, float]]] = defaultdict(list)
    crop_counts: Counter[tuple[str, int]] = Counter()
    for row in rows:
        if row["text_index"] == 0:
            key = (row["recording_id"], row["track_id"])
            crop_counts[key] += 1
            if row["text"] is not None and row["confidence"] >= min_confidence:
                texts[key].append((normalize_text(row["text"]), row["confidence"]))
    return [
        {
            "recording_id": key[0],
            "track_id": key[1],
            **dict(zip(("text", "vote_count"), vote_on_text(texts[key]), strict=True)),
            "voter_count": len(texts[key]),
            "crop_count": crop_count,
        }
        for key, crop_count in sorted(crop_counts.items())
    ]


def normalize_text(text: str) -> str:
    """The text in capital letters and without spaces and separators, by which readings of a plate differ at random."""
    return "".join(character for character in text.upper() if character.isalnum())


def vote_on_text(texts: Sequence[tuple[str, float]]) -> tuple[str, int]:
    """Vote on a text character by character.

    Args:
        texts: Readings with their confidences.

    Returns:
        The text, or `unsure`; and the number of readings that equal it, or else the number of the most frequent one.
    """
    if not texts:
        return UNSURE, 0
    lengths = Counter(len(text) for text, _ in texts)
    length = min(lengths, key=lambda value: (-lengths[value], value))
    voters = [(text, confidence) for text, confidence in texts if len(text) == length]
    characters, agreements = [], []
    for place in range(length):
        weights: dict[str, float] = defaultdict(float)
        for text, confidence in voters:
            weights[text[place]] += confidence
        best = max(sorted(weights), key=lambda character: weights[character])
        characters.append(best)
        agreements.append(sum(text[place] == best for text, _ in voters))
    result = "".join(characters)
    supporters = min([len(voters), *agreements])
    is_sure = bool(is_decided(np.array(supporters), np.array(len(texts)))) and length > 0
    most_frequent = max(Counter(text for text, _ in texts).values())
    return (result, sum(text == result for text, _ in texts)) if is_sure else (UNSURE, most_frequent)
