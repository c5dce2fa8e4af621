"""`dagster dev` started by hand in the project's folder: it reads the project's files and keeps its history."""

from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from tests.builders.running_pipeline import RunningPipeline

_RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
_SENSORS = """
{ sensorsOrError(repositorySelector: {repositoryLocationName: "cv_assets", repositoryName: "__repository__"}) {
    ... on Sensors { results { name sensorState { status ticks(limit: 1) { status error { message } } } } }
} }
"""


def list_runs(pipeline: RunningPipeline) -> dict[str, tuple[str, set[str]]]:
    """Status and names of the tags of every run, by id."""
    runs = pipeline.graphql(_RUNS)["runsOrError"]["results"]
    return {run["runId"]: (run["status"], {tag["key"] for tag in run["tags"]}) for run in runs}


@pytest.mark.long
def test_a_dropped_file_is_processed_and_the_runs_are_kept_over_a_restart(tmp_path: Path) -> None:
    pipeline = RunningPipeline(tmp_path)
    pipeline.start_by_hand()
    try:
        write_video(demo_scene(1, 4, {"car": 1}), pipeline.watched_folder / "a.mp4")
        pipeline.wait_until(lambda: pipeline.sql("SELECT count(*) FROM summaries") == [(1,)], 180, "a summary")
        pipeline.wait_until(
            lambda: all(status == "SUCCESS" for status, _ in list_runs(pipeline).values()), 60, "all runs to end"
        )
        runs = list_runs(pipeline)
        # The run coordinator of the project's dagster.yaml is in use.
        assert all({"cpu", "gpu"} & tags for _, tags in runs.values())
        sensors = pipeline.graphql(_SENSORS)["sensorsOrError"]["results"]
        last_ticks = {sensor["name"]: sensor["sensorState"]["ticks"] for sensor in sensors}
        assert {"watched_folder", "reconciliation"} <= set(last_ticks)
        assert not [tick for ticks in last_ticks.values() for tick in ticks if tick["error"]]
    finally:
        pipeline.stop()
    assert (pipeline.data_folder / "dagster" / "history" / "runs.db").exists()
    assert not list(tmp_path.glob(".tmp_dagster_home_*"))

    pipeline.start_by_hand()
    try:
        assert list_runs(pipeline) == runs
        assert pipeline.sql("SELECT status FROM recordings") == [("ok",)]
    finally:
        pipeline.stop()
