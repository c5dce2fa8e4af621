"""Display of the progress of a folder: bars on a terminal, lines elsewhere."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from cli.outcome_table import format_duration, printable_name
from cli.wait_sentences import WaitSentences, short_waits

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cli.process_folder import FolderProgress, StageProgress

_WAIT_INTERVAL_S = 30.0


@contextmanager
def display_progress() -> "Iterator[Callable[[FolderProgress], None]]":
    """Yield a function that shows the progress: as bars on a terminal, as a line per change elsewhere."""
    if not sys.stderr.isatty():
        yield _line_display()
        return
    from rich.console import Console

    from cli.progress_bars import ProgressBars

    with ProgressBars(console=Console(stderr=True)) as bars:
        overall_bar = bars.add_task("recordings", total=None, details="starting the daemon")
        recording_bars: dict[str, TaskID] = {}
        wait_sentences = WaitSentences(math.inf)  # the bars show the elapsed time

        def show(progress: "FolderProgress") -> None:
            done, total, details = _overall_progress(progress)
            bars.update(
                overall_bar, completed=done, total=total or None, details=details, remaining_s=_remaining_s(progress)
            )
            current = {recording_id: (name, stage) for (recording_id, name), stage in progress.stages.items()}
            for recording_id, (name, stage) in current.items():
                if recording_id not in recording_bars:
                    recording_bars[recording_id] = bars.add_task(printable_name(recording_id), total=None, details="")
                bars.update(
                    recording_bars[recording_id],
                    completed=stage.frames_done,
                    total=stage.frames_total or None,
                    details=f"{name}{_rate_text(stage)}",
                    remaining_s=_stage_remaining_s(stage),
                )
            for sentence in wait_sentences.news(progress):
                bars.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
            for recording_id, wait_text in short_waits(progress).items():
                bars.update(recording_bars.get(recording_id, overall_bar), details=wait_text)
            for recording_id, bar in recording_bars.items():
                state = progress.states.get(recording_id)
                if state and not state.missing:
                    bars.update(bar, visible=False)

        yield show


def _line_display() -> "Callable[[FolderProgress], None]":
    last_key_by_subject: dict[str, str] = {}
    wait_sentences = WaitSentences(_WAIT_INTERVAL_S)

    def show(progress: "FolderProgress") -> None:
        done, total, details = _overall_progress(progress)
        details += _remaining_text(_remaining_s(progress))
        lines = {"": f"{done} of {total} recordings done, {details}"} if total else {}
        lines |= {
            recording_id: f"  {recording_id}: {_stage_text(name, stage)}"
            for (recording_id, name), stage in progress.stages.items()
        }
        for subject, line in lines.items():
            # The overall line is printed only when its counts change, not with every frame.
            counts = f"{done} of {total}, {progress.queued_run_count}, {progress.unstable_file_count}"
            key = counts if subject == "" else line
            if last_key_by_subject.get(subject) != key:
                click.echo(line, err=True)
            last_key_by_subject[subject] = key
        for sentence in wait_sentences.news(progress):
            click.echo(f"  {sentence}", err=True)

    return show


def _overall_progress(progress: "FolderProgress") -> tuple[int, int, str]:
    """The number of recordings done, the number of all, and the details as text."""
    states = [state for recording_id in progress.recording_ids if (state := progress.states.get(recording_id))]
    done = sum(1 for state in states if not state.is_in_flight and (state.is_rejected or not state.missing))
    details = f"{_frame_counts(progress)[0]} frames analysed"
    if progress.detection_fps:
        details += f", {progress.detection_fps:.0f} frames/s"
    if progress.unstable_file_count:
        details += f", {progress.unstable_file_count} files not stable yet"
    if progress.queued_run_count:
        details += f", runs queued: {progress.queued_run_count}"
    return done, len(progress.recording_ids) + progress.unstable_file_count, details


def _frame_counts(progress: "FolderProgress") -> tuple[int, int]:
    """Frames that the detector has analysed, and those of all recordings whose length is known."""
    done = sum(stage.frames_done for (_, name), stage in progress.stages.items() if name == "detections")
    total = sum(stage.frames_total for (_, name), stage in progress.stages.items() if name == "normalized_video")
    return done, total


def _remaining_s(progress: "FolderProgress") -> float | None:
    """Estimated time until all frames are analysed; None if it is unknown."""
    done, total = _frame_counts(progress)
    return (total - done) / progress.detection_fps if total > done and progress.detection_fps else None


def _stage_remaining_s(stage: "StageProgress") -> float | None:
    """Estimated time until a stage has processed a recording; None if it is unknown."""
    remaining = stage.frames_total - stage.frames_done
    return remaining / stage.frames_per_s if remaining > 0 and stage.frames_per_s else None


def _stage_text(name: str, stage: "StageProgress") -> str:
    text = f"{name} {stage.frames_done}/{stage.frames_total or '?'}{_rate_text(stage)}"
    return f"{text}{_remaining_text(_stage_remaining_s(stage))}"


def _rate_text(stage: "StageProgress") -> str:
    return f", {stage.frames_per_s:.0f} frames/s" if stage.frames_per_s else ""


def _remaining_text(remaining_s: float | None) -> str:
    return "" if remaining_s is None else f", {format_duration(remaining_s)} remaining"
