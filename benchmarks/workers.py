"""`python -m benchmarks.workers`: warm workers, compared with Dagster's launcher and with a plain Celery task queue."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.inputs import BenchmarkInputs, cut_clips, find_inputs
from benchmarks.latency import measure_clip
from benchmarks.pipeline import Pipeline
from benchmarks.report import Case, figure_case, max_case, max_ratio_case, min_ratio_case, print_table
from cli.options import end_process
from resources.config.settings_file import PROJECT_ROOT, SETTINGS_VARIABLE

CLIP_COUNT = 60
_SUMMARY_COUNT = "SELECT count(*) FROM summaries"
_STEPS = """
{ runsOrError(limit: 40) { ... on Runs { results {
    pipelineName stats { ... on RunStatsSnapshot { launchTime } } stepStats { startTime }
} } } }
"""
_WORK = """
SELECT sum(elapsed_s) FROM stage_runs JOIN recordings USING (recording_id) WHERE source_path = 'clip-{}.mp4'
"""
_MODEL_LOADS = "SELECT max(model_load_count) FROM stage_runs WHERE stage = 'detections'"


class DefaultLauncherPipeline(Pipeline):
    """The same pipeline with Dagster's own launcher, a process per run: `dagster dev` in a folder of its own."""

    def _command(self) -> list[str]:
        for name in ("dagster.yaml", "dg.toml", "workspace.yaml", "pyproject.toml"):
            shutil.copy(PROJECT_ROOT / name, self.folder)
        return ["dagster", "dev", "--host", "127.0.0.1"]

    def stop(self) -> None:
        """Stop the pipeline; `dagster dev` sometimes stays, and leaves processes behind that still write."""
        with suppress(subprocess.TimeoutExpired):
            super().stop()
        self._process = None
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get(SETTINGS_VARIABLE) == str(self.settings_file):
                with suppress(psutil.Error):
                    process.kill()

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that `dagster dev` needs, and `cv-assets dev` sets itself."""
        return {SETTINGS_VARIABLE: str(self.settings_file)}


def latency_cases(scratch: Path, repeats: int = 10) -> Iterator[Case]:
    """Clips of 10 s, one after the other: from dropping to queryable, beyond the time of the stages themselves."""
    beyond_s, parts = _measure_overhead(Pipeline(scratch / "workers"), scratch, repeats)
    yield max_case("10 s clip, dropped -> queryable, beyond its stages", beyond_s, "s", 14)
    for part, elapsed_s in parts.items():
        yield max_case(f"of which {part}", elapsed_s, "s", 25)
    default_s, _ = _measure_overhead(DefaultLauncherPipeline(scratch / "default"), scratch, max(3, repeats // 2))
    yield max_ratio_case("the same vs Dagster's launcher", beyond_s, default_s, "s", 0.6)


def _measure_overhead(pipeline: Pipeline, scratch: Path, repeats: int) -> tuple[float, dict[str, float]]:
    """Measure clips; returns the median time beyond the stages, and the parts of the clip with that time."""
    overheads: list[tuple[float, dict[str, float]]] = []
    with pipeline.running():
        for number in range(repeats + 1):
            parts = measure_clip(pipeline, scratch, number, (number * 1.7) % 5)
            work_s = float(pipeline.sql(_WORK.format(number))[0][0])
            overheads.append((sum(parts.values()) - work_s, parts | {"stages themselves": work_s}))
        steps = _launch_to_first_step_s(pipeline)
    median = sorted(overheads[1:], key=lambda overhead: overhead[0])[repeats // 2]
    return median[0], median[1] | {"second and later runs: launched -> first step": statistics.median(steps)}


def _launch_to_first_step_s(pipeline: Pipeline) -> list[float]:
    """Seconds between launch and first step of each run, without the first run of each job."""
    by_job: dict[str, list[float]] = {}
    for run in reversed(pipeline.graphql(_STEPS)["runsOrError"]["results"]):
        starts_s = [step["startTime"] for step in run["stepStats"] if step["startTime"]]
        if starts_s and run["stats"].get("launchTime"):
            by_job.setdefault(run["pipelineName"], []).append(min(starts_s) - run["stats"]["launchTime"])
    return [elapsed_s for of_job in by_job.values() for elapsed_s in of_job[1:]]


def throughput_cases(inputs: BenchmarkInputs, scratch: Path) -> Iterator[Case]:
    """Many short clips: clips per minute, compared with Dagster's launcher and a plain Celery task queue."""
    folder = scratch / "clips"
    cut_clips(inputs.recording, folder, CLIP_COUNT + 1, 3.0)
    sections = {"detections": {"weights": str(inputs.weights)}}
    pipeline = Pipeline(scratch / "workers-clips", **sections)
    ours_s, load_count = _drain(pipeline, folder)
    yield figure_case(f"{CLIP_COUNT} clips of 3 s, clips a minute", 60 / ours_s)
    default_s, _ = _drain(DefaultLauncherPipeline(scratch / "default-clips", **sections), folder)
    yield min_ratio_case(
        f"{CLIP_COUNT} clips of 3 s vs Dagster's launcher", 60 / ours_s, 60 / default_s, "clips/min", 2.0
    )
    yield max_case("model loads per worker", load_count, "loads", 1)
    if celery_s := _drain_celery(inputs, folder, scratch):
        yield min_ratio_case(
            "the same vs a Celery queue that only detects", 60 / ours_s, 60 / celery_s, "clips/min", 0.6
        )


