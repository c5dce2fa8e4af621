"""The model stage against Ultralytics: `python -m benchmarks.model` measures these cases alone.

Every case runs ours and the alternative in turn in one run, each in a process of its own that has loaded and warmed up,
and compares the better of two rounds.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from benchmarks.material import Material, environment, exported, material, normalized, short_clips
from benchmarks.pipeline import Pipeline
from benchmarks.report import Case, alone, compared, compared_at_most, keep, machine, show
from resources.schema import DETECTIONS, MODEL_RUNS
from resources.settings import PROJECT_ROOT
from resources.storage import Store

ROUNDS = 2
CLIP_COUNT = 60
_SUMMED = "SELECT count(*) FROM summaries"
PEER_CLIPS = 20  # each takes it as long as the other

# Loads, warms up by running once, then runs again; prints the frames/s of the second time.
_OURS = """
import json, os, sys, time
from pathlib import Path
from cv_assets.detections import detect_recording
from resources.inference.detector import Models
from resources.schema import DETECTIONS, MODEL_RUNS, RECORDINGS, model_tables
from resources.settings import DetectionSettings
from resources.storage import Store
data, weights, asked = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
store, models = Store(data), Models()
row = store.read(RECORDINGS).to_pylist()[0]
settings = DetectionSettings(weights=weights, **asked)
def run():
    started = time.monotonic()
    detect_recording(row["recording_id"], store, settings, model_tables("detect"), models, "cpu", lambda *_: None)
    if "tracks" in sys.argv[4:]:
        from cv_assets.tracks import track_recording
        from resources.settings import Settings
        track_recording(row["recording_id"], store, Settings())
    return row["frame_count"] / (time.monotonic() - started)
run()
fps = run()
if "engine" in sys.argv[4:]:
    import numpy as np
    detector = next(iter(models._detectors.values()))
    fit = detector._fit
    shape = (fit.input_height_px, fit.input_width_px, 3)
    pictures = [np.random.default_rng(n).integers(0, 255, shape, np.uint8) for n in range(8)]
    started = time.monotonic()
    for _ in detector._engine.infer(pictures[n % 8] for n in range(row["frame_count"])): pass
    print(json.dumps({"engine_fps": row["frame_count"] / (time.monotonic() - started)}))
print(json.dumps({"fps": fps}))
sys.stdout.flush()
os._exit(0)
"""

_PEER = """
import json, sys, time
from ultralytics import YOLO
weights, video, mode, asked = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
frames = getattr(YOLO(weights, task="detect"), mode)(video, stream=True, verbose=False, save=False, **asked)
next(frames)  # warm-up: the first frame builds the predictor
started, count = time.monotonic(), 0
for _ in frames:
    count += 1
print(json.dumps({"fps": count / (time.monotonic() - started)}))
"""


_PEER_CLIPS = """
import json, pathlib, sys, time
from ultralytics import YOLO
model, asked = YOLO(sys.argv[1], task="detect"), json.loads(sys.argv[3])
clips = sorted(pathlib.Path(sys.argv[2]).glob("*.mp4"))[:int(sys.argv[4])]
def track(clip):
    for _ in model.track(str(clip), stream=True, verbose=False, save=False, persist=False, device="cpu", **asked): pass
track(clips[0])
started = time.monotonic()
for clip in clips:
    track(clip)
