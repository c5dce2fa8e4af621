"""Processes killed one after the other, and all at once: everything dropped ends in the tables exactly once."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.scenes import demo_scene, write_video
from tests.conftest import HISTORIES
from tests.end_to_end.stack import Stack

COUNT = 6


@pytest.fixture
def stack(history_url: str | None, tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path, history_url, batches={"max_recordings": 2, "max_attempts": 4})
    for number in range(COUNT):
        write_video(demo_scene(number, 5, {"car": 1}), made.watched / f"clip {number}.mp4")
    made.start()
    yield made
    made.stop()


def processes(stack: Stack, *words: str) -> list[psutil.Process]:
    """The processes of this pipeline in whose command lines all the words stand."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        try:
            is_ours = process.environ().get("DAGSTER_HOME") == str(stack.data / "dagster")
        except psutil.Error:
            continue
        if is_ours and all(word in line for word in words):
            found.append(process)
    return found


def kill(stack: Stack, *words: str) -> None:
    found = stack.until(lambda: processes(stack, *words), 120, f"a process {words}")
    for process in found:
        process.send_signal(signal.SIGKILL)


def in_work(stack: Stack) -> list[str]:
    """The recordings that runs are working on at this moment."""
    notes = stack.data / "unfinished" / "runs"
    return [note.read_text() for note in notes.iterdir()] if notes.is_dir() else []


@HISTORIES
def test_whatever_is_killed_everything_ends_in_the_tables_once(stack: Stack) -> None:
    stack.until(lambda: in_work(stack), 120, "a run at work")
    kill(stack, "spawn_main")
    for words in (("dagster._daemon",), ("dagster", "api", "grpc"), ("dagster_webserver",)):
        stack.until(lambda: len(processes(stack, "spawn_main")) > 0, 180, "a run at work again")
        kill(stack, *words)
        stack.until(lambda: stack.is_loaded(), 180, "the pipeline to start again")
    stack.until(lambda: len(processes(stack, "spawn_main")) > 0, 180, "a run at work again")
    stack.kill()
    for process in processes(stack):
        process.send_signal(signal.SIGKILL)
    time.sleep(1)
    assert not processes(stack)

    stack.start()
    query = "{ runsOrError { ... on Runs { results { status } } } }"

    def are_done() -> bool:
        runs = stack.graphql(query)["runsOrError"]["results"]
        is_idle = all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in runs)
        return is_idle and stack.sql("SELECT count(*) FROM recordings WHERE status = 'ok'") == [(COUNT,)]

    stack.until(lambda: stack.sql("SELECT count(*) FROM summaries") == [(COUNT,)] and are_done(), 400, "the end")
    frames = stack.sql("SELECT count(*), count(DISTINCT (recording_id, frame_index)) FROM frames")
    assert frames == [(COUNT * 125, COUNT * 125)]
    boxes = "SELECT count(*) = count(DISTINCT (recording_id, frame_index, detection_index)) FROM detections"
    assert stack.sql(boxes) == [(True,)]
    summed = "SELECT sum(detection_count) = (SELECT count(*) FROM detections) FROM summaries"
    assert stack.sql(summed) == [(True,)]
    assert stack.sql("SELECT class_name, count(*) FROM tracks GROUP BY ALL") == [("car", COUNT)]
