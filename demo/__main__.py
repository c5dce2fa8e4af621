"""The demo: drawn recordings with known truth go through the real pipeline, and the answers are compared.

Recordings are dropped into a watched folder while the pipeline runs, as a camera would; the exit status is 0 only if
what SQL answers is the truth.
"""

import json
import shutil
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click

from cv_assets.commands.cli import end_process, run_folder
from demo.scenes import demo_scene, write_truth, write_video
from resources.errors import PipelineError
from resources.results import open_results
from resources.settings import PROJECT_ROOT

RUN_FOLDER = PROJECT_ROOT / "demo" / "run"
SETTINGS = PROJECT_ROOT / "demo" / "pipeline.yaml"


@dataclass(frozen=True)
class Sample:
    """One drawn recording: where it is dropped, and what is in it."""

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
    """Draw the sample recordings and their truth.

    Args:
        folder: Where the recordings are written, with a truth file (.json) beside each.

    Returns:
        The number of objects by class of each recording, by path relative to the folder.
    """
    truth = {}
    for sample in SAMPLES:
        path = folder / sample.path
        path.parent.mkdir(parents=True, exist_ok=True)
        scene = demo_scene(sample.seed, sample.duration_s, sample.counts, frame_rate=sample.frame_rate)
        write_video(scene, path)
        write_truth(scene, path.with_suffix(".json"))
        objects = json.loads(path.with_suffix(".json").read_text())["objects"]
        counts: dict[str, int] = {}
        for shown in objects:
            counts[shown["class_name"]] = counts.get(shown["class_name"], 0) + 1
        truth[sample.path] = counts
    return truth


def main() -> int:
    """Run the demo; returns the exit status."""
    started = time.monotonic()
    drawn, watched, data = RUN_FOLDER / "drawn", RUN_FOLDER / "recordings", RUN_FOLDER / "data"
    shutil.rmtree(RUN_FOLDER, ignore_errors=True)
    watched.mkdir(parents=True)
    click.echo("Drawing sample recordings with known truth ...")
    truth = draw_samples(drawn)
    for path in truth:
        (watched / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn / path, watched / path)
    click.echo(f"Dropped {len(truth)} recordings into {watched}; sensor, queue and daemon take over.")
    try:
        is_complete = run_folder(settings=SETTINGS, folder=watched, data=data)
    except PipelineError as error:
        click.echo(f"The demo stopped: {error}", err=True)
        return 2
    is_right = is_complete and _compare(data, truth)
    click.echo(f"\n{'The answers are the truth.' if is_right else 'The answers are WRONG.'}", nl=False)
    click.echo(f" {time.monotonic() - started:.0f} s.")
    click.echo(
        "To look at this run in the UI: .venv/bin/cv-assets dev --settings demo/pipeline.yaml, then open "
        "http://127.0.0.1:3000\nTo ask more: .venv/bin/cv-assets sql --settings demo/pipeline.yaml"
    )
    return 0 if is_right else 1


def _compare(data: Path, truth: dict[str, dict[str, int]]) -> bool:
    """Print what SQL answers beside what was drawn; returns whether all of it agrees."""
    with open_results(data) as results:
        click.echo("\nSELECT source_path, class_name, count(*) FROM tracks JOIN recordings USING (recording_id) ...")
        found = results.execute(
            "SELECT source_path, class_name, count(*) FROM tracks JOIN recordings USING (recording_id) GROUP BY ALL"
        ).fetchall()
        tracked = {(path, name): count for path, name, count in found}
        drawn = {(path, name): count for path, counts in truth.items() for name, count in counts.items()}
        click.echo(f"{'recording':<36}{'class':<10}{'tracked':>8}{'drawn':>7}")
        for path, name in sorted({*tracked, *drawn}):
            answer, expected = tracked.get((path, name), 0), drawn.get((path, name), 0)
            mark = "" if answer == expected else "   <- differs"
            click.echo(f"{path:<36}{name:<10}{answer:>8}{expected:>7}{mark}")
        click.echo("\nSELECT source_path, count(*) FROM frames JOIN recordings USING (recording_id) ...")
        frames = dict(
            results.execute(
                "SELECT source_path, count(*) FROM frames JOIN recordings USING (recording_id) GROUP BY ALL"
            ).fetchall()
        )
        expected_frames = {sample.path: round(sample.duration_s * sample.frame_rate) for sample in SAMPLES}
        for path, expected in expected_frames.items():
            mark = "" if frames.get(path) == expected else "   <- differs"
            click.echo(f"{path:<46}{frames.get(path, 0):>8}{expected:>7}{mark}")
        click.echo("\nSELECT camera, sum(track_count), max(max_at_once) FROM summaries GROUP BY camera")
        results.sql(
            "SELECT camera, sum(track_count) AS objects, max(max_at_once) AS most_at_once, "
            "round(sum(duration_s), 1) AS footage_s FROM summaries GROUP BY camera ORDER BY camera"
        ).show()
    return tracked == drawn and frames == expected_frames


if __name__ == "__main__":
    end_process(main())
