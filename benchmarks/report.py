"""One measured case, and how cases are shown and kept."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from resources.settings import PROJECT_ROOT

CORPUS = Path(os.environ.get("CV_ASSETS_CORPUS", PROJECT_ROOT.parent / "shared" / "corpus"))
"""Real recordings, ground truth and weights; what needs them is left out where the folder is not there."""


def machine() -> str:
    """Processor, cores and memory, without the machine's name."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {os.cpu_count()} cores, {memory_gb:.0f} GB"


def peak_memory_mb(pid: int) -> float:
    """Largest resident memory that a process had so far; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


@dataclass(frozen=True)
class Case:
    """A figure of ours beside the alternative's, measured in the same run.

    `ratio` is ours / peer where there is a peer, and ours otherwise; `goal` says what it should be.
    """

    case: str
    ours: float
    peer: float | None
    ratio: float
    unit: str
    goal: str
    met: bool


def compared(case: str, ours: float, peer: float, unit: str, at_least: float) -> Case:
    """A case whose ratio should be at least a value."""
    ratio = ours / peer
    return Case(case, ours, peer, ratio, unit, f">= {at_least} x", ratio >= at_least)


def alone(case: str, ours: float, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> Case:
    """A case without a peer, bounded from one side."""
    if at_least is not None:
        return Case(case, ours, None, ours, unit, f">= {at_least}", ours >= at_least)
    assert at_most is not None
    return Case(case, ours, None, ours, unit, f"<= {at_most}", ours <= at_most)


def show(cases: Sequence[Case]) -> None:
    """Print the table."""
    click.echo(f"{'case':<62}{'ours':>9}{'peer':>9}{'ratio':>7}  {'unit':<10}{'goal':<10}met")
    for case in cases:
        peer = "-" if case.peer is None else f"{case.peer:.2f}"
        met = "yes" if case.met else "NO"
        click.echo(f"{case.case:<62}{case.ours:>9.2f}{peer:>9}{case.ratio:>7.2f}  {case.unit:<10}{case.goal:<10}{met}")


def keep(cases: Sequence[Case], file: Path) -> None:
    """Write the cases as a JSON list."""
    told = machine()
    file.write_text(json.dumps([{**asdict(case), "machine": told} for case in cases], indent=2) + "\n")
