"""`make bench`: measures every case in one run on one machine, prints a table and writes benchmarks/results.json.

Real recordings and weights are read from the folder that CV_ASSETS_CORPUS names. Without that folder, a drawn recording
and the bundled model replace them, and the output says so.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import media, model, workers
from benchmarks.agreement import agreement_by_recording
from benchmarks.bundled_detector import bundled_detector_cases
from benchmarks.crops import crop_cases
from benchmarks.inputs import BenchmarkInputs, find_inputs, process_folder
from benchmarks.report import Case, describe_machine, max_case, min_case, min_ratio_case, print_table, write_json
from benchmarks.second_stage import second_stage_cases
from benchmarks.tiles import tile_cases
from benchmarks.tracking import tracking_cases
from cli.options import end_process
from resources.config.settings_file import PROJECT_ROOT
from resources.storage.results_database import open_results

RESULTS_FILE = PROJECT_ROOT / "benchmarks" / "results.json"


def process_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """`cv-assets process` on one recording, compared with `ultralytics track` on the same file."""
    folder, data_folder = scratch / "one", scratch / "one-data"
    folder.mkdir()
    shutil.copyfile(inputs.recording, folder / inputs.recording.name)
    process_folder(folder, scratch / "warm-up", inputs.weights)  # compiles the model into this machine's cache
    command_s = process_folder(folder, data_folder, inputs.weights)
    with open_results(data_folder) as results:
        recording_id, frame_count, path = results.execute(
            "SELECT recording_id, frame_count, video_path FROM recordings"
        ).fetchall()[0]
    peer_fps = model.peer_fps(inputs.weights, data_folder / path, "track", device="cpu")
    name = inputs.recording.name
    stages_fps, command_fps = frame_count / read_stage_seconds(data_folder, recording_id), frame_count / command_s
    yield min_ratio_case(f"{name}: all stages vs ultralytics track .pt", stages_fps, peer_fps, "frames/s", 1.0)
    yield min_ratio_case(f"{name}: whole command vs ultralytics track .pt", command_fps, peer_fps, "frames/s", 0.5)


def read_stage_seconds(data_folder: Path, recording_id: str) -> float:
    """Read from the table stage_runs how many seconds the stages of a recording took."""
    from cli.process_folder import seconds_by_recording
    from resources.storage.delta_store import Store

    return seconds_by_recording(Store(data_folder), [recording_id])[recording_id]


def agreement_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """The detections of every recording, compared with `ultralytics predict` on the same normalized video."""
    data_folder = scratch / "all-data"
    process_folder(inputs.folder, data_folder, inputs.weights)
    for recording_id, share in agreement_by_recording(data_folder, inputs.weights, min_iou=0.5).items():
        yield min_case(f"{recording_id}: agreement with predict", share, "share", 0.98)


def code_location_cases() -> Iterator[Case]:
    """Measure how long a fresh process takes to import the code location and build its definitions."""
    code = (
        "import time; started_s = time.monotonic(); import cv_assets.definitions; "
        "cv_assets.definitions.defs(); print(time.monotonic() - started_s)"
    )
    load_s = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(4)
    ]
    yield max_case("loading the code location", min(load_s[1:]), "s", 2.0)


def main() -> int:
    """Measure, print and write; returns 0 also where a goal is missed, because a figure is not a test."""
    click.echo(f"Measuring on {describe_machine()}; this takes some minutes.")
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        inputs = find_inputs(scratch)
        for group in (
            code_location_cases(),
            workers.latency_cases(scratch),
            workers.throughput_cases(inputs, scratch),
            media.media_cases(inputs.recording, scratch),
            tracking_cases(),
            bundled_detector_cases(),
            tile_cases(),
            model.model_cases(inputs, scratch),
            process_cases(inputs, scratch),
            agreement_cases(inputs, scratch),
            crop_cases(scratch / "all-data"),
            second_stage_cases(scratch),
        ):
            for case in group:
                click.echo(f"{case.case}: {case.ours:.3f} {case.unit} ({case.goal})", err=True)
                cases.append(case)
    print_table(cases)
    write_json(cases, RESULTS_FILE)
    click.echo(f"Written to {RESULTS_FILE.relative_to(PROJECT_ROOT)}")
    return 0


if __name__ == "__main__":
    # Warnings of libraries, here and in child processes, would be printed between the figures.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    end_process(main())
