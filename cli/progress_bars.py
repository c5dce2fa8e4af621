"""Bars of a progress in the width of the terminal: names and details are shortened, bars and numbers never."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.progress import Progress, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.outcome_table import format_duration, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType

_MIN_BAR_WIDTH, _MAX_BAR_WIDTH = 8, 40
_MIN_NAME_WIDTH, _MAX_NAME_WIDTH = 12, 32
_UNKNOWN_ETA = "--:--"


class ProgressBars(Progress):
    """A line per task: its name, a bar, the count, the estimated time that remains, and details.

    The field `details` of a task is a text; `remaining_s` is the estimated time in seconds, or None while unknown.
    """

    def get_renderables(self) -> "Iterable[RenderableType]":
        """Build the table of the visible tasks."""
        tasks = [task for task in self.tasks if task.visible]
        if not tasks:
            return
        counts, etas = [_count(task) for task in tasks], [_eta(task) for task in tasks]
        names, details = [task.description for task in tasks], [str(task.fields["details"]) for task in tasks]
        name_width, bar_width, details_width = fit_widths(
            # The last column of a terminal stays free, because some begin a new line after it.
            self.console.width - 1 - max(map(cell_len, counts)) - max(map(cell_len, etas)) - 4,
            max(map(cell_len, names)),
            max(map(cell_len, details)),
        )
        table = Table.grid(padding=(0, 1))
        for number, task in enumerate(tasks):
            table.add_row(
                Text(shorten(names[number], name_width), no_wrap=True),
                ProgressBar(
                    total=task.total,
                    completed=task.completed,
                    width=bar_width,
                    pulse=task.total is None,
                    animation_time=task.get_time(),
                ),
                Text(counts[number], style="progress.download", justify="right", no_wrap=True),
                Text(etas[number], style="progress.remaining", justify="right", no_wrap=True),
                Text(_cut(details[number], details_width), no_wrap=True),
            )
        yield table


def fit_widths(room: int, name_width: int, details_width: int) -> tuple[int, int, int]:
    """Divide the width of a line among name, bar and details.

    Details are cut first down to nothing, then names down to 12 characters; the bar gets what the others leave.

    Args:
        room: Number of characters for the three.
        name_width: Width of the longest name.
        details_width: Width of the longest details.

    Returns:
        The three widths.
    """
    wished_name_width = min(name_width, _MAX_NAME_WIDTH)
    fitted_name_width = max(min(wished_name_width, _MIN_NAME_WIDTH), min(wished_name_width, room // 3))
    fitted_details_width = max(0, min(details_width, room - fitted_name_width - _MIN_BAR_WIDTH))
    fitted_name_width = max(1, min(wished_name_width, room - fitted_details_width - _MIN_BAR_WIDTH))
    bar_width = max(1, min(_MAX_BAR_WIDTH, room - fitted_name_width - fitted_details_width))
    return fitted_name_width, bar_width, fitted_details_width


def _cut(details: str, width: int) -> str:
    """Cut details to a width: whole parts, which commas separate, as long as one fits."""
    while cell_len(details) > width and ", " in details:
        details = details.rpartition(", ")[0]
    return details if cell_len(details) <= width else f"{set_cell_size(details, width - 1).rstrip()}…" if width else ""


def _count(task: Task) -> str:
    return f"{task.completed:.0f}/{'?' if task.total is None else f'{task.total:.0f}'}"


def _eta(task: Task) -> str:
    remaining_s = task.fields.get("remaining_s")
    return _UNKNOWN_ETA if remaining_s is None else format_duration(remaining_s)
