"""The demo: the pipeline processes drawn recordings, and its SQL results are compared with the ground truth.

The exit status is 0 only if all results agree with the ground truth.
"""

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click

from cli.options import end_process
from cli.process_command import process_with_progress
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_truth, write_video
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError
from resources.storage.results_database import open_results

RUN_FOLDER = PROJECT_ROOT / "demo" / "run"
SETTINGS = PROJECT_ROOT / "demo" / "pipeline.yaml"


@dataclass(frozen=True)
class Sample:
    """One drawn recording.

    Attributes:
        path: Path of the file, relative to the watched folder.
        seed: Seed of the scene.
        duration_s: Duration.
        counts: Number of objects by class name.
        frame_rate: Frames per second.
    """

    path: str
    seed: int
    duration_s: float
    counts: dict[str, int]
    frame_rate: Fraction = Fraction(25)


SAMPLES = (
    Sample("gate/gate_2026-03-01_08-00-00.mp4", 11, 12, {"person": 3, "car": 2, "bicycle": 1}),
    Sample("gate/gate_2026-03-01_08-00-12.mp4", 12, 10, {"person": 2, "car": 1}),
    Sample("yard/yard_2026-03-01_08-00-00.mkv", 13, 10, {"bicycle": 2, "person": 1}, Fraction(30000, 1001)),
    Sample("yard/yard_2026-03-01_09-30-00.mp4", 14, 8, {}, Fraction(15)),
)


def draw_samples(folder: Path) -> dict[str, dict[str, int]]:
    """Draw the sample recordings and write their ground truth.

    Args:
        folder: Folder for the recordings, each with a JSON file of its ground truth beside it.

    Returns:
        Number of objects by class name, by path of the recording relative to the folder.
    """
    ground_truth = {}
    for sample in SAMPLES:
        path = folder / sample.path
        path.parent.mkdir(parents=True, exist_ok=True)
        scene = demo_scene(sample.seed, sample.duration_s, sample.counts, frame_rate=sample.frame_rate)
        write_video(scene, path)
        write_truth(scene, path.with_suffix(".json"))
        objects = json.loads(path.with_suffix(".json").read_text())["objects"]
        ground_truth[sample.path] = dict(Counter(scene_object["class_name"] for scene_object in objects))
    return ground_truth


def main() -> int:
    """Run the demo; returns the exit status."""
    started_s = time.monotonic()
    drawn_folder, watched_folder, data_folder = RUN_FOLDER / "drawn", RUN_FOLDER / "recordings", RUN_FOLDER / "data"
    shutil.rmtree(RUN_FOLDER, ignore_errors=True)
    watched_folder.mkdir(parents=True)
    click.echo("Drawing sample recordings with known ground truth ...")
    ground_truth = draw_samples(drawn_folder)
    for path in ground_truth:
        (watched_folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn_folder / path, watched_folder / path)
    drawn_s, drawn_at_s = time.monotonic() - started_s, time.time()
    click.echo(f"Copied {len(ground_truth)} recordings to {watched_folder}; the pipeline processes them.")
    try:
        is_complete = process_with_progress(settings=SETTINGS, folder=watched_folder, data=data_folder)
    except PipelineError as error:
        click.echo(f"The demo stopped: {error}", err=True)
        return 2
    is_correct = is_complete and _compare(data_folder, ground_truth)
    verdict = "All results agree with the ground truth." if is_correct else "Results DIFFER from the ground truth."
    click.echo(f"\n{verdict} The demo took {time.monotonic() - started_s:.0f} s:")
    click.echo(f"drawing {drawn_s:.0f} s{_describe_runs(data_folder, drawn_at_s) if is_complete else ''}.")
    click.echo(
        "To see this run in the UI: .venv/bin/cv-assets dev --settings demo/pipeline.yaml, then open "
        "http://127.0.0.1:3000\nTo run your own queries: .venv/bin/cv-assets sql --settings demo/pipeline.yaml"
    )
    return 0 if is_correct else 1


def _describe_runs(data_folder: Path, drawn_at_s: float) -> str:
    """Name the parts of the pipeline's time, from the table of its stages.

    Args:
        data_folder: The data folder.
        drawn_at_s: When the pipeline was started, in seconds since 1970.
    """
    with open_results(data_folder) as results:
        first_s, last_s, stages_s = results.execute(
            "SELECT epoch(min(started_at_utc)), epoch(max(finished_at_utc)), sum(elapsed_s) FROM stage_runs"
        ).fetchall()[0]
    return (
        f", starting {first_s - drawn_at_s:.0f} s, runs {last_s - first_s:.0f} s (the stages themselves, with loading "
        f"and compiling the model: {stages_s:.0f} s), ending {time.time() - last_s:.0f} s"
    )


def _compare(data_folder: Path, ground_truth: dict[str, dict[str, int]]) -> bool:
    """Compare SQL results with the ground truth and print both; returns whether they agree."""
    with open_results(data_folder) as results:
        click.echo("\nSELECT source_path, class_name, count(*) FROM tracks JOIN recordings USING (recording_id) ...")
        track_counts = results.execute(
            "SELECT source_path, class_name, count(*) FROM tracks JOIN recordings USING (recording_id) GROUP BY ALL"
        ).fetchall()
        tracked_counts = {(path, name): count for path, name, count in track_counts}
        drawn_counts = {(path, name): count for path, counts in ground_truth.items() for name, count in counts.items()}
        click.echo(f"{'recording':<36}{'class':<10}{'tracked':>8}{'drawn':>7}")
        for path, name in sorted({*tracked_counts, *drawn_counts}):
            tracked_count, drawn_count = tracked_counts.get((path, name), 0), drawn_counts.get((path, name), 0)
            mark = "" if tracked_count == drawn_count else "   <- differs"
            click.echo(f"{path:<36}{name:<10}{tracked_count:>8}{drawn_count:>7}{mark}")
        click.echo("\nSELECT source_path, count(*) FROM frames JOIN recordings USING (recording_id) ...")
        frame_counts = dict(
            results.execute(
                "SELECT source_path, count(*) FROM frames JOIN recordings USING (recording_id) GROUP BY ALL"
            ).fetchall()
        )
        drawn_frame_counts = {sample.path: round(sample.duration_s * sample.frame_rate) for sample in SAMPLES}
        for path, drawn_count in drawn_frame_counts.items():
            mark = "" if frame_counts.get(path) == drawn_count else "   <- differs"
            click.echo(f"{path:<46}{frame_counts.get(path, 0):>8}{drawn_count:>7}{mark}")
        click.echo("\nSELECT camera, sum(track_count), max(max_at_once) FROM summaries GROUP BY camera")
        results.sql(
            "SELECT camera, sum(track_count) AS objects, max(max_at_once) AS most_at_once, "
            "round(sum(duration_s), 1) AS footage_s FROM summaries GROUP BY camera ORDER BY camera"
        ).show()
    return tracked_counts == drawn_counts and frame_counts == drawn_frame_counts


if __name__ == "__main__":
    end_process(main())
