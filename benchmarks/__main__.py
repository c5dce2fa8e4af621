"""`make bench`: every case in one run on one machine; prints a table and writes benchmarks/results.json.

Real recordings and weights are read from the folder that CV_ASSETS_CORPUS names; without it, a drawn recording and the
bundled model take their place, and the cases say so.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import media, model
from benchmarks.agreement import agreement
from benchmarks.latency import latency
from benchmarks.material import Material, material, process
from benchmarks.report import Case, alone, compared, keep, machine, show
from benchmarks.tracking import tracking
from resources.results import open_results
from resources.settings import PROJECT_ROOT

RESULTS = PROJECT_ROOT / "benchmarks" / "results.json"


def whole_command(found: Material, scratch: Path) -> Iterator[Case]:
    """A recording from the folder to the tables, beside `ultralytics track` over the same file."""
    folder, data = scratch / "one", scratch / "one-data"
    folder.mkdir()
    shutil.copyfile(found.recording, folder / found.recording.name)
    process(folder, scratch / "warm-up", found.weights)  # compiles the model into this machine's cache
    whole_s = process(folder, data, found.weights)
    with open_results(data) as results:
        recording_id, frame_count, path = results.execute(
            "SELECT recording_id, frame_count, video_path FROM recordings"
        ).fetchall()[0]
    slow = model.peer(found.weights, data / path, "track", device="cpu")
    name = found.recording.name
    stages_fps, whole_fps = frame_count / stage_seconds(data, recording_id), frame_count / whole_s
    yield compared(f"{name}: all stages vs ultralytics track .pt", stages_fps, slow, "frames/s", 1.0)
    yield compared(f"{name}: whole command vs ultralytics track .pt", whole_fps, slow, "frames/s", 0.5)


def stage_seconds(data: Path, recording_id: str) -> float:
    """Seconds that the stages of a recording took, from Dagster's own record of them."""
    os.environ["DAGSTER_HOME"] = str(data / "dagster")
    from dagster import DagsterInstance

    from cv_assets.commands.headless import seconds_by_recording

    with DagsterInstance.get() as instance:
        return seconds_by_recording(instance, [recording_id])[recording_id]


def agreements(found: Material, scratch: Path) -> Iterator[Case]:
    """Our detections of every recording beside those of `ultralytics predict` on the same normalized video."""
    data = scratch / "all-data"
    process(found.folder, data, found.weights)
    for recording_id, share in agreement(data, found.weights, min_iou=0.5).items():
        yield alone(f"{recording_id}: agreement with predict", share, "share", at_least=0.98)


def code_location() -> Iterator[Case]:
    """How long the code location takes to load in a fresh process."""
    code = "import time; t = time.monotonic(); import cv_assets.definitions; print(time.monotonic() - t)"
    shown = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(4)
    ]
    yield alone("loading the code location", min(shown[1:]), "s", at_most=2.0)


def main() -> int:
    """Measure, print and keep; returns 0 also where a goal is missed, because a figure is not a test."""
    click.echo(f"Measuring on {machine()}; this takes some minutes.")
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        found = material(Path(folder))
        normalizing = media.cases(found.recording, Path(folder))
        for measured in (
            code_location(),
            latency(Path(folder)),
            normalizing,
            tracking(),
            model.cases(found, Path(folder)),
            whole_command(found, Path(folder)),
            agreements(found, Path(folder)),
        ):
            for case in measured:
                click.echo(f"{case.case}: {case.ours:.3f} {case.unit} ({case.goal})", err=True)
                cases.append(case)
    show(cases)
    keep(cases, RESULTS)
    click.echo(f"Written to {RESULTS.relative_to(PROJECT_ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
