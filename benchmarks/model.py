"""The model stage compared with Ultralytics: `python -m benchmarks.model` measures these cases alone.

Every case runs this project and the alternative in turn, each in a process of its own that has loaded and warmed up,
and compares the better of two rounds.
"""

import json
import os
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
import psutil
import pyarrow as pa

from benchmarks.agreement import split_by_frame
from benchmarks.inputs import (
    BUNDLED_WEIGHTS,
    BenchmarkInputs,
    cut_clips,
    draw_five_minutes,
    draw_mostly_static_scene,
    draw_two_hours,
    export_to_openvino,
    find_inputs,
    normalize_recording,
    offline_environment,
    process_folder,
)
from benchmarks.pipeline import Pipeline
from benchmarks.report import (
    Case,
    describe_machine,
    max_case,
    max_ratio_case,
    min_case,
    min_ratio_case,
    print_table,
    write_json,
)
from cli.options import end_process
from resources.config.settings_file import PROJECT_ROOT
from resources.inference.engine_agreement import count_matches
from resources.schema.model_tables import DETECTIONS, MODEL_RUNS
from resources.storage.delta_store import Store

ROUNDS = 2
CLIP_COUNT = 60
PEER_CLIP_COUNT = 20  # each takes the peer equally long
_SUMMARY_COUNT = "SELECT count(*) FROM summaries"


def _worker_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.model_worker", *(str(argument) for argument in arguments)]


def _run_worker(*arguments: object) -> dict[str, float]:
    """Run a measuring process; returns the figures that it prints."""
    process = subprocess.run(
        _worker_command(*arguments),
        check=True,
        capture_output=True,
        text=True,
        env=offline_environment(),
        cwd=PROJECT_ROOT,
    )
    figures: dict[str, float] = {}
    for line in process.stdout.splitlines():
        if line.startswith("{"):
            figures |= json.loads(line)
    return figures


def stage_fps(data_folder: Path, weights: Path, options: Mapping[str, object], *flags: str) -> dict[str, float]:
    """Frames/s of the model stage on a data folder with one normalized recording, warm.

    Args:
        data_folder: The data folder.
        weights: The weights.
        options: Further settings of the detector.
        flags: `--tracks` adds the stage that tracks; `--engine` adds `engine_fps`, of the engine alone.
    """
    return _run_worker("stage", data_folder, weights, json.dumps(options), *flags)


def peer_fps(weights: Path, video: Path, mode: str, **options: object) -> float:
    """Frames/s of `ultralytics predict` or `track` on a video, warm."""
    return _run_worker("peer", weights, video, mode, json.dumps(options))["fps"]


def _read_engine_name(store: Store) -> str:
    return str(store.read(MODEL_RUNS).to_pylist()[0]["engine_name"])


def _input_size_px(engine_name: str) -> tuple[int, int]:
    """Width and height of the input of an engine, from its name."""
    width_px, height_px = (int(side) for side in engine_name.rsplit("-", 1)[1].split("x"))
    return width_px, height_px


def speed_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """The stages detections and tracks, compared with predict and track with .pt and with an OpenVINO export."""
    store, row = normalize_recording(inputs.recording, scratch / "speeds")
    data_folder, weights = store.data_folder, inputs.weights
    video, name = data_folder / row["video_path"], inputs.recording.name
    stage_fps(data_folder, weights, {})  # selects the engine, once per machine
    engine_name = _read_engine_name(store)
    width_px, height_px = _input_size_px(engine_name)
    openvino = export_to_openvino(weights, scratch, height_px, width_px)
    longest_px, size_px = max(width_px, height_px), [height_px, width_px]
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        figures = stage_fps(data_folder, weights, {}, "--engine") | {
            "tracks": stage_fps(data_folder, weights, {}, "--tracks")["fps"],
            "predict": peer_fps(weights, video, "predict", imgsz=longest_px, device="cpu"),
            "predict-openvino": peer_fps(openvino, video, "predict", imgsz=size_px),
            "track": peer_fps(weights, video, "track", imgsz=longest_px, device="cpu"),
            "track-openvino": peer_fps(openvino, video, "track", imgsz=size_px),
        }
        best = {key: max(value, best.get(key, 0.0)) for key, value in figures.items()}
    click.echo(f"engine selected on this machine: {engine_name}")
    for case, ours, peer, min_ratio in (
        ("detections vs predict .pt", best["fps"], best["predict"], 5.5),
        ("detections vs predict OpenVINO", best["fps"], best["predict-openvino"], 1.35),
        ("detections + tracks vs track .pt", best["tracks"], best["track"], 5.5),
        ("detections + tracks vs track OpenVINO", best["tracks"], best["track-openvino"], 2.2),
        ("detections vs the engine alone", best["fps"], best["engine_fps"], 0.8),
    ):
        yield min_ratio_case(f"{name}: {case}", ours, peer, "frames/s", min_ratio)


