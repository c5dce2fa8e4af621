"""The state of a recording, as the run planner reads it and as results.duckdb shows it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from resources.config.settings import Settings
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from resources.storage.stage_runs import StageRun, append_stage_runs
from sensors.recording_states import read_recording_states

STARTED_AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "attempts",
    [
        pytest.param([("recordings", "ok"), ("scenes", "failed"), ("crops", "failed")], id="upstream failed first"),
        pytest.param([("recordings", "ok"), ("crops", "failed"), ("scenes", "failed")], id="downstream failed first"),
        pytest.param([("scenes", "quarantined"), ("crops", "failed")], id="unequal severity"),
        pytest.param([("normalized_video", "partial"), ("scenes", "ok")], id="partial"),
    ],
)
def test_the_planner_and_the_results_agree_on_the_state_of_a_recording(
    tmp_path: Path, attempts: list[tuple[str, str]]
) -> None:
    settings = Settings(watched_folder=tmp_path / "recordings", data_folder=tmp_path / "data")
    store, graph = Store(settings.data_folder), AssetGraph.build(settings)
    rows = [
        StageRun("a", stage, 1, status, "run", STARTED_AT + timedelta(seconds=number), "person", error=f"{stage}.")
        for number, (stage, status) in enumerate(attempts)
    ]
    append_stage_runs(store, rows)
    publish(store, settings)
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["a"])
        [state] = read_recording_states(instance, store, graph).states
    with open_results(settings.data_folder) as results:
        in_results = results.execute("SELECT status, error, failed_stage FROM recording_status").fetchall()
    assert in_results == [(state.status, state.error, state.failed_stage)]
