"""The closing table of the command process."""

from typing import Any

import pytest

from cli.outcome_table import format_duration, format_outcomes, shorten
from cli.process_folder import RecordingOutcome

LONG_NAME = "gate/" + "corridor-of-the-northern-building-ground-floor-camera-" + "0123456789.mp4"
CAMERA = "gate-of-the-northern-building-beside-the-bicycle-stand-no-01"


def outcome(source_path: str, camera: str | None, status: str = "ok", **values: Any) -> RecordingOutcome:
    """An outcome of a recording."""
    return RecordingOutcome(source_path, "id", camera, status, None, **values)


OUTCOMES = [
    outcome("yard/a.mp4", "yard", duration_s=61.7, track_counts={"car": 30}, elapsed_s=12.34, realtime_factor=5.0),
    outcome(
        LONG_NAME,
        "gate",
        "partial",
        duration_s=15_184.4,
        track_counts={"person": 123_456, "bus": 4000, "car": 321},
        elapsed_s=1234.5,
        realtime_factor=12.3,
    ),
    outcome("[red]b\n.mp4", None, "rejected"),
]


def test_without_a_terminal_names_are_whole() -> None:
    width = len(LONG_NAME) - len("gate/")
    assert format_outcomes(OUTCOMES, None) == [
        f"{'recording':<{width}}  camera  duration  people  vehicles  status    seconds  ×realtime",
        f"{'a.mp4':<{width}}  yard       01:02       0        30  ok           12.3        5.0",
        f"{LONG_NAME[5:]}  gate     4:13:04  123456      4321  partial    1234.5       12.3",
        f"{'[red]b?.mp4':<{width}}  -              -       -         -  rejected        -          -",
    ]


def test_a_long_name_is_shortened_in_the_middle_and_values_are_not() -> None:
    lines = format_outcomes(OUTCOMES, 88)
    assert max(map(len, lines)) <= 88
    assert lines[2] == "corridor-of…456789.mp4  gate     4:13:04  123456      4321  partial    1234.5       12.3"
    assert lines[1].split() == ["a.mp4", "yard", "01:02", "0", "30", "ok", "12.3", "5.0"]


@pytest.mark.parametrize("width", [60, 70, 80])
def test_in_a_narrow_terminal_a_name_has_a_line_of_its_own(width: int) -> None:
    lines = format_outcomes([*OUTCOMES, outcome(f"{CAMERA}/{LONG_NAME[5:]}", CAMERA)], width)
    assert max(map(len, lines)) <= width
    assert lines[4].startswith("gate/corridor-of-the-nor") and lines[4].endswith("-0123456789.mp4")
    assert lines[5].split() == ["4:13:04", "123456", "4321", "partial", "1234.5", "12.3"]
    assert lines[8].startswith("gate-of-the-northern") and lines[8].endswith("-0123456789.mp4")


def test_a_long_camera_is_shortened_beside_its_recording() -> None:
    lines = format_outcomes([outcome(f"{CAMERA}/a.mp4", CAMERA, track_counts={})], 80)
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[1].startswith("gate-of-the") and lines[1].split()[1].endswith("no-01")


def test_classes_that_coco_lacks_have_columns_of_their_own() -> None:
    counts = {"forklift": 20, "status": 5, "person": 1}
    lines = format_outcomes([outcome("a.mp4", None, track_counts=counts), outcome("b.mp4", None)], None)
    assert [line.split() for line in lines] == [
        ["recording", "camera", "duration", "forklift", "status", "status", "seconds", "×realtime"],
        ["a.mp4", "-", "-", "20", "5", "ok", "-", "-"],
        ["b.mp4", "-", "-", "-", "-", "ok", "-", "-"],
    ]
    assert format_outcomes([outcome("a.mp4", None, track_counts={})], None)[0].split()[3] == "objects"


def test_a_duration_has_hours_only_from_an_hour_on() -> None:
    assert [format_duration(value) for value in (0.4, 59.6, 3599.4, 3600)] == ["00:00", "01:00", "59:59", "1:00:00"]


def test_names_are_shortened_to_their_width_on_the_screen() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("日本語の録画ファイル", 11) == "日本…イル"
