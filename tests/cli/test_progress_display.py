"""The progress of the command process in a real terminal, and its lines elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from cli.progress_bars import fit_widths
from resources.config.settings_file import PROJECT_ROOT

NAME = "corridor-of-the-northern-building-on-the-ground-floor-camera-1"
SHOW_PROGRESS = f"""
from cli.process_command import _print_outcomes
from cli.process_folder import FolderProgress, RecordingOutcome, StageProgress
from cli.progress_display import display_progress
from sensors.recording_states import RecordingState

ids = ["{NAME}-1a2b3c4d", "{NAME}-5e6f7a8b"]
progress = FolderProgress(
    source_paths={{id: f"{NAME}/{{id}}.mp4" for id in ids}},
    unstable_file_count=3,
    states={{id: RecordingState(id, frozenset({{"crops"}}), is_in_flight=True) for id in ids}},
    stages={{
        (ids[0], "normalized_video"): StageProgress(123456, 654321, 250.0),
        (ids[0], "detections"): StageProgress(100000, 654321, 25.0),
        (ids[1], "normalized_video"): StageProgress(54321, 0, 0.0),
    }},
    detection_fps=25.0,
)
with display_progress() as show:
    show(progress)
_print_outcomes([
    RecordingOutcome(
        f"{NAME}/{{id}}.mp4", id, "{NAME}", "partial", None, 26172.8, 654321, 7654321, {{"person": 1234, "car": 56789}},
        12345.6, 12.3)
    for id in ids
])
"""


def run_in_terminal(code: str, columns: int) -> str:
    """Run code in a process whose standard streams are a terminal; returns what it wrote."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=PROJECT_ROOT,
        env={**environment, "TERM": "xterm-256color"},
    ) as process:
        os.close(terminal)
        output = b""
        while chunk := read_chunk(controller):
            output += chunk
    os.close(controller)
    assert process.returncode == 0, output.decode()
    return output.decode()


def read_chunk(controller: int) -> bytes:
    """Read from a terminal; empty at its end, which Linux reports as an error."""
    try:
        return os.read(controller, 65536)
    except OSError:
        return b""


@pytest.mark.parametrize("columns", [60, 80])
def test_bars_counts_times_and_values_are_whole_in_a_narrow_terminal(columns: int) -> None:
    output = run_in_terminal(SHOW_PROGRESS, columns)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "\n").split("\n")]
    assert max(map(len, lines)) <= columns
    bars = [line for line in lines if "━" in line or "╸" in line]
    assert all(re.search(r"[━╸╺]{8}", line) for line in bars)
    for count, eta in (("0/5", "6:09:33"), ("100000/654321", "6:09:33"), ("54321/?", "--:--")):
        assert any(re.search(rf" {re.escape(count)} +{eta} ", f"{line} ") for line in bars), output
    assert any(line.startswith("corri") and "…" in line for line in bars)
    assert sum("detections" in line for line in bars) >= 1
    outcomes = [line for line in lines if "12345.6" in line]
    assert [line.split()[-6:] for line in outcomes] == [["7:16:13", "1234", "56789", "partial", "12345.6", "12.3"]] * 2
    assert all("…" not in line or NAME[:5] in line for line in lines if "━" not in line)
    names = [line for line in lines if line.startswith(NAME[:5]) and line.rstrip().endswith(("4d.mp4", "8b.mp4"))]
    assert len(names) == 2


def test_details_are_cut_before_names_and_bars_keep_their_least_width() -> None:
    assert fit_widths(100, 20, 30) == (20, 40, 30)
    assert fit_widths(50, 64, 30) == (16, 8, 26)
    assert fit_widths(37, 64, 30) == (12, 8, 17)
    assert fit_widths(24, 64, 30) == (12, 8, 4)
    assert fit_widths(5, 64, 30) == (1, 4, 0)
