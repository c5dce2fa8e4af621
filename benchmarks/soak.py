"""`python -m benchmarks.soak`: many short recordings in bursts, some of them broken, while processes are killed.

Afterwards every good recording must be in the tables exactly once and complete, every broken one named, and no work
left. "Complete" is checked against copies: each drawn scene is dropped many times, distinguished by a few bytes that no
player reads, and all its recordings must have the same frames, detections and tracks.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.pipeline import Pipeline
from benchmarks.report import Case, exact_case, figure_case, print_table
from cli.options import end_process
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video

SCENE_COUNT, CLIP_S = 10, 4
KINDS = ("run worker", "run worker", "daemon", "webserver", "code server", "everything")
_FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
_RUNS = "{ runsOrError { ... on Runs { results { status } } } }"
_TIMEOUT_S = 3600.0
_IDLE_S = 20.0  # a failed recording is retried within some ticks of the sensors


def draw_recordings(folder: Path, count: int, broken_share: float, rng: random.Random) -> tuple[list[Path], list[Path]]:
    """Draw recordings.

    Args:
        folder: Where they are written.
        count: How many.
        broken_share: Which share of them is broken.
        rng: Chooses the content of the broken ones.

    Returns:
        The good ones, named after their scene, and the broken ones.
    """
    folder.mkdir()
    scenes = []
    for number in range(SCENE_COUNT):
        path = folder / f"scene-{number}.mp4"
        write_video(demo_scene(number, CLIP_S, {"car": 1}), path)
        scenes.append(path.read_bytes())
        path.unlink()
    good, broken = [], []
    for number in range(count):
        content = scenes[number % SCENE_COUNT] + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
        if number < round(count * broken_share):
            path = folder / f"broken-{number:04d}.mp4"
            truncated = content[: len(content) // 3] + bytes([number % 256])
            path.write_bytes(truncated if number % 2 else rng.randbytes(5000))
            broken.append(path)
        else:
            path = folder / f"good-{number % SCENE_COUNT}-{number:04d}.mp4"
            path.write_bytes(content)
            good.append(path)
    return good, broken


def soak_cases(folder: Path, count: int, kill_count: int, seed: int) -> Iterator[Case]:
    """Drop recordings in bursts, kill processes after each burst, wait for the end, and count rows."""
    rng = random.Random(seed)
    good, broken = draw_recordings(folder / "drawn", count, 0.05, rng)
    paths = [*good, *broken]
    rng.shuffle(paths)
    # A run may be killed three times at the same recording by chance: a fourth attempt keeps it from quarantine.
    pipeline = Pipeline(folder / "pipeline", batches={"max_attempts": 4}, ingest={"incomplete_settle_s": 5})
    pipeline.start()
    started_s = time.monotonic()
    successful_kill_count = 0
    try:
        for burst in [paths[start::kill_count] for start in range(kill_count)]:
            for path in burst:
                shutil.copyfile(path, pipeline.watched_folder / path.name)
            time.sleep(rng.uniform(5, 25))
            kind = rng.choice(KINDS)
            for _ in range(360):  # what was killed before may not have started again yet
                if process_count := pipeline.kill(kind, rng):
                    break
                time.sleep(0.5)
            successful_kill_count += process_count > 0
            click.echo(f"{time.monotonic() - started_s:.0f} s: killed {kind} ({process_count} processes)", err=True)
            time.sleep(1)
            if pipeline.has_ended:
                pipeline.start()
            pipeline.wait_until(pipeline.is_loaded, 180, "the pipeline to start again")
        _wait_until_processed(pipeline, count)
        elapsed_s = time.monotonic() - started_s
        yield from _row_count_cases(pipeline, good, broken)
        yield exact_case("processes killed", successful_kill_count, kill_count)
        yield figure_case("recordings a minute, kills included", count / elapsed_s * 60)
    finally:
        pipeline.stop()


def _wait_until_processed(pipeline: Pipeline, count: int) -> None:
    idle_since_s: float | None = None

    def is_processed() -> bool:
        nonlocal idle_since_s
        processed_count = pipeline.sql(
            "SELECT count(*) FROM recordings LEFT JOIN summaries USING (recording_id) "
            "WHERE status IN ('rejected', 'failed', 'quarantined') OR summaries.recording_id IS NOT NULL"
        )
        runs = pipeline.graphql(_RUNS)["runsOrError"]["results"]
        if processed_count != [(count,)] or any(run["status"] not in _FINISHED for run in runs):
            idle_since_s = None
            return False
        idle_since_s = idle_since_s or time.monotonic()
        return time.monotonic() - idle_since_s >= _IDLE_S

    pipeline.wait_until(is_processed, _TIMEOUT_S, "all recordings to be processed", interval_s=5)


def _row_count_cases(pipeline: Pipeline, good: list[Path], broken: list[Path]) -> Iterator[Case]:
    rows = pipeline.sql(
        "SELECT source_path, status, error, s.frame_count, s.detection_count, s.track_count, "
        "(SELECT count(*) FROM frames f WHERE f.recording_id = r.recording_id), "
        "(SELECT count(*) FROM detections d WHERE d.recording_id = r.recording_id), "
        "(SELECT count(*) FROM recording_zone_seconds z WHERE z.recording_id = r.recording_id) "
        "FROM recordings r LEFT JOIN summaries s USING (recording_id)"
    )
    by_path = {row[0]: row for row in rows}
    good_rows = [by_path[path.name] for path in good]
    yield exact_case("good recordings with status ok", sum(row[1] == "ok" for row in good_rows), len(good))
    for row in rows:
        if row[0].startswith("good") and row[1] != "ok":
            click.echo(f"{row[0]}: {row[1]}: {row[2]}", err=True)
    by_scene: dict[str, set[tuple[object, ...]]] = {}
    for path in good:
        by_scene.setdefault(path.name.split("-")[1], set()).add(by_path[path.name][3:])
    equal_count = sum(len(counts) == 1 for counts in by_scene.values())
    yield exact_case("scenes whose recordings all have equal counts", equal_count, len(by_scene))
    complete_count = sum(row[3] == row[6] == CLIP_S * 25 and row[4] == row[7] for row in good_rows)
    yield exact_case("good recordings whose rows agree with their summaries", complete_count, len(good))
    named_count = sum(bool(by_path[path.name][1] == "rejected" and by_path[path.name][2]) for path in broken)
    yield exact_case("broken recordings rejected with a reason", named_count, len(broken))
    yield exact_case("rows of recordings", len(rows), len(good) + len(broken))
    for table, key in (
        ("frames", "frame_index"),
        ("detections", "(frame_index, detection_index)"),
        ("tracks", "track_id"),
    ):
        ((duplicate_count,),) = pipeline.sql(f"SELECT count(*) - count(DISTINCT (recording_id, {key})) FROM {table}")
        yield exact_case(f"duplicate rows of {table}", duplicate_count, 0)
    checkpoints = list((pipeline.data_folder / "unfinished").glob("detections/*"))
    yield exact_case("checkpoints of unfinished work left", len(checkpoints), 0)


@click.command()
@click.option("--recordings", "count", default=300, show_default=True)
@click.option("--kills", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(count: int, kills: int, seed: int) -> None:
    """Print the table; exit 1 where a count is not as expected."""
    with tempfile.TemporaryDirectory(prefix="cv-assets-soak-") as scratch:
        cases = list(soak_cases(Path(scratch), count, kills, seed))
    print_table(cases)
    end_process(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    main()
