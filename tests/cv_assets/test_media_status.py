"""The status of a recording according to its packet ledger."""

from typing import Any

import pytest

from cv_assets.media_status import media_status


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"corrupt_count": 2}, "2 packets do not decode."),
        (
            {"corrupt_count": 9, "missing_s": [{"start_s": -0.6, "end_s": 0.0}, {"start_s": 2.0, "end_s": 2.5}]},
            "9 packets do not decode; missing: 0.60 s before the first frame, 2.00 to 2.50 s.",
        ),
        (
            {"missing_s": [{"start_s": k, "end_s": k + 0.5} for k in range(5)]},
            "The file ends early; missing: 0.00 to 0.50 s, 1.00 to 1.50 s, 2.00 to 2.50 s and 2 more stretches.",
        ),
        ({"damaged_count": 3}, "3 frames are damaged."),
        ({"corrupt_count": 1, "damaged_count": 1}, "1 packet does not decode; 1 frame is damaged."),
    ],
)
def test_the_status_of_a_recording_follows_its_packet_ledger(changes: dict[str, Any], message: str | None) -> None:
    row: dict[str, Any] = {
        "frame_count_from_content": 100,
        "corrupt_count": 0,
        "damaged_count": 0,
        "missing_s": [],
        "duration_s_from_content": 4.0,
    }
    status, error = media_status(row | changes)
    assert status == ("ok" if message is None else "partial")
    assert error == (None if message is None else f"{message} The part that decodes is used: 100 frames (4.00 s).")
