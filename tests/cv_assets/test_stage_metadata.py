"""Metadata as the UI shows it."""

import pytest
from dagster import MetadataValue

from cv_assets.stage_metadata import display_metadata


def test_pictures_come_first_and_labels_have_words_and_units() -> None:
    values = {
        "dagster/partition_row_count": 3,
        "boxes/traffic light": 2,
        "status": "ok",
        "duration_s": 12.34567,
        "size_bytes": 1_500_000,
        "mean_speed_px_s": 3.0,
        "width_px": 1280,
        "rate_fps": 29.97002997,
        "contact_sheet": MetadataValue.md("picture"),
    }
    shown = display_metadata(values)
    assert next(iter(shown)) == "contact sheet"
    assert shown == {
        "contact sheet": MetadataValue.md("picture"),
        "dagster/partition_row_count": 3,
        "boxes/traffic light": 2,
        "stage status": "ok",
        "duration (s)": 12.3,
        "size (MB)": 1.5,
        "mean speed (px/s)": 3.0,
        "width (px)": 1280,
        "rate (frames/s)": 29.97,
    }


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (123456.7, 123457.0),
        (0.012345, 0.0123),
        (0.0, 0.0),
        (-12.345, -12.3),
        (float("inf"), float("inf")),
        (True, True),
    ],
)
def test_numbers_are_rounded_but_never_their_integer_part(value: float, rounded: float) -> None:
    assert display_metadata({"motion": value}) == {"motion": rounded}