def frame_skipping_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """skip_unchanged_frames compared with inference on every frame: its speed, and the detections that are lost."""
    static_scene = draw_mostly_static_scene(scratch)
    # The bundled network is so fast that most of the time goes into decoding, which is never skipped: no goal for it.
    scenes: list[tuple[Path, Path, float | None]] = [(static_scene, BUNDLED_WEIGHTS, None)]
    persons = inputs.recording.parent / "one-by-one-person-detection.mp4"
    if persons.exists():
        scenes = [(persons, inputs.weights, 1.5), (static_scene, inputs.weights, 8.0), *scenes]
    for video, weights, min_ratio in scenes:
        store, row = normalize_recording(video, scratch / f"static-{video.stem}-{weights.stem}")
        name = f"{video.stem}, {weights.stem}"
        stage_fps(store.data_folder, weights, {})
        # The precision selected there is set: where a video has few objects, each run would search for samples.
        options = {"precision": _read_engine_name(store).split("-")[1]}
        every_frame_fps = skipping_fps = 0.0
        for _ in range(ROUNDS):
            every_frame_fps = max(every_frame_fps, stage_fps(store.data_folder, weights, options)["fps"])
            every_frame_rows = store.read(DETECTIONS)
            skipping_options = options | {"skip_unchanged_frames": True}
            skipping_fps = max(skipping_fps, stage_fps(store.data_folder, weights, skipping_options)["fps"])
        reused_count = store.read(MODEL_RUNS).to_pylist()[0]["reused_frame_count"]
        click.echo(f"{name}: {reused_count / row['frame_count']:.0%} of the frames reuse earlier detections")
        if min_ratio is None:
            click.echo(f"{name}: {skipping_fps:.0f} frames/s with skip_unchanged_frames, {every_frame_fps:.0f} without")
        else:
            case = f"{name}: skip_unchanged_frames vs every frame"
            yield min_ratio_case(case, skipping_fps, every_frame_fps, "frames/s", min_ratio)
        lost_share = 1 - _matched_share(every_frame_rows, store.read(DETECTIONS), row["frame_count"])
        yield max_case(f"{name}: detections lost by skip_unchanged_frames", lost_share, "share", 0.01)


def _matched_share(rows: pa.Table, other_rows: pa.Table, frame_count: int) -> float:
    """Share of the confident boxes of one run that match a box of another run."""
    frames = zip(split_by_frame(rows, frame_count), split_by_frame(other_rows, frame_count), strict=True)
    counts = [count_matches(boxes, other_boxes, 0.5) for boxes, other_boxes in frames]
    confident_count = sum(total for _, total in counts)
    return sum(matched for matched, _ in counts) / confident_count if confident_count else 1.0


