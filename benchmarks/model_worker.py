"""One measurement of the model stage in a process of its own, started by `benchmarks.model`; prints JSON lines.

`python -m benchmarks.model_worker stage DATA WEIGHTS OPTIONS [--cold] [--tracks] [--engine]` measures the stages of
this project on a data folder with one normalized recording. `peer` measures `ultralytics predict` or `track` on a
video, `peer-clips` measures `ultralytics track` on a folder of clips.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click


@click.group()
def commands() -> None:
    """Measure once and print the figures as JSON lines."""


@commands.command()
@click.argument("data_folder", type=click.Path(path_type=Path))
@click.argument("weights")
@click.argument("options")
@click.option("--cold", is_flag=True, help="Run once instead of warming up with a first run.")
@click.option("--tracks", is_flag=True, help="Also run the stage that tracks.")
@click.option("--engine", is_flag=True, help="Also measure the engine alone.")
def stage(data_folder: Path, weights: str, options: str, cold: bool, tracks: bool, engine: bool) -> None:
    """Measure the model stage with OPTIONS, settings of the detector as JSON."""
    from cv_assets.detections import detect_recording
    from cv_assets.tracks import track_recording
    from resources.config.detection_config import DetectionSettings
    from resources.config.settings import Settings
    from resources.inference.detector import Models
    from resources.inference.engine_selection import MEASURED_AFTER_FRAMES
    from resources.schema.recording_tables import RECORDING_CONTENTS
    from resources.schema.table_registry import model_tables
    from resources.storage.delta_store import Store

    store, models = Store(data_folder), Models()
    row = store.read(RECORDING_CONTENTS).to_pylist()[0]
    recording_id, frame_count = row["recording_id"], row["frame_count"]
    settings = DetectionSettings(weights=weights, **json.loads(options))

    def measure_fps() -> float:
        started_s = time.monotonic()
        tables = model_tables("detect")
        detect_recording(recording_id, store, settings, tables, models, "cpu", lambda *_: None)
        if tracks:
            track_recording(recording_id, store, Settings())
        return float(frame_count / (time.monotonic() - started_s))

    if not cold:
        measure_fps()
        # As after much footage: the engines are measured, unless they were before.
        next(iter(models._detectors.values())).count_analysed_frames(MEASURED_AFTER_FRAMES)
        measure_fps()
    fps = measure_fps()
    if engine:
        _print_figure("engine_fps", _measure_engine_fps(next(iter(models._detectors.values())), frame_count))
    _print_figure("fps", fps)
    os._exit(0)  # without the seconds that the libraries' threads take to end


def _measure_engine_fps(detector: Any, frame_count: int) -> float:
    import numpy as np

    shape = (detector._fit.input_height_px, detector._fit.input_width_px, 3)
    images = [np.random.default_rng(number).integers(0, 255, shape, np.uint8) for number in range(8)]
    started_s = time.monotonic()
    for _ in detector._engine.infer(images[index % 8] for index in range(frame_count)):
        pass
    return frame_count / (time.monotonic() - started_s)


@commands.command()
@click.argument("weights")
@click.argument("video")
@click.argument("mode", type=click.Choice(["predict", "track"]))
@click.argument("options")
def peer(weights: str, video: str, mode: str, options: str) -> None:
    """Measure Ultralytics on a video with OPTIONS, its arguments as JSON."""
    from ultralytics import YOLO

    run: Any = getattr(YOLO(weights, task="detect"), mode)
    results = run(video, stream=True, verbose=False, save=False, **json.loads(options))
    next(results)  # warm-up: the first frame builds the predictor
    started_s = time.monotonic()
    frame_count = sum(1 for _ in results)
    _print_figure("fps", frame_count / (time.monotonic() - started_s))


@commands.command()
@click.argument("weights")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("options")
@click.argument("count", type=int)
def peer_clips(weights: str, folder: Path, options: str, count: int) -> None:
    """Measure `ultralytics track` on the first COUNT clips of a folder."""
    from ultralytics import YOLO

    yolo: Any = YOLO(weights, task="detect")
    arguments = {"stream": True, "verbose": False, "save": False, "persist": False, "device": "cpu"}

    def track(clip: Path) -> None:
        for _ in yolo.track(str(clip), **arguments, **json.loads(options)):
            pass

    clips = sorted(folder.glob("*.mp4"))[:count]
    track(clips[0])  # warm-up
    started_s = time.monotonic()
    for clip in clips:
        track(clip)
    _print_figure("seconds_per_clip", (time.monotonic() - started_s) / len(clips))


def _print_figure(name: str, value: float) -> None:
    print(json.dumps({name: value}))
    sys.stdout.flush()


if __name__ == "__main__":
    commands()
