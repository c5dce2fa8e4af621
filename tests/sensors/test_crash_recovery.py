"""Recovery: fencing after a failure from outside, attempts and retries after crashes, and quarantine."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    BackfillPolicy,
    DagsterInstance,
    DagsterRunStatus,
    ExecuteInProcessResult,
    RunsFilter,
    asset,
    materialize,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import CameraObserver
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import file_columns
from cv_assets.stage_asset import INGEST, StageRun, stage_asset
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.errors import RecordingError, RunFencedError
from resources.schema.recording_tables import RECORDINGS, SCENES
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from sensors.quarantine import quarantine_crashed
from sensors.recording_states import RecordingState, RecordingStates, read_recording_states
from sensors.retention import remove_replaced_recordings
from sensors.run_planner import plan_runs

pytestmark = pytest.mark.slow

RECORDING_IDS = ("a-1", "b-2", "c-3", "d-4")
WHOLE_RANGE = {
    "dagster/asset_partition_range_start": RECORDING_IDS[0],
    "dagster/asset_partition_range_end": RECORDING_IDS[-1],
}

WriteScenes = Callable[[AssetExecutionContext, Store, str], None]
"""Processes one recording in the test stage: takes the step's context, the store and the recording's id."""


def source_file(recording_id: str, source_path: str | None = None) -> SourceFile:
    return SourceFile(source_path or f"{recording_id}.mp4", 1, 1, recording_id, recording_id, "known", None, None)


def scene_rows(recording_id: str) -> pa.Table:
    """One row of `scenes`, with 0 in every other column."""
    columns = SCENES.arrow_schema
    zeros = {name: 0 if pa.types.is_integer(columns.field(name).type) else 0.0 for name in columns.names}
    return pa.Table.from_pylist([zeros | {"recording_id": recording_id}], columns)


def write_scene_rows(_: AssetExecutionContext, store: Store, recording_id: str) -> None:
    store.replace(SCENES, [recording_id], scene_rows(recording_id))


def build_graph(folder: Path, write_scenes: WriteScenes = write_scene_rows, *further: AssetsDefinition) -> AssetGraph:
    """Build an asset graph of one real stage that writes the table scenes, and further assets.

    Args:
        folder: Contains the recordings and the data.
        write_scenes: What the stage does with a recording.
        further: Assets downstream of the stage.
    """
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    observer = CameraObserver(settings)

    @stage_asset(group=INGEST, code_version=lambda _: "1", deps=(), tables=(SCENES,))
    def scenes(recording_id: str, run: StageRun, _: Any) -> Any:
        write_scenes(run.context, run.store, recording_id)
        return {"scenes": {}}

    return AssetGraph(settings, observer, (scenes.build(settings, observer), *further))


@dataclass
class Home:
    """A data folder with four recordings and a Dagster instance of its own.

    Attributes:
        folder: Contains the data folder and Dagster's home.
        instance: Dagster's instance.
        store: The tables.
    """

    folder: Path
    instance: DagsterInstance
    store: Store

    def read_states(self, graph: AssetGraph) -> RecordingStates:
        return read_recording_states(self.instance, self.store, graph)

    def materialize(
        self, graph: AssetGraph, tags: dict[str, str], assets: tuple[AssetsDefinition, ...] | None = None
    ) -> ExecuteInProcessResult:
        resources = {"store": self.store, "settings": graph.settings}
        return materialize(
            assets or graph.assets, instance=self.instance, resources=resources, tags=tags, raise_on_error=False
        )

    def crash(self, *arguments: str) -> None:
        """Run in a process that is killed while it processes c-3; then fail the run as run monitoring does.

        Args:
            arguments: First and last recording, number of the attempt, and anything to be killed before the first
                recording.
        """
        command = [sys.executable, "-c", textwrap.dedent(_CRASHING_RUN), str(self.folder), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
        process = subprocess.run(command, capture_output=True, env=environment)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        for run in self.instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])):
            self.instance.report_run_failed(run, "The process is gone.")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        store = Store(tmp_path / "data")
        rows = [file_columns(source_file(recording_id)) for recording_id in RECORDING_IDS]
        store.replace(RECORDINGS, RECORDING_IDS, pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(RECORDING_IDS))
        yield Home(tmp_path, instance, store)


def test_the_writes_of_a_run_that_was_failed_from_outside_are_fenced_off(home: Home) -> None:
    processed = []

    def write_scenes(context: AssetExecutionContext, store: Store, recording_id: str) -> None:
        processed.append(recording_id)
        if recording_id == "b-2":
            # As the daemon does if it considers the run's process dead.
            home.instance.report_run_failed(context.run, "The process is gone.")
        write_scene_rows(context, store, recording_id)

    assert not home.materialize(build_graph(home.folder, write_scenes), WHOLE_RANGE).success
    assert processed == ["a-1", "b-2"]
    assert home.store.read(SCENES)["recording_id"].to_pylist() == ["a-1"]
    assert {row["status"] for row in home.store.read(RECORDINGS).to_pylist()} == {"ok"}
    assert not home.instance.get_materialized_partitions(AssetKey("scenes"))


def test_a_commit_that_conflicts_with_another_run_checks_its_fence_again(tmp_path: Path) -> None:
    store, other_store = Store(tmp_path), Store(tmp_path)
    store.replace(SCENES, ["a-1"], scene_rows("a-1"))
    checks: list[int] = []

    def check_fence() -> None:
        checks.append(len(checks))
        if len(checks) == 1:
            # Another run, begun after this one was failed, commits between the check and the commit.
            with ThreadPoolExecutor() as other_thread:
                other_thread.submit(other_store.replace, SCENES, ["a-1"], scene_rows("a-1").slice(0, 0)).result()
        else:
            raise RunFencedError("The run is no longer active.")

    with store.fenced_by(check_fence), pytest.raises(RunFencedError):
        store.replace(SCENES, ["a-1"], scene_rows("a-1"))
    assert checks == [0, 1]
    assert store.read(SCENES).num_rows == 0


_CRASHING_RUN = """
import os, signal, sys
from pathlib import Path
from dagster import DagsterInstance, resource
from tests.sensors.test_crash_recovery import Home, build_graph, write_scene_rows
from resources.storage.delta_store import Store

