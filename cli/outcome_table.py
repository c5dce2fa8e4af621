"""The closing table of the command process: one row per recording, in the width of the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.process_folder import RecordingOutcome

_HEADINGS = ("recording", "status", "frames", "detections", "tracks", "seconds", "×realtime")
_MIN_NAME_WIDTH = 16  # with less room beside the numbers, a name gets a line of its own


def format_outcomes(outcomes: "Sequence[RecordingOutcome]", width: int | None) -> list[str]:
    """Format the outcomes as the lines of a table; long names are shortened in the middle, numbers never.

    Args:
        outcomes: The outcomes.
        width: Width of the terminal in characters; None means that names are not shortened.
    """
    from rich.cells import cell_len

    rows = [_HEADINGS, *map(_cells, outcomes)]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    numbers = ["  ".join(_align(row[column], widths[column], column) for column in range(1, len(row))) for row in rows]
    room = widths[0] if width is None else width - cell_len(numbers[0]) - 2
    if room >= min(widths[0], _MIN_NAME_WIDTH):
        name_width = min(room, widths[0])
        return [
            f"{_fill(shorten(row[0], name_width), name_width)}  {line}".rstrip()
            for row, line in zip(rows, numbers, strict=True)
        ]
    return [
        line
        for row, line in zip(rows, numbers, strict=True)
        for line in (shorten(row[0], width or widths[0]), f"  {line}".rstrip())
    ]


def printable_name(name: str) -> str:
    """A name without characters that would move the cursor or begin a line."""
    return "".join(character if character.isprintable() else "?" for character in name)


def shorten(name: str, width: int) -> str:
    """Shorten a name in the middle, because names of recordings often differ at their end."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(name) <= width:
        return name
    end_width = (width - 1) // 2
    start = set_cell_size(name, width - 1 - end_width).rstrip()
    return f"{start}…{set_cell_size(name[::-1], end_width).rstrip()[::-1]}"


def _cells(outcome: "RecordingOutcome") -> tuple[str, ...]:
    counts = (outcome.frame_count, outcome.detection_count, outcome.track_count)
    return (
        printable_name(outcome.source_path),
        outcome.status,
        *("-" if count is None else str(count) for count in counts),
        "-" if outcome.seconds is None else f"{outcome.seconds:.1f}",
        "-" if outcome.realtime_factor is None else f"{outcome.realtime_factor:.1f}",
    )


def _align(text: str, width: int, column: int) -> str:
    """Align the status to the left and numbers to the right."""
    return f"{text:<{width}}" if column == 1 else f"{text:>{width}}"


def _fill(name: str, width: int) -> str:
    """Fill a name with spaces; some of its characters may be two wide."""
    from rich.cells import set_cell_size

    return set_cell_size(name, width)