print(json.dumps({"seconds_per_clip": (time.monotonic() - started) / len(clips)}))
"""


def _told(code: str, *arguments: object) -> dict[str, float]:
    """What a measuring process prints, all its JSON lines as one."""
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    values: dict[str, float] = {}
    for line in shown.stdout.splitlines():
        if line.startswith("{"):
            values |= json.loads(line)
    return values


def ours(data: Path, weights: Path, asked: Mapping[str, object], *also: str) -> dict[str, float]:
    """Frames/s of our stages on a data folder with one normalized recording, warm."""
    return _told(_OURS, data, weights, json.dumps(asked), *also)


def peer(weights: Path, video: Path, mode: str, **asked: object) -> float:
    """Frames/s of `ultralytics predict` or `track` on a video, warm."""
    return _told(_PEER, weights, video, mode, json.dumps(asked))["fps"]


def speeds(found: Material, scratch: Path) -> Iterator[Case]:
    """The detections asset, and with tracks, beside predict and track with .pt and with an OpenVINO export."""
    store, row = normalized(found.recording, scratch / "speeds")
    video, name = store.data_folder / row["video_path"], found.recording.name
    ours(store.data_folder, found.weights, {})  # chooses the engine, once per machine
    engine = store.read(MODEL_RUNS).to_pylist()[0]["engine_name"]
    width_px, height_px = (int(side) for side in engine.rsplit("-", 1)[1].split("x"))
    openvino = exported(found.weights, scratch, height_px, width_px)
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        measured = ours(store.data_folder, found.weights, {}, "engine")
        whole = ours(store.data_folder, found.weights, {}, "tracks")
        size, pair = max(width_px, height_px), [height_px, width_px]
        measured |= {
            "tracked": whole["fps"],
            "predict": peer(found.weights, video, "predict", imgsz=size, device="cpu"),
            "predict-openvino": peer(openvino, video, "predict", imgsz=pair),
            "track": peer(found.weights, video, "track", imgsz=size, device="cpu"),
            "track-openvino": peer(openvino, video, "track", imgsz=pair),
        }
        best = {key: max(value, best.get(key, 0.0)) for key, value in measured.items()}
    click.echo(f"engine chosen here: {engine}")
    unit = "frames/s"
    yield compared(f"{name}: detections vs predict .pt", best["fps"], best["predict"], unit, 5.5)
    yield compared(f"{name}: detections vs predict OpenVINO", best["fps"], best["predict-openvino"], unit, 1.35)
    yield compared(f"{name}: detections + tracks vs track .pt", best["tracked"], best["track"], unit, 5.5)
    yield compared(f"{name}: detections + tracks vs track OpenVINO", best["tracked"], best["track-openvino"], unit, 2.2)
    yield compared(f"{name}: detections vs the engine alone", best["fps"], best["engine_fps"], unit, 0.8)


def static_scenes(found: Material, scratch: Path) -> Iterator[Case]:
    """skip_static beside looking at every frame: how much faster, and which detections are lost."""
    from benchmarks.material import BUNDLED_WEIGHTS, static_scene

    drawn = static_scene(scratch)
    # The bundled network answers so fast that most of the time goes into decoding, which nothing saves: no goal there.
    scenes: list[tuple[Path, Path, float | None]] = [(drawn, BUNDLED_WEIGHTS, None)]
    walkers = found.recording.parent / "one-by-one-person-detection.mp4"
    if walkers.exists():
        scenes = [(walkers, found.weights, 1.5), (drawn, found.weights, 8.0), *scenes]
    for video, weights, goal in scenes:
        store, row = normalized(video, scratch / f"static-{video.stem}-{weights.stem}")
        name = f"{video.stem}, {weights.stem}"
        ours(store.data_folder, weights, {})
        # The one chosen here is named: where little is to be found, each run would look for enough to measure with.
        chosen = {"precision": store.read(MODEL_RUNS).to_pylist()[0]["engine_name"].split("-")[1]}
        every_fps = skipping_fps = 0.0
        for _ in range(ROUNDS):
            every_fps = max(every_fps, ours(store.data_folder, weights, chosen)["fps"])
            every = store.read(DETECTIONS).to_pylist()
            skipping_fps = max(skipping_fps, ours(store.data_folder, weights, chosen | {"skip_static": True})["fps"])
        kept = store.read(DETECTIONS).to_pylist()
        run = store.read(MODEL_RUNS).to_pylist()[0]
        reused = run["reused_frame_count"] / row["frame_count"]
        click.echo(f"{name}: {reused:.0%} of the frames reuse an earlier one's detections")
        if goal is None:
            click.echo(f"{name}: {skipping_fps:.0f} frames/s with skip_static, {every_fps:.0f} without")
        else:
            yield compared(f"{name}: skip_static vs every frame", skipping_fps, every_fps, "frames/s", goal)
        lost = 1 - _kept_share(every, kept, row["frame_count"])
        yield alone(f"{name}: detections lost by skip_static", lost, "share", at_most=0.01)


def _kept_share(every: list[dict[str, object]], kept: list[dict[str, object]], frame_count: int) -> float:
    """Share of the sure boxes of one run that the other has, too."""
    import pyarrow as pa

    from benchmarks.agreement import stored
    from resources.inference.agreement import partners

    sides = [stored(pa.Table.from_pylist(rows, DETECTIONS.arrow_schema), frame_count) for rows in (every, kept)]
    counted = [partners(one, other, 0.5) for one, other in zip(*sides, strict=True)]
    sure = sum(total for _, total in counted)
    return sum(met for met, _ in counted) / sure if sure else 1.0


def kills(scratch: Path) -> Iterator[Case]:
    """Kill -9 at ten random moments of a 5-minute recording, beside an undisturbed run."""
    from benchmarks.material import BUNDLED_WEIGHTS, five_minutes

    store, row = normalized(five_minutes(scratch), scratch / "kills")
    undisturbed = scratch / "undisturbed"
    shutil.copytree(store.data_folder, undisturbed)
    started = time.monotonic()
    once = [sys.executable, "-c", _OURS.replace("run()\nfps = run()", "fps = run()"), "", str(BUNDLED_WEIGHTS), "{}"]
    subprocess.run([*once[:3], str(undisturbed), *once[4:]], check=True, capture_output=True, env=environment())
    whole_s = time.monotonic() - started
    rng, killed = random.Random(int(time.time())), 0
    command = [*once[:3], str(store.data_folder), *once[4:]]
    for _ in range(10):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            try:
                running.wait(rng.uniform(0.3, max(0.6, whole_s / 3)))
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                killed += 1
    subprocess.run(command, check=True, capture_output=True, env=environment())
    order = [("frame_index", "ascending"), ("detection_index", "ascending")]
    tables = [Store(folder).read(DETECTIONS).sort_by(order) for folder in (store.data_folder, undisturbed)]
    click.echo(f"{killed} of 10 runs were killed, of {row['frame_count']} frames")
    yield alone("kill -9 ten times: rows as undisturbed", float(tables[0].equals(tables[1])), "equal", at_least=1)


def clips(found: Material, scratch: Path) -> Iterator[Case]:
    """Many short clips dropped on a running pipeline until SQL answers, beside a warm `ultralytics track`."""
    folder = scratch / "clips"
    short_clips(found.recording, folder, CLIP_COUNT + 1, 3.0)
    warm_up, *clips = sorted(folder.glob("*.mp4"))
    pipeline = Pipeline(scratch / "clips-pipeline", detections={"weights": str(found.weights)})
    with pipeline.running():
        pipeline.drop(warm_up)
        pipeline.until(lambda: pipeline.sql(_SUMMED) == [(1,)], 300, "the first clip")
        started = time.monotonic()
        for clip in clips:
            pipeline.drop(clip)
        pipeline.until(lambda: pipeline.sql(_SUMMED) == [(1 + CLIP_COUNT,)], 1800, "all clips")
        ours_s = (time.monotonic() - started) / CLIP_COUNT
    engine = Store(pipeline.data).read(MODEL_RUNS).to_pylist()[0]["engine_name"]
    width_px, height_px = (int(side) for side in engine.rsplit("-", 1)[1].split("x"))
    openvino = exported(found.weights, scratch, height_px, width_px)
    for name, weights, size in (
        (".pt", found.weights, max(width_px, height_px)),
        ("OpenVINO", openvino, [height_px, width_px]),
    ):
        peer_s = _told(_PEER_CLIPS, weights, folder, json.dumps({"imgsz": size}), PEER_CLIPS)["seconds_per_clip"]
        case = f"{CLIP_COUNT} clips of 3 s, per clip, vs one warm ultralytics track {name}"
        yield compared_at_most(case, ours_s, peer_s, "s", 1.3)


def memory(scratch: Path) -> Iterator[Case]:
    """Peak memory of the stage on two hours of 720p, and how much of it came after the first minute."""
    import psutil

    from benchmarks.material import BUNDLED_WEIGHTS, two_hours

    store, _ = normalized(two_hours(scratch), scratch / "memory")
    code = _OURS.replace("run()\nfps = run()", "fps = run()")
    command = [sys.executable, "-c", code, str(store.data_folder), str(BUNDLED_WEIGHTS), "{}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        started, peak, own_peak, first_minute = time.monotonic(), 0, 0, 0
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                told = process.memory_info()
            except psutil.NoSuchProcess:
                break
            # Of finished parts, which are files, more is mapped at the end; that the system takes back at any time.
            peak, own_peak = max(peak, told.rss), max(own_peak, told.rss - getattr(told, "shared", 0))
            if time.monotonic() - started < 60:
                first_minute = own_peak
            time.sleep(0.2)
    if running.returncode:
        raise RuntimeError(f"The stage ended with {running.returncode}.")
    yield alone("2 h of 720p: peak memory, mapped files included", peak / 1e9, "GB", at_most=1.5)
    yield compared("2 h of 720p: first minute's peak vs the whole", first_minute / 1e9, own_peak / 1e9, "GB", 0.9)


def cases(found: Material, scratch: Path) -> Iterator[Case]:
    """Every case of the model stage."""
    yield from speeds(found, scratch)
    yield from static_scenes(found, scratch)
    yield from kills(scratch)
    yield from clips(found, scratch)
    yield from memory(scratch)


def main() -> int:
    """Measure the cases named on the command line, or all; prints a table."""
    click.echo(f"Measuring on {machine()}; this takes some minutes.")
    chosen = sys.argv[1:] or ["speeds", "static", "kills", "clips", "memory"]
    with tempfile.TemporaryDirectory() as folder:
        found, scratch = material(Path(folder)), Path(folder)
        makers = {
            "speeds": lambda: speeds(found, scratch),
            "static": lambda: static_scenes(found, scratch),
            "kills": lambda: kills(scratch),
            "clips": lambda: clips(found, scratch),
            "memory": lambda: memory(scratch),
        }
        measured = []
        for name in chosen:
            for case in makers[name]():
                click.echo(f"{case.case}: {case.ours:.3f} ({case.ratio:.2f}, {case.goal})")
                measured.append(case)
    show(measured)
    keep(measured, PROJECT_ROOT / "benchmarks" / "results-model.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
