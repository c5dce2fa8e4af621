"""Processes killed one after the other, and all at once: every dropped file ends in the tables exactly once."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from tests.builders.running_pipeline import RunningPipeline

RECORDING_COUNT = 6
RUN_WORKER = "run_executor"


@pytest.fixture
def pipeline(history_url: str | None, tmp_path: Path) -> Iterator[RunningPipeline]:
    pipeline = RunningPipeline(tmp_path, history_url, batches={"max_recordings": 2, "max_attempts": 4})
    for number in range(RECORDING_COUNT):
        write_video(demo_scene(number, 5, {"car": 1}), pipeline.watched_folder / f"clip {number}.mp4")
    pipeline.start()
    yield pipeline
    pipeline.stop()


def kill_processes(pipeline: RunningPipeline, *words: str) -> None:
    """Kill the pipeline's processes whose command lines contain all the words, once there are any."""
    processes = pipeline.wait_until(lambda: pipeline.processes(*words), 120, f"a process {words}")
    for process in processes:
        process.send_signal(signal.SIGKILL)


def recordings_in_progress(pipeline: RunningPipeline) -> list[str]:
    """The recordings that the crash markers of active runs name."""
    markers = pipeline.data_folder / "unfinished" / "runs"
    return [marker.read_text() for marker in markers.iterdir()] if markers.is_dir() else []


def test_after_every_kill_each_recording_is_in_the_tables_exactly_once(pipeline: RunningPipeline) -> None:
    pipeline.wait_until(lambda: recordings_in_progress(pipeline), 900, "a recording in progress")
    kill_processes(pipeline, RUN_WORKER)
    for words in (("dagster-daemon",), ("dagster", "api", "grpc"), ("serve.dagster_ui",)):
        pipeline.wait_until(lambda: recordings_in_progress(pipeline), 900, "the next run")
        kill_processes(pipeline, *words)
        pipeline.wait_until(lambda: pipeline.is_loaded(), 900, "the pipeline to start again")
    pipeline.wait_until(lambda: recordings_in_progress(pipeline), 900, "the next run")
    pipeline.kill()
    for process in pipeline.processes():
        process.send_signal(signal.SIGKILL)
    time.sleep(1)
    assert not pipeline.processes()

    pipeline.start()
    query = "{ runsOrError { ... on Runs { results { status } } } }"

    def is_complete() -> bool:
        runs = pipeline.graphql(query)["runsOrError"]["results"]
        is_idle = all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in runs)
        good_count = pipeline.sql("SELECT count(*) FROM recordings WHERE status = 'ok'")
        return is_idle and good_count == [(RECORDING_COUNT,)]

    pipeline.wait_until(
        lambda: pipeline.sql("SELECT count(*) FROM summaries") == [(RECORDING_COUNT,)] and is_complete(),
        400,
        "all recordings to be processed",
    )
    frame_counts = pipeline.sql("SELECT count(*), count(DISTINCT (recording_id, frame_index)) FROM frames")
    assert frame_counts == [(RECORDING_COUNT * 125, RECORDING_COUNT * 125)]
    has_no_duplicates = "SELECT count(*) = count(DISTINCT (recording_id, frame_index, detection_index)) FROM detections"
    assert pipeline.sql(has_no_duplicates) == [(True,)]
    sums_agree = "SELECT sum(detection_count) = (SELECT count(*) FROM detections) FROM summaries"
    assert pipeline.sql(sums_agree) == [(True,)]
    track_counts = pipeline.sql("SELECT class_name, count(*) FROM tracks GROUP BY ALL")
    assert track_counts == [("car", RECORDING_COUNT)]
