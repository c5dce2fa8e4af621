"""`make bench`: every case in one run on one machine; prints a table and writes benchmarks/results.json.

Real recordings and weights are read from the folder that CV_ASSETS_CORPUS names; without it, a drawn recording and the
bundled model take their place, and the cases say so.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import media
from benchmarks.agreement import agreement
from benchmarks.report import CORPUS, Case, alone, compared, keep, machine, show
from benchmarks.tracking import tracking
from resources.results import open_results
from resources.settings import PROJECT_ROOT

RESULTS = PROJECT_ROOT / "benchmarks" / "results.json"
BUNDLED_WEIGHTS = PROJECT_ROOT / "demo" / "model" / "street.pt"

_TRACK = """
import json, sys, time
from ultralytics import YOLO
model = YOLO(sys.argv[1], task="detect")
size = json.loads(sys.argv[3])
frames = model.track(sys.argv[2], stream=True, verbose=False, save=False, persist=False, **size)
next(frames)  # warm-up: the first frame builds the predictor
started, count = time.monotonic(), 0
for _ in frames:
    count += 1
print(json.dumps({"fps": count / (time.monotonic() - started)}))
"""


@dataclass(frozen=True)
class Material:
    """What is measured on: a recording, the weights, and a folder of recordings for the agreement."""

    recording: Path
    weights: Path
    folder: Path


def material(scratch: Path) -> Material:
    """The corpus where there is one, and drawn recordings elsewhere."""
    if (CORPUS / "MANIFEST.tsv").exists():
        recordings = CORPUS / "recordings"
        return Material(recordings / "traffic_camera.mp4", CORPUS / "weights" / "yolo11n.pt", recordings)
    click.echo(f"No corpus at {CORPUS}: measuring a drawn recording with the bundled model instead.")
    from demo.scenes import demo_scene, write_video

    drawn = scratch / "drawn" / "street.mp4"
    drawn.parent.mkdir()
    write_video(demo_scene(1, 24, {"person": 5, "car": 4}), drawn)
    return Material(drawn, BUNDLED_WEIGHTS, drawn.parent)


def environment() -> dict[str, str]:
    """No network, no reports to anybody, for the peer as for us."""
    return {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}


def process(folder: Path, data: Path, weights: Path) -> float:
    """Run the command on a folder; returns its seconds."""
    started = time.monotonic()
    ours = Path(sys.executable).with_name("cv-assets")
    command = [ours, "process", folder, "--data", data, "--weights", weights]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def track_fps(weights: Path, video: Path, **size: object) -> float:
    """Frames/s of `ultralytics track` over a video in a process of its own, its first frame left out."""
    command = [sys.executable, "-c", _TRACK, str(weights), str(video), json.dumps(size)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return float(json.loads(shown.stdout.splitlines()[-1])["fps"])


def exported(weights: Path, scratch: Path, height_px: int, width_px: int) -> Path:
    """The peer's own OpenVINO export of the weights, at the same input size."""
    copy = scratch / weights.name
    shutil.copyfile(weights, copy)
    code = "import sys; from ultralytics import YOLO; print(YOLO(sys.argv[1]).export(format='openvino', imgsz=%r))"
    command = [sys.executable, "-c", code % ((height_px, width_px),), str(copy)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return Path(shown.stdout.splitlines()[-1])


def end_to_end(found: Material, scratch: Path) -> Iterator[Case]:
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
        engine = str(results.execute("SELECT any_value(engine_name) FROM detections").fetchall()[0][0])
    stages_s = stage_seconds(data, recording_id)
    width_px, height_px = (int(side) for side in engine.rsplit("-", 1)[1].split("x"))
    openvino = exported(found.weights, scratch, height_px, width_px)
    slow = track_fps(found.weights, data / path, imgsz=max(width_px, height_px), device="cpu")
    fast = track_fps(openvino, data / path, imgsz=[height_px, width_px])
    name = found.recording.name
    stages_fps, whole_fps = frame_count / stages_s, frame_count / whole_s
    yield compared(f"{name}: all stages vs ultralytics track .pt", stages_fps, slow, "frames/s", 1.0)
    yield compared(f"{name}: all stages vs ultralytics track OpenVINO", stages_fps, fast, "frames/s", 1.0)
    yield compared(f"{name}: whole command vs ultralytics track .pt", whole_fps, slow, "frames/s", 0.5)


def stage_seconds(data: Path, recording_id: str) -> float:
    """Seconds that the stages of a recording took, from Dagster's own record of them."""
    os.environ["DAGSTER_HOME"] = str(data / "dagster")
    from dagster import DagsterInstance

    from cv_assets.headless import seconds_by_recording

    with DagsterInstance.get() as instance:
        return seconds_by_recording(instance, [recording_id])[recording_id]


def agreements(found: Material, scratch: Path) -> Iterator[Case]:
    """Our detections of every recording beside those of `ultralytics predict` on the same normalized video."""
    data = scratch / "all-data"
    process(found.folder, data, found.weights)
    for recording_id, share in agreement(data, found.weights, min_iou=0.7).items():
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
            normalizing,
            tracking(),
            end_to_end(found, Path(folder)),
            agreements(found, Path(folder)),
        ):
            cases += measured
    show(cases)
    keep(cases, RESULTS)
    click.echo(f"Written to {RESULTS.relative_to(PROJECT_ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