def crash():
    os.kill(os.getpid(), signal.SIGKILL)

def write_scenes(context, store, recording_id):
    if recording_id == "c-3":
        crash()
    write_scene_rows(context, store, recording_id)

folder, first, last, *options = sys.argv[1:]
tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
if options:
    tags["cv_assets/attempt"] = options[0]
store = resource(lambda: crash()) if options[1:] else Store(Path(folder) / "data")
with DagsterInstance.local_temp(folder + "/dagster") as instance:
    Home(Path(folder), instance, store).materialize(build_graph(Path(folder), write_scenes), tags)
"""


def test_a_recording_that_crashes_its_run_twice_is_quarantined_and_the_others_continue(home: Home) -> None:
    SourceIndex(home.store).save(map(source_file, RECORDING_IDS))
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1])
    states = home.read_states(graph)
    assert [state.attempt_count for state in states.states] == [0, 0, 1, 0]
    planned = plan_runs(states, graph)
    assert [(run.recording_ids, run.attempt) for run in planned] == [(("a-1", "b-2"), 1), (("d-4",), 1)]
    assert quarantine_crashed(home.store, states, graph) == []

    home.crash("c-3", "c-3", "2")
    states = home.read_states(graph)
    assert [state.attempt_count for state in states.states] == [0, 0, 2, 0]
    assert states.states[2].is_done(graph.settings.batches.max_attempts)
    assert quarantine_crashed(home.store, states, graph) == ["c-3"]
    assert quarantine_crashed(home.store, home.read_states(graph), graph) == []
    (row,) = home.store.read(RECORDINGS, ["c-3"]).to_pylist()
    assert (row["status"], row["failed_stage"]) == ("failed", "scenes")
    assert row["error"].startswith("The recording is quarantined: its run crashed 2 times in the stage scenes")
    planned = plan_runs(home.read_states(graph), graph)
    assert [run.recording_ids for run in planned] == [("a-1", "b-2"), ("d-4",)]


def test_a_failed_recording_is_retried_alone_and_the_others_of_its_batch_continue_together(home: Home) -> None:
    def write_scenes(context: AssetExecutionContext, store: Store, recording_id: str) -> None:
        if recording_id == "b-2":
            raise RecordingError("The file is broken.")
        write_scene_rows(context, store, recording_id)

    @asset(
        partitions_def=recordings_partitions,
        deps=["scenes"],
        group_name=INGEST,
        backfill_policy=BackfillPolicy.single_run(),
    )
    def downstream() -> None:
        raise AssertionError("the step upstream of this one failed")

    graph = build_graph(home.folder, write_scenes, downstream)
    home.materialize(graph, WHOLE_RANGE)
    states = home.read_states(graph)
    assert [state.attempt_count for state in states.states] == [0, 1, 0, 0]
    assert [state.missing for state in states.states if state.recording_id != "b-2"] == [{"downstream"}] * 3
    planned = plan_runs(states, graph)
    assert [(run.recording_ids, run.attempt) for run in planned] == [(("a-1",), 1), (("c-3", "d-4"), 1)]


def test_assets_downstream_of_a_failed_one_continue_once_a_person_has_materialized_it(home: Home) -> None:
    is_fixed = False

    def write_scenes(context: AssetExecutionContext, store: Store, recording_id: str) -> None:
        if not is_fixed:
            raise RecordingError("The file is broken.")
        write_scene_rows(context, store, recording_id)

    @asset(partitions_def=recordings_partitions, deps=["scenes"], group_name=INGEST)
    def downstream() -> None:
        raise AssertionError("this stage fails")

    graph = build_graph(home.folder, write_scenes, downstream)
    scenes = graph.assets[0]

    def run(*assets: AssetsDefinition, attempt: int = 1) -> None:
        home.materialize(graph, {"dagster/partition": "b-2", "cv_assets/attempt": str(attempt)}, assets)

    def planned() -> list[tuple[tuple[str, ...], int]]:
        states: list[RecordingState] = [s for s in home.read_states(graph).states if s.recording_id == "b-2"]
        return [(run.asset_names, run.attempt) for run in plan_runs(RecordingStates(states), graph)]

    assert graph.settings.batches.max_attempts == 2
    run(scenes, downstream)
    assert planned() == [(("scenes", "downstream"), 2)]
    run(scenes, downstream, attempt=2)
    assert planned() == []
    is_fixed = True
    run(scenes)
    assert planned() == [(("downstream",), 1)]
    # The asset downstream has attempts of its own.
    run(downstream)
    assert planned() == [(("downstream",), 2)]
    run(downstream, attempt=2)
    assert planned() == []


def test_a_run_that_was_killed_before_its_first_recording_is_no_attempt(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1], "1", "before the first recording")
    states = home.read_states(graph)
    assert [(state.failed, state.attempt_count) for state in states.states] == [(frozenset({"scenes"}), 0)] * 4
    assert plan_runs(states, graph) == []
    planned = plan_runs(states, graph, now=time.time() + 60)
    assert [(run.recording_ids, run.attempt) for run in planned] == [(RECORDING_IDS, 1)]


def test_the_results_of_a_replaced_recording_are_removed_and_its_row_keeps_the_reason(home: Home) -> None:
    graph = build_graph(home.folder)
    files = [source_file(name) for name in ("a-1", "c-3", "d-4")]
    SourceIndex(home.store).save([*files, source_file("e-5", source_path="b-2.mp4")])
    for recording_id in RECORDING_IDS:
        home.store.replace(SCENES, [recording_id], scene_rows(recording_id))
    (home.store.media_folder / "b-2").mkdir(parents=True)
    for recording_id in ("a-1", "b-2"):  # the file of the first still exists
        home.store.update(RECORDINGS, recording_id, {"status": "rejected", "error": "e-5 is the complete file"})
    assert remove_replaced_recordings(home.instance, home.store, home.read_states(graph)) == ["b-2"]
    assert sorted(home.store.read(SCENES)["recording_id"].to_pylist()) == ["a-1", "c-3", "d-4"]
    (row,) = home.store.read(RECORDINGS, ["b-2"]).to_pylist()
    assert (row["status"], row["error"]) == ("rejected", "e-5 is the complete file")
    assert not (home.store.media_folder / "b-2").exists()
    assert remove_replaced_recordings(home.instance, home.store, home.read_states(graph)) == []