def kill_cases(scratch: Path) -> Iterator[Case]:
    """Kill -9 at ten random moments of a 5-minute recording, compared with an undisturbed run."""
    store, row = normalize_recording(draw_five_minutes(scratch), scratch / "kills")
    undisturbed_folder = scratch / "undisturbed"
    shutil.copytree(store.data_folder, undisturbed_folder)
    environment = offline_environment()

    def command(data_folder: Path) -> list[str]:
        return _worker_command("stage", data_folder, BUNDLED_WEIGHTS, "{}", "--cold")

    started_s = time.monotonic()
    subprocess.run(command(undisturbed_folder), check=True, capture_output=True, env=environment, cwd=PROJECT_ROOT)
    undisturbed_s = time.monotonic() - started_s
    rng, kill_count = random.Random(int(time.time())), 0
    for _ in range(10):
        with subprocess.Popen(
            command(store.data_folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=PROJECT_ROOT,
        ) as process:
            try:
                process.wait(rng.uniform(0.3, max(0.6, undisturbed_s / 3)))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kill_count += 1
    subprocess.run(command(store.data_folder), check=True, capture_output=True, env=environment, cwd=PROJECT_ROOT)
    order = [("frame_index", "ascending"), ("detection_index", "ascending")]
    rows, undisturbed_rows = (
        Store(folder).read(DETECTIONS).sort_by(order) for folder in (store.data_folder, undisturbed_folder)
    )
    click.echo(f"{kill_count} of 10 runs were killed, of {row['frame_count']} frames")
    yield min_case("kill -9 ten times: rows as undisturbed", float(rows.equals(undisturbed_rows)), "equal", 1)


def clip_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """Many short clips dropped on a running pipeline until SQL shows them, compared with a warm `ultralytics track`."""
    folder = scratch / "clips"
    cut_clips(inputs.recording, folder, CLIP_COUNT + 1, 3.0)
    warm_up, *clips = sorted(folder.glob("*.mp4"))
    pipeline = Pipeline(scratch / "clips-pipeline", detections={"weights": str(inputs.weights)})
    with pipeline.running():
        pipeline.drop(warm_up)
        pipeline.wait_until(lambda: pipeline.sql(_SUMMARY_COUNT) == [(1,)], 300, "the first clip")
        started_s = time.monotonic()
        for clip in clips:
            pipeline.drop(clip)
        pipeline.wait_until(lambda: pipeline.sql(_SUMMARY_COUNT) == [(1 + CLIP_COUNT,)], 1800, "all clips")
        ours_s = (time.monotonic() - started_s) / CLIP_COUNT
    width_px, height_px = _input_size_px(_read_engine_name(Store(pipeline.data_folder)))
    openvino = export_to_openvino(inputs.weights, scratch, height_px, width_px)
    for name, weights, size_px in (
        (".pt", inputs.weights, max(width_px, height_px)),
        ("OpenVINO", openvino, [height_px, width_px]),
    ):
        options = json.dumps({"imgsz": size_px})
        peer_s = _run_worker("peer-clips", weights, folder, options, PEER_CLIP_COUNT)["seconds_per_clip"]
        case = f"{CLIP_COUNT} clips of 3 s, per clip, vs one warm ultralytics track {name}"
        yield max_ratio_case(case, ours_s, peer_s, "s", 1.3)


def first_result_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """A folder of six short clips with a model that this machine has never run, compared with a compiled one."""
    folder, variable = scratch / "first", "XDG_CACHE_HOME"
    cut_clips(inputs.recording, folder, 6, 5.0)
    cache_before = os.environ.get(variable)
    os.environ[variable] = str(scratch / "first-cache")
    try:
        new_s, compiled_s = (
            process_folder(folder, scratch / f"first-{name}", inputs.weights) for name in ("new", "compiled")
        )
    finally:
        os.environ.pop(variable)
        if cache_before is not None:
            os.environ[variable] = cache_before
    yield max_ratio_case("6 clips of 5 s with a new model, vs a compiled one", new_s, compiled_s, "s", 1.2)


def memory_cases(scratch: Path) -> Iterator[Case]:
    """Peak memory of the model stage on two hours of 720p, and whether the first minute already reaches it."""
    store, _ = normalize_recording(draw_two_hours(scratch), scratch / "memory")
    command = _worker_command("stage", store.data_folder, BUNDLED_WEIGHTS, "{}", "--cold")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PROJECT_ROOT) as worker:
        started_s, peak_bytes, private_peak_bytes, first_minute_bytes = time.monotonic(), 0, 0, 0
        process = psutil.Process(worker.pid)
        while worker.poll() is None:
            try:
                memory = process.memory_info()
            except psutil.NoSuchProcess:
                break
            # At the end more of the checkpoints, which are files, is mapped; the system can free that at any time.
            peak_bytes = max(peak_bytes, memory.rss)
            private_peak_bytes = max(private_peak_bytes, memory.rss - getattr(memory, "shared", 0))
            if time.monotonic() - started_s < 60:
                first_minute_bytes = private_peak_bytes
            time.sleep(0.2)
    if worker.returncode:
        raise RuntimeError(f"The model stage ended with {worker.returncode}.")
    yield max_case("2 h of 720p: peak memory, mapped files included", peak_bytes / 1e9, "GB", 1.5)
    yield min_ratio_case(
        "2 h of 720p: first minute's peak vs the whole", first_minute_bytes / 1e9, private_peak_bytes / 1e9, "GB", 0.9
    )


def model_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """Every case of the model stage."""
    yield from speed_cases(inputs, scratch)
    yield from frame_skipping_cases(inputs, scratch)
    yield from kill_cases(scratch)
    yield from clip_cases(inputs, scratch)
    yield from first_result_cases(inputs, scratch)
    yield from memory_cases(scratch)


def main() -> int:
    """Measure the cases that the command line names, or all; prints a table."""
    click.echo(f"Measuring on {describe_machine()}; this takes some minutes.")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        inputs = find_inputs(scratch)
        groups = {
            "speeds": lambda: speed_cases(inputs, scratch),
            "static": lambda: frame_skipping_cases(inputs, scratch),
            "kills": lambda: kill_cases(scratch),
            "clips": lambda: clip_cases(inputs, scratch),
            "first": lambda: first_result_cases(inputs, scratch),
            "memory": lambda: memory_cases(scratch),
        }
        cases = []
        for name in sys.argv[1:] or groups:
            for case in groups[name]():
                click.echo(f"{case.case}: {case.ours:.3f} ({case.ratio:.2f}, {case.goal})")
                cases.append(case)
    print_table(cases)
    write_json(cases, PROJECT_ROOT / "benchmarks" / "results-model.json")
    return 0


if __name__ == "__main__":
    end_process(main())