def _drain(pipeline: Pipeline, folder: Path) -> tuple[float, float]:
    """Drop all clips but the first at once; returns seconds per clip, and how often a worker has loaded the model."""
    warm_up, *clips = sorted(folder.glob("*.mp4"))
    with pipeline.running():
        pipeline.drop(warm_up)
        pipeline.wait_until(lambda: pipeline.sql(_SUMMARY_COUNT) == [(1,)], 600, "the first clip")
        started_s = time.monotonic()
        for clip in clips:
            pipeline.drop(clip)
        pipeline.wait_until(lambda: pipeline.sql(_SUMMARY_COUNT) == [(1 + len(clips),)], 3600, "all clips")
        elapsed_s = time.monotonic() - started_s
        load_count = float(pipeline.sql(_MODEL_LOADS)[0][0])
    return elapsed_s / len(clips), load_count


def _drain_celery(inputs: BenchmarkInputs, folder: Path, scratch: Path) -> float:
    """Seconds per clip of one warm Celery worker that detects with Ultralytics and writes rows; 0 without Redis."""
    from tests.builders.redis_server import RedisServer, find_redis_server

    program = find_redis_server()
    if program is None:
        click.echo("No Redis server is installed: the Celery queue is not measured.", err=True)
        return 0.0
    server_folder = scratch / "redis"
    server_folder.mkdir()
    server = RedisServer(program, server_folder)
    environment = {**os.environ, "CELERY_BROKER": server.url, "CELERY_WEIGHTS": str(inputs.weights)}
    module = "benchmarks.celery_tasks"
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "-c", "1", "--loglevel", "warning"]
    worker = subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT)
    try:
        script = [sys.executable, "-m", module, str(folder), str(scratch / "celery-rows")]
        output = subprocess.run(script, env=environment, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True)
        measured: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
        return float(measured["seconds_per_clip"])
    finally:
        worker.terminate()
        worker.wait(60)
        server.stop()


def _print_each(cases: Iterable[Case]) -> Iterator[Case]:
    """Print each case once it is measured, so that a later failure loses none."""
    for case in cases:
        click.echo(f"{case.case}: {case.ours:.2f} {case.unit}, ratio {case.ratio:.2f} ({case.goal})", err=True)
        yield case


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(["latency", "clips"]))
@click.option("--repeats", default=10, show_default=True, help="Clips whose latency is measured.")
def main(parts: tuple[str, ...], repeats: int) -> None:
    """Print the table; exit 1 where a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="cv-assets-workers-") as folder:
        scratch = Path(folder)
        cases: list[Case] = []
        if not parts or "latency" in parts:
            cases += _print_each(latency_cases(scratch, repeats))
        if not parts or "clips" in parts:
            cases += _print_each(throughput_cases(find_inputs(scratch), scratch))
    print_table(cases)
    end_process(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
