"""The closing table of the command process: one row per recording, in the width of the terminal."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.process_folder import RecordingOutcome

_MIN_FILE_WIDTH, _MIN_CAMERA_WIDTH = 16, 8  # with less room beside the values, a name gets a line of its own
_GROUPS: Mapping[str, Set[str]] = {
    "people": {"person"},
    "vehicles": {"bicycle", "car", "motorcycle", "bus", "truck", "train"},
}
"""Columns of tracks with classes as COCO names them."""
_OBJECTS, _MAX_CLASS_WIDTH = "objects", 12


def format_outcomes(outcomes: "Sequence[RecordingOutcome]", width: int | None) -> list[str]:
    """Format the outcomes as the lines of a table; long names are shortened in the middle, values never.

    Args:
        outcomes: The outcomes.
        width: Width of the terminal in characters; None means that names are not shortened.
    """
    from rich.cells import cell_len

    classes = _class_columns(outcomes)
    names = [("recording", "camera"), *map(_names, outcomes)]
    values = [
        ("duration", *classes, "status", "seconds", "×realtime"),
        *(_values(outcome, classes) for outcome in outcomes),
    ]
    status_position = len(classes) + 1
    widths = [max(map(cell_len, column)) for column in zip(*values, strict=True)]
    texts = [
        "  ".join(
            _fill(value, width, is_number=position != status_position)
            for position, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in values
    ]
    file_width, camera_width = (max(map(cell_len, column)) for column in zip(*names, strict=True))
    if width is not None:
        room = width - cell_len(texts[0]) - 4
        min_file_width = min(file_width, _MIN_FILE_WIDTH)
        camera_width = min(camera_width, max(_MIN_CAMERA_WIDTH, room - file_width))
        file_width = min(file_width, room - camera_width)
        if file_width < min_file_width:
            paths = ["recording", *(printable_name(outcome.source_path) for outcome in outcomes)]
            pairs = zip(paths, texts, strict=True)
            return [line for path, text in pairs for line in (shorten(path, width), f"  {text}")]
    return [
        f"{_fill(shorten(file, file_width), file_width)}  {_fill(shorten(camera, camera_width), camera_width)}  {text}"
        for (file, camera), text in zip(names, texts, strict=True)
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


def format_duration(duration_s: float) -> str:
    """Format a duration as mm:ss, or as h:mm:ss from an hour on."""
    minutes, seconds = divmod(math.floor(duration_s + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def _class_columns(outcomes: "Sequence[RecordingOutcome]") -> Mapping[str, Set[str]]:
    """Columns that count tracks, with their classes.

    These are people and vehicles if the two most frequent classes of all recordings are among them, else these two
    classes.
    """
    totals: Counter[str] = Counter()
    for outcome in outcomes:
        totals.update(outcome.track_counts or {})
    names = [name for name, _ in totals.most_common(2)]
    if set(names) <= set[str]().union(*_GROUPS.values()):
        return _GROUPS if names else {_OBJECTS: set()}
    return {shorten(printable_name(name), _MAX_CLASS_WIDTH): {name} for name in names}


def _names(outcome: "RecordingOutcome") -> tuple[str, str]:
    """Name of the file without the folder of its camera, and the camera."""
    camera = outcome.camera or ""
    name = outcome.source_path.removeprefix(f"{camera}/") if camera else outcome.source_path
    return printable_name(name), printable_name(camera) or "-"


def _values(outcome: "RecordingOutcome", classes: Mapping[str, Set[str]]) -> tuple[str, ...]:
    counts = outcome.track_counts
    return (
        "-" if outcome.duration_s is None else format_duration(outcome.duration_s),
        *("-" if counts is None else str(sum(counts.get(name, 0) for name in names)) for names in classes.values()),
        outcome.status,
        "-" if outcome.elapsed_s is None else f"{outcome.elapsed_s:.1f}",
        "-" if outcome.realtime_factor is None else f"{outcome.realtime_factor:.1f}",
    )


def _fill(text: str, width: int, *, is_number: bool = False) -> str:
    """Fill a text with spaces, a number at its left; some characters may be two wide."""
    from rich.cells import cell_len

    spaces = " " * (width - cell_len(text))
    return spaces + text if is_number else text + spaces
