"""Display of the progress of a folder: bars on a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from cli.outcome_table import shorten

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cli.process_folder import FolderProgress, StageProgress

_MAX_NAME_WIDTH = 32  # a longer name would leave no room for the bar


@contextmanager
def display_progress() -> "Iterator[Callable[[FolderProgress], None]]":
    """Yield a function that shows the progress: as bars on a terminal, as a line per change elsewhere."""
    if not sys.stderr.isatty():
        yield _line_display()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        overall_bar = bars.add_task("recordings", total=None, details="starting the daemon")
        recording_bars: dict[str, TaskID] = {}

        def show(progress: "FolderProgress") -> None:
            done, total, details = _overall_progress(progress)
            bars.update(overall_bar, completed=done, total=total or None, details=details)
            current = {recording_id: (name, stage) for (recording_id, name), stage in progress.stages.items()}
            for recording_id, (name, stage) in current.items():
                if recording_id not in recording_bars:
                    recording_bars[recording_id] = bars.add_task(shorten(recording_id, _MAX_NAME_WIDTH), details="")
                bars.update(
                    recording_bars[recording_id],
                    completed=stage.frames_done,
                    total=stage.frames_total or None,
                    details=_stage_text(name, stage),
                )
            for recording_id, bar in recording_bars.items():
                state = progress.states.get(recording_id)
                if state and not state.missing:
                    bars.update(bar, visible=False)

        yield show


def _line_display() -> "Callable[[FolderProgress], None]":
    last_key_by_subject: dict[str, str] = {}

    def show(progress: "FolderProgress") -> None:
        done, total, details = _overall_progress(progress)
        lines = {"": f"{done} of {total} recordings done, {details}"} if total else {}
        lines |= {
            recording_id: f"  {recording_id}: {_stage_text(name, stage)}"
            for (recording_id, name), stage in progress.stages.items()
        }
        for subject, line in lines.items():
            # The overall line is printed only when its counts change, not with every frame.
            key = f"{done} of {total}" if subject == "" else line
            if last_key_by_subject.get(subject) != key:
                click.echo(line, err=True)
            last_key_by_subject[subject] = key

    return show


def _overall_progress(progress: "FolderProgress") -> tuple[int, int, str]:
    """The number of recordings done, the number of all, and the details as text."""
    states = [state for recording_id in progress.recording_ids if (state := progress.states.get(recording_id))]
    done = sum(1 for state in states if not state.is_in_flight and (state.is_rejected or not state.missing))
    frames_done = sum(stage.frames_done for (_, name), stage in progress.stages.items() if name == "detections")
    frames_total = sum(stage.frames_total for (_, name), stage in progress.stages.items() if name == "normalized_video")
    details = f"{frames_done} frames analysed"
    if frames_total > frames_done and progress.detection_fps:
        remaining_s = (frames_total - frames_done) / progress.detection_fps
        details += f", {progress.detection_fps:.0f} frames/s, {remaining_s:.0f} s remaining"
    if progress.unstable_file_count:
        details += f", {progress.unstable_file_count} files not stable yet"
    return done, len(progress.recording_ids) + progress.unstable_file_count, details


def _stage_text(name: str, stage: "StageProgress") -> str:
    text = f"{name} {stage.frames_done}/{stage.frames_total or '?'}"
    if stage.frames_per_s:
        text += f" at {stage.frames_per_s:.0f} frames/s"
    if stage.frames_total > stage.frames_done and stage.frames_per_s:
        text += f", {(stage.frames_total - stage.frames_done) / stage.frames_per_s:.0f} s remaining"
    return text
