"""`python -m benchmarks.soak`: many short recordings in bursts, some of them broken, while processes are killed.

Afterwards every good recording must be there exactly once and complete, every broken one named, and nothing may wait.
"Complete" is checked against twins: each drawn scene is dropped many times, told apart by a few bytes that no player
reads, and all its recordings must have the same frames, detections and tracks.
"""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.pipeline import Pipeline
from benchmarks.report import Case, show
from demo.scenes import demo_scene, write_video

SCENES, SECONDS = 10, 4
KINDS = ("run worker", "run worker", "daemon", "webserver", "code server", "everything")
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_RUNS = "{ runsOrError { ... on Runs { results { status } } } }"
_PATIENCE_S = 3600.0


def drawn(folder: Path, count: int, broken_share: float, chance: random.Random) -> tuple[list[Path], list[Path]]:
    """Draw recordings.

    Args:
        folder: Where.
        count: How many.
        broken_share: How many of them are broken.
        chance: Decides how.

    Returns:
        The good ones, named after their scene, and the broken ones.
    """
    folder.mkdir()
    scenes = []
    for number in range(SCENES):
        path = folder / f"scene-{number}.mp4"
        write_video(demo_scene(number, SECONDS, {"car": 1}), path)
        scenes.append(path.read_bytes())
        path.unlink()
    good, broken = [], []
    for number in range(count):
        content = scenes[number % SCENES] + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
        if number < round(count * broken_share):
            path = folder / f"broken-{number:04d}.mp4"
            path.write_bytes(
                content[: len(content) // 3] + bytes([number % 256]) if number % 2 else chance.randbytes(5000)
            )
            broken.append(path)
        else:
            path = folder / f"good-{number % SCENES}-{number:04d}.mp4"
            path.write_bytes(content)
            good.append(path)
    return good, broken


def soak(home: Path, count: int, kills: int, seed: int) -> Iterator[Case]:
    """Drop, kill, wait, and count."""
    chance = random.Random(seed)
    good, broken = drawn(home / "drawn", count, 0.05, chance)
    everything = [*good, *broken]
    chance.shuffle(everything)
    # A recording at which a run is killed three times by chance is not poison.
    pipeline = Pipeline(home / "pipeline", batches={"max_attempts": 4}, intake={"unfinished_settle_s": 5})
    pipeline.start()
    started = time.monotonic()
    done_kills = 0
    try:
        bursts = [everything[at::kills] for at in range(kills)]
        for burst in bursts:
            for path in burst:
                shutil.copyfile(path, pipeline.watched / path.name)
            time.sleep(chance.uniform(5, 25))
            kind = chance.choice(KINDS)
            for _ in range(360):  # what was killed before may not be there again yet
                if killed := pipeline.kill(kind, chance):
                    break
                time.sleep(0.5)
            done_kills += killed > 0
            click.echo(f"{time.monotonic() - started:.0f} s: killed {kind} ({killed} processes)", err=True)
            time.sleep(1)
            if pipeline.has_ended:
                pipeline.start()
            pipeline.until(pipeline.is_loaded, 180, "the pipeline to start again")
        _wait(pipeline, count)
        elapsed_s = time.monotonic() - started
        yield from _counted(pipeline, good, broken)
        yield _exactly("processes killed", done_kills, kills)
        yield Case(
            "recordings a minute, kills included", count / elapsed_s * 60, None, count / elapsed_s * 60, "", "", True
        )
    finally:
        pipeline.stop()


def _wait(pipeline: Pipeline, count: int) -> None:
    def is_over() -> bool:
        ended = pipeline.sql(
            "SELECT count(*) FROM recordings LEFT JOIN summaries USING (recording_id) "
            "WHERE status IN ('rejected', 'failed') OR summaries.recording_id IS NOT NULL"
        )
        if ended != [(count,)]:
            return False
        return all(run["status"] in _ENDED for run in pipeline.ask(_RUNS)["runsOrError"]["results"])

    pipeline.until(is_over, _PATIENCE_S, "everything to end", every_s=5)


def _counted(pipeline: Pipeline, good: list[Path], broken: list[Path]) -> Iterator[Case]:
    rows = pipeline.sql(
        "SELECT source_path, status, error, s.frame_count, s.detection_count, s.track_count, "
        "(SELECT count(*) FROM frames f WHERE f.recording_id = r.recording_id), "
        "(SELECT count(*) FROM detections d WHERE d.recording_id = r.recording_id), "
        "(SELECT count(*) FROM zone_seconds z WHERE z.recording_id = r.recording_id) "
        "FROM recordings r LEFT JOIN summaries s USING (recording_id)"
    )
    by_path = {row[0]: row for row in rows}
    yield _exactly("good recordings that came through", sum(by_path[p.name][1] == "ok" for p in good), len(good))
    for row in rows:
        if row[0].startswith("good") and row[1] != "ok":
            click.echo(f"{row[0]}: {row[1]}: {row[2]}", err=True)
    by_scene: dict[str, set[tuple[object, ...]]] = {}
    for path in good:
        by_scene.setdefault(path.name.split("-")[1], set()).add(by_path[path.name][3:])
    yield _exactly("scenes whose recordings are all alike", sum(len(s) == 1 for s in by_scene.values()), len(by_scene))
    full = sum(row[3] == row[6] == SECONDS * 25 and row[4] == row[7] for row in (by_path[p.name] for p in good))
    yield _exactly("good recordings whose rows are as many as their sums say", full, len(good))
    named = sum(bool(by_path[p.name][1] == "rejected" and by_path[p.name][2]) for p in broken)
    yield _exactly("broken recordings named with their reason", named, len(broken))
    yield _exactly("rows of recordings", len(rows), len(good) + len(broken))
    for table, key in (
        ("frames", "frame_index"),
        ("detections", "(frame_index, detection_index)"),
        ("tracks", "track_id"),
    ):
        (doubled,) = pipeline.sql(f"SELECT count(*) - count(DISTINCT (recording_id, {key})) FROM {table}")
        yield _exactly(f"doubled rows of {table}", doubled[0], 0)
    left = [entry for entry in (pipeline.data / "unfinished").glob("detections/*")]
    yield _exactly("unfinished work left behind", len(left), 0)


def _exactly(case: str, ours: float, wanted: float) -> Case:
    return Case(case, ours, None, ours, "", f"= {wanted}", ours == wanted)


@click.command()
@click.option("--recordings", "count", default=300, show_default=True)
@click.option("--kills", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(count: int, kills: int, seed: int) -> None:
    """Print the table; exit 1 where anything is missing."""
    with tempfile.TemporaryDirectory(prefix="cv-assets-soak-") as scratch:
        cases = list(soak(Path(scratch), count, kills, seed))
    show(cases)
    sys.exit(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    main()
