"""Text in crops: reading, boxes in the frame, and the vote of a track, character by character."""

from typing import Any

import numpy as np
import pytest

from cv_assets.crop_texts import normalize_text, text_rows, text_vote_rows, vote_on_text
from tests.builders.crop_pictures import crop_rows, encode


@pytest.mark.parametrize(
    ("readings", "text", "vote_count"),
    [
        ([("AB12", 0.9), ("AB12", 0.8), ("A812", 0.9)], "AB12", 2),
        ([("AX12", 0.9), ("AB1Z", 0.9), ("BB12", 0.9)], "AB12", 0),  # no reading is right, and each place is
        ([("AB12", 0.9), ("AB12", 0.9)], "unsure", 2),  # fewer than 3
        ([("AB12", 0.9), ("AB123", 0.9), ("B12", 0.9)], "unsure", 1),  # of three lengths
        ([("AB12", 0.9), ("CD34", 0.8), ("EF56", 0.7)], "unsure", 1),
        ([], "unsure", 0),
    ],
)
def test_a_text_is_decided_character_by_character(
    readings: list[tuple[str, float]], text: str, vote_count: int
) -> None:
    assert vote_on_text(readings) == (text, vote_count)


def test_spaces_and_separators_do_not_count() -> None:
    assert normalize_text("ab-12 cd") == normalize_text("AB 12CD") == "AB12CD"


def test_texts_of_low_confidence_do_not_vote() -> None:
    shared: dict[str, Any] = {"recording_id": "a", "track_id": 1, "text_index": 0}
    readings = [("AB12", 0.9)] * 3 + [("XY99", 0.2)] + [(None, None)]
    (row,) = text_vote_rows([shared | {"text": text, "confidence": share} for text, share in readings], 0.5)
    assert (row["text"], row["vote_count"], row["voter_count"], row["crop_count"]) == ("AB12", 3, 3, 5)


@pytest.mark.slow
def test_a_plate_is_read_with_its_box_in_the_frame() -> None:
    import cv2

    pytest.importorskip("rapidocr")
    image = np.full((60, 150, 3), 235, np.uint8)
    cv2.putText(image, "KLM4827", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 20, 20), 2, cv2.LINE_AA)
    # The box of a crop of 150 x 60 px with a margin of 25 %, so that the crop starts at (200, 100).
    box: dict[str, Any] = {"x_min_px": 225.0, "y_min_px": 110.0, "x_max_px": 325.0, "y_max_px": 150.0}
    crops = crop_rows((1, "car", encode(image)), (1, "car", b""), **box)
    row, without = text_rows(crops, 0.25, lambda *_: None)
    assert normalize_text(row["text"]) == "KLM4827" and row["confidence"] > 0.8
    assert 200 <= row["x_min_px"] < 215 and 100 < row["y_min_px"] < 125 and 140 < row["y_max_px"] < 155
    assert without["text"] is None and without["error"] == "The picture is not a JPEG."
