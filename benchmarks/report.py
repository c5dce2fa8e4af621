"""One measured case, and how cases are printed and written."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from resources.config.settings_file import PROJECT_ROOT

CORPUS = Path(os.environ.get("CV_ASSETS_CORPUS", PROJECT_ROOT.parent / "shared" / "corpus"))
"""Real recordings, ground truth and weights; cases that need them are skipped where the folder does not exist."""


def describe_machine() -> str:
    """Processor, cores and memory, without the machine's name."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{processor}, {os.cpu_count()} cores, {memory_gb:.0f} GB"


def read_peak_memory_mb(pid: int) -> float:
    """Read the largest resident memory of a process so far; 0 where the system does not report it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


@dataclass(frozen=True)
class Case:
    """A figure of this project and that of the alternative, measured in the same run.

    Attributes:
        case: What is measured.
        ours: The figure of this project.
        peer: The figure of the alternative; None where there is none.
        ratio: ours / peer; ours where there is no peer.
        unit: Unit of the figures.
        goal: The bound of the ratio, as text.
        met: Whether the ratio is within its bound.
    """

    case: str
    ours: float
    peer: float | None
    ratio: float
    unit: str
    goal: str
    met: bool


def min_ratio_case(case: str, ours: float, peer: float, unit: str, min_ratio: float) -> Case:
    """A case whose ratio should be at least a value, such as one of speeds."""
    ratio = ours / peer
    return Case(case, ours, peer, ratio, unit, f">= {min_ratio} x", ratio >= min_ratio)


def max_ratio_case(case: str, ours: float, peer: float, unit: str, max_ratio: float) -> Case:
    """A case whose ratio should be at most a value, such as one of times."""
    ratio = ours / peer
    return Case(case, ours, peer, ratio, unit, f"<= {max_ratio} x", ratio <= max_ratio)


def min_case(case: str, ours: float, unit: str, minimum: float) -> Case:
    """A case without a peer whose figure should be at least a value."""
    return Case(case, ours, None, ours, unit, f">= {minimum}", ours >= minimum)


def max_case(case: str, ours: float, unit: str, maximum: float) -> Case:
    """A case without a peer whose figure should be at most a value."""
    return Case(case, ours, None, ours, unit, f"<= {maximum}", ours <= maximum)


def exact_case(case: str, ours: float, expected: float) -> Case:
    """A count that should be exactly a value."""
    return Case(case, ours, None, ours, "", f"= {expected}", ours == expected)


def figure_case(case: str, ours: float) -> Case:
    """A figure without a goal."""
    return Case(case, ours, None, ours, "", "", True)


def print_table(cases: Sequence[Case]) -> None:
    """Print all cases as one table."""
    click.echo(f"{'case':<62}{'ours':>9}{'peer':>9}{'ratio':>7}  {'unit':<10}{'goal':<10}met")
    for case in cases:
        peer = "-" if case.peer is None else f"{case.peer:.2f}"
        met = "yes" if case.met else "NO"
        click.echo(f"{case.case:<62}{case.ours:>9.2f}{peer:>9}{case.ratio:>7.2f}  {case.unit:<10}{case.goal:<10}{met}")


def write_json(cases: Sequence[Case], file: Path) -> None:
    """Write the cases, with the machine, as a JSON list."""
    machine = describe_machine()
    file.write_text(json.dumps([{**asdict(case), "machine": machine} for case in cases], indent=2) + "\n")
