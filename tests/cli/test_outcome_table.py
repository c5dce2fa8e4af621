"""The closing table of the command process."""

import pytest

from cli.outcome_table import format_outcomes, shorten
from cli.process_folder import RecordingOutcome

LONG_NAME = "gate/" + "corridor-of-the-northern-building-ground-floor-camera-" + "0123456789.mp4"
OUTCOMES = [
    RecordingOutcome("yard/a.mp4", "ok", None, 1000, 20_000, 30, 12.34, 5.0),
    RecordingOutcome(LONG_NAME, "partial", "The file ends early.", 123_456, 7_654_321, 4321, 1234.5, 12.3),
    RecordingOutcome("[red]b\n.mp4", "rejected", "The file is empty (0 bytes).", None, None, None, None, None),
]


def test_without_a_terminal_names_are_whole() -> None:
    assert format_outcomes(OUTCOMES, None) == [
        f"{'recording':<{len(LONG_NAME)}}  status    frames  detections  tracks  seconds  ×realtime",
        f"{'yard/a.mp4':<{len(LONG_NAME)}}  ok          1000       20000      30     12.3        5.0",
        f"{LONG_NAME}  partial   123456     7654321    4321   1234.5       12.3",
        f"{'[red]b?.mp4':<{len(LONG_NAME)}}  rejected       -           -       -        -          -",
    ]


def test_a_long_name_is_shortened_in_the_middle_and_numbers_are_not() -> None:
    lines = format_outcomes(OUTCOMES, 80)
    assert max(map(len, lines)) <= 80
    assert lines[2] == "gate/corrid…456789.mp4  partial   123456     7654321    4321   1234.5       12.3"
    assert lines[1].split() == ["yard/a.mp4", "ok", "1000", "20000", "30", "12.3", "5.0"]


@pytest.mark.parametrize("width", [60, 64, 70])
def test_in_a_narrow_terminal_a_name_has_a_line_of_its_own(width: int) -> None:
    lines = format_outcomes(OUTCOMES, width)
    assert max(map(len, lines)) <= width
    assert lines[4].startswith("gate/corridor-of-the-nor") and lines[4].endswith("-0123456789.mp4")
    assert lines[5].split() == ["partial", "123456", "7654321", "4321", "1234.5", "12.3"]


def test_names_are_shortened_to_their_width_on_the_screen() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("日本語の録画ファイル", 11) == "日本…イル"
