"""Recovery: fencing after a failure from outside, the attempts of runs that died, retries and quarantine."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    ExecuteInProcessResult,
    RunsFilter,
    materialize,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.attempt_log import CANCELED_ERROR
from cv_assets.camera_settings import CameraObserver
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import file_columns
from cv_assets.stage_asset import INGEST, StageAsset, StageRun, stage_asset
from resources.clips.synopsis_file import synopsis_file
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.config.stage_version import StageVersion
from resources.errors import PipelineError, RecordingError, RunFencedError
from resources.schema.recording_tables import RECORDINGS, SCENES, STRETCHES
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun as Attempt
from resources.storage.stage_runs import append_stage_runs, newest_stage_runs
from resources.workers.worker_states import WorkerState, runs_of_other_processes, write_worker_state
from sensors.crash_recovery import PAGES_MODULE, cancel_interrupted_runs, mark_running_as_interrupted
from sensors.reconciliation_sensor import reject_replaced_recordings
from sensors.recording_states import RecordingState, RecordingStates, read_recording_states
from sensors.retention import remove_replaced_recordings
from sensors.retries import UNSTARTED_ERROR, record_dead_runs
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


def build_graph(
    folder: Path,
    write_scenes: WriteScenes = write_scene_rows,
    *further: StageAsset,
    lease: Callable[[StageRun], AbstractContextManager[str]] | None = None,
) -> AssetGraph:
    """Build an asset graph of one real stage that writes the table scenes, and further assets.

    Args:
        folder: Contains the recordings and the data.
        write_scenes: What the stage does with a recording.
        further: Stages downstream of it.
        lease: Leases the stage's device.
    """
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    observer = CameraObserver(settings)

    @stage_asset(group=INGEST, version=lambda _: StageVersion("1", {}), deps=(), tables=(SCENES,), lease=lease)
    def scenes(recording_id: str, run: StageRun, _: Any) -> Any:
        write_scenes(run.context, run.store, recording_id)
        return {"scenes": {}}

    return AssetGraph(settings, observer, tuple(stage.build(settings, observer) for stage in (scenes, *further)))


def build_downstream_stage(error: str = "") -> StageAsset:
    """Build a stage downstream of scenes that stores no rows, or fails with an error."""

    @stage_asset(
        group=INGEST, version=lambda _: StageVersion("1", {}), deps=("scenes",), tables=(STRETCHES,), name="downstream"
    )
    def downstream(*_: Any) -> Any:
        if error:
            raise RecordingError(error)
        return {"stretches": {}}

    return downstream


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

    def crash(self, *arguments: str, is_stopped: bool = False, is_noticed: bool = True) -> None:
        """Run in a process that is killed while it processes c-3; then fail the run as run monitoring does.

        Args:
            arguments: First and last recording, number of the attempt, and `before the first recording` to be killed
                there, or `after each flush` to store the row of each attempt at once.
            is_stopped: Whether the pipeline is being stopped; the run is then canceled at its next start.
            is_noticed: Whether the run is failed.
        """
        command = [sys.executable, "-c", textwrap.dedent(_CRASHING_RUN), str(self.folder), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
        process = subprocess.run(command, capture_output=True, env=environment)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        if is_stopped:
            mark_running_as_interrupted(self.instance)
            cancel_interrupted_runs(self.instance, self.folder / "data")
        elif is_noticed:
            self.fail_runs()

    def fail_runs(self) -> None:
        """Fail the runs in progress, as run monitoring does."""
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
from cv_assets import attempt_log
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
if "after each flush" in options:
    attempt_log.FLUSH_INTERVAL_S = 0
before_first = "before the first recording" in options
store = resource(lambda: crash()) if before_first else Store(Path(folder) / "data")
with DagsterInstance.local_temp(folder + "/dagster") as instance:
    Home(Path(folder), instance, store).materialize(build_graph(Path(folder), write_scenes), tags)
"""


def test_a_recording_that_crashes_its_run_twice_is_quarantined_and_the_others_continue(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1])
    (row,) = record_dead_runs(home.instance, home.store, graph)
    assert (row.recording_id, row.stage, row.attempt, row.status) == ("c-3", "scenes", 1, "failed")
    states = home.read_states(graph)
    assert [state.attempt_count for state in states.states] == [0, 0, 1, 0]
    planned = plan_runs(states, graph)
    assert [(run.recording_ids, run.attempt) for run in planned] == [
        (("a-1", "b-2"), 1),
        (("d-4",), 1),
    ]
    assert record_dead_runs(home.instance, home.store, graph) == []

    home.crash("c-3", "c-3", "2")
    (row,) = record_dead_runs(home.instance, home.store, graph)
    assert (row.recording_id, row.attempt, row.status) == ("c-3", 2, "quarantined")
    assert record_dead_runs(home.instance, home.store, graph) == []
    state = home.read_states(graph).states[2]
    assert state.is_done(graph.settings.batches.max_attempts)
    assert (state.status, state.failed_stage) == ("quarantined", "scenes")
    assert (state.error or "").startswith(
        "The recording is quarantined: its run crashed at attempt 2 of 2 in the stage"
    )
    planned = plan_runs(home.read_states(graph), graph)
    assert [run.recording_ids for run in planned] == [("a-1", "b-2"), ("d-4",)]


def test_results_that_a_killed_run_stored_are_registered_in_dagster_and_not_computed_again(
    home: Home,
) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1], "1", "after each flush")
    assert {row["recording_id"] for row in newest_stage_runs(home.store).to_pylist()} == {"a-1", "b-2"}
    assert not home.instance.get_materialized_partitions(AssetKey("scenes"))
    record_dead_runs(home.instance, home.store, graph)
    assert home.instance.get_materialized_partitions(AssetKey("scenes")) == {"a-1", "b-2"}
    planned = plan_runs(home.read_states(graph), graph)
    assert [run.recording_ids for run in planned] == [("d-4",), ("c-3",)]


def test_a_run_that_was_killed_because_the_pipeline_stopped_is_no_attempt_and_not_delayed(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1], is_stopped=True)
    assert [run.status for run in home.instance.get_runs()] == [DagsterRunStatus.CANCELED]
    (row,) = record_dead_runs(home.instance, home.store, graph)
    assert (row.recording_id, row.attempt, row.status, row.error) == ("c-3", 1, "interrupted", None)
    state = home.read_states(graph).states[2]
    assert (state.status, state.attempt_count, state.retry_at_s) == ("interrupted", 0, 0.0)
    assert [run.recording_ids for run in plan_runs(home.read_states(graph), graph)] == [RECORDING_IDS]


def test_a_run_that_a_power_cut_interrupted_is_canceled_and_no_attempt(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1], is_noticed=False)
    assert cancel_interrupted_runs(home.instance, home.folder / "data") == 1
    assert [run.status for run in home.instance.get_runs()] == [DagsterRunStatus.CANCELED]
    (row,) = record_dead_runs(home.instance, home.store, graph)
    assert (row.recording_id, row.attempt, row.status, row.error) == ("c-3", 1, "interrupted", None)


def test_a_stopped_run_that_still_ends_by_itself_is_canceled(home: Home) -> None:
    def write_scenes(*_: Any) -> None:
        mark_running_as_interrupted(home.instance)
        raise DagsterExecutionInterruptedError

    home.materialize(build_graph(home.folder, write_scenes), WHOLE_RANGE)
    (run,) = home.instance.get_runs()
    assert run.status == DagsterRunStatus.CANCELED
    assert {row["status"] for row in newest_stage_runs(home.store).to_pylist()} == {"interrupted"}


def test_a_crash_whose_run_dagster_has_lost_is_no_attempt(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1])
    for run_id in home.instance.get_run_ids():
        home.instance.delete_run(run_id)
    (row,) = record_dead_runs(home.instance, home.store, graph)
    assert (row.recording_id, row.attempt, row.status) == ("c-3", 1, "interrupted")
    assert record_dead_runs(home.instance, home.store, graph) == []


def test_the_crash_of_an_unfinished_run_is_not_recorded_yet(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1], is_noticed=False)
    assert record_dead_runs(home.instance, home.store, graph) == []
    assert all(state.is_in_flight for state in home.read_states(graph).states)
    home.fail_runs()
    assert len(record_dead_runs(home.instance, home.store, graph)) == 1


def test_a_dead_run_that_a_newer_attempt_has_superseded_changes_nothing(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1])
    assert home.materialize(graph, {"dagster/partition": "c-3"}).success
    assert record_dead_runs(home.instance, home.store, graph) == []
    assert home.read_states(graph).states[2].status == "ok"


def test_a_canceled_run_in_the_queue_is_requested_again_after_a_delay(home: Home) -> None:
    graph = build_graph(home.folder)
    resources = {"store": home.store, "settings": graph.settings}
    definitions = Definitions(assets=graph.assets, jobs=[graph.ingest_job], resources=resources)
    run = home.instance.create_run_for_job(definitions.resolve_job_def(INGEST), tags=WHOLE_RANGE)
    home.instance.report_run_canceled(run)
    rows = record_dead_runs(home.instance, home.store, graph)
    assert {(row.recording_id, row.stage, row.status, row.error) for row in rows} == {
        (recording_id, "scenes", "interrupted", UNSTARTED_ERROR) for recording_id in RECORDING_IDS
    }
    states = home.read_states(graph)
    assert plan_runs(states, graph) == []
    assert [run.recording_ids for run in plan_runs(states, graph, now=time.time() + 60)] == [RECORDING_IDS]
    assert {state.hold_reason for state in states.states} == {""}


def test_a_step_that_fails_before_its_first_recording_is_an_attempt_at_each(home: Home) -> None:
    @contextmanager
    def lease(_: Any) -> Iterator[str]:
        raise OSError("no device")
        yield ""

    graph = build_graph(home.folder, lease=lease)
    home.materialize(graph, WHOLE_RANGE)
    rows = record_dead_runs(home.instance, home.store, graph)
    assert [row.recording_id for row in rows] == list(RECORDING_IDS)
    assert {(row.stage, row.attempt, row.status) for row in rows} == {("scenes", 1, "failed")}
    assert rows[0].error == "The step scenes failed: OSError: no device"
    assert [(run.recording_ids, run.attempt) for run in plan_runs(home.read_states(graph), graph)][:1] == [
        (("a-1",), 2)
    ]


def test_a_step_that_a_person_must_help_before_its_first_recording_is_no_attempt(home: Home) -> None:
    @contextmanager
    def lease(_: Any) -> Iterator[str]:
        raise PipelineError("The weights are missing: copy them.")
        yield ""

    graph = build_graph(home.folder, lease=lease)
    home.materialize(graph, WHOLE_RANGE)
    record_dead_runs(home.instance, home.store, graph)
    state = home.read_states(graph).states[0]
    assert (state.status, state.attempt_count) == ("interrupted", 0)
    assert state.hold_reason == state.error == "The weights are missing: copy them."
    assert plan_runs(home.read_states(graph), graph) == []
    assert plan_runs(home.read_states(graph), graph, now=time.time() + 130)


def test_a_failed_recording_is_retried_alone_and_the_others_of_its_batch_continue_together(home: Home) -> None:
    def write_scenes(context: AssetExecutionContext, store: Store, recording_id: str) -> None:
        if recording_id == "b-2":
            raise RecordingError("The file is broken.")
        write_scene_rows(context, store, recording_id)

    graph = build_graph(home.folder, write_scenes, build_downstream_stage())
    home.materialize(graph, WHOLE_RANGE)
    states = home.read_states(graph)
    assert [state.attempt_count for state in states.states] == [0, 1, 0, 0]
    assert [state.missing for state in states.states if state.recording_id != "b-2"] == [{"stretches"}] * 3
    planned = plan_runs(states, graph)
    assert [(run.recording_ids, run.attempt) for run in planned] == [(("a-1",), 1), (("c-3", "d-4"), 1)]


def test_assets_downstream_of_a_failed_one_continue_once_a_person_has_materialized_it(home: Home) -> None:
    is_fixed = False

    def write_scenes(context: AssetExecutionContext, store: Store, recording_id: str) -> None:
        if not is_fixed:
            raise RecordingError("The file is broken.")
        write_scene_rows(context, store, recording_id)

    graph = build_graph(home.folder, write_scenes, build_downstream_stage("This stage fails."))
    scenes, downstream = graph.assets

    def run(*assets: AssetsDefinition, attempt: int = 1) -> None:
        home.materialize(graph, {"dagster/partition": "b-2", "cv_assets/attempt": str(attempt)}, assets)

    def planned() -> list[tuple[tuple[str, ...], int]]:
        states: list[RecordingState] = [s for s in home.read_states(graph).states if s.recording_id == "b-2"]
        return [(run.asset_names, run.attempt) for run in plan_runs(RecordingStates(states), graph)]

    assert graph.settings.batches.max_attempts == 2
    run(scenes, downstream)
    assert planned() == [(("scenes", "stretches"), 2)]
    run(scenes, downstream, attempt=2)
    assert planned() == []
    is_fixed = True
    run(scenes)
    assert planned() == [(("stretches",), 1)]
    # The asset downstream has attempts of its own.
    run(downstream)
    assert planned() == [(("stretches",), 2)]
    run(downstream, attempt=2)
    assert planned() == []


def test_a_run_that_was_killed_before_its_first_recording_is_no_attempt(home: Home) -> None:
    graph = build_graph(home.folder)
    home.crash(RECORDING_IDS[0], RECORDING_IDS[-1], "1", "before the first recording")
    record_dead_runs(home.instance, home.store, graph)
    states = home.read_states(graph)
    assert [(state.failed, state.attempt_count) for state in states.states] == [(frozenset({"scenes"}), 0)] * 4
    assert plan_runs(states, graph) == []
    planned = plan_runs(states, graph, now=time.time() + 60)
    assert [(run.recording_ids, run.attempt) for run in planned] == [(RECORDING_IDS, 1)]


def attempt(recording_id: str, status: str, ended_at: datetime, **values: Any) -> Attempt:
    values = {"attempt": 1, **values}
    return Attempt(recording_id, "scenes", values.pop("attempt"), status, "run", ended_at, "person", **values)


def test_a_hold_delays_a_retry_unless_the_pipeline_was_restarted_since(home: Home) -> None:
    graph, now = build_graph(home.folder), datetime.now(UTC)
    before_start = datetime.fromtimestamp(psutil.Process().create_time(), UTC) - timedelta(seconds=1)
    rows = [
        attempt("a-1", "interrupted", now, error="The disk is full."),
        attempt("b-2", "interrupted", before_start, error="The disk is full."),
        attempt("c-3", "interrupted", now),
        attempt("d-4", "interrupted", now, error=CANCELED_ERROR, attempt=2),
    ]
    append_stage_runs(home.store, rows)
    states = home.read_states(graph).states
    delays_s = [round(state.retry_at_s - now.timestamp()) if state.retry_at_s else None for state in states]
    assert delays_s == [120, None, None, 120]
    assert [state.hold_reason for state in states] == ["The disk is full.", "", "", ""]
    assert [state.attempt_count for state in states] == [0, 0, 0, 1]


def test_the_state_of_a_recording_is_the_worst_of_its_stages(home: Home) -> None:
    graph, now = build_graph(home.folder, write_scene_rows, build_downstream_stage()), datetime.now(UTC)

    def done(recording_id: str, stage: str, status: str, error: str | None = None) -> Attempt:
        return replace(attempt(recording_id, status, now, error=error, data_version="1"), stage=stage)

    append_stage_runs(
        home.store,
        [
            done("a-1", "scenes", "ok"),
            done("a-1", "downstream", "ok"),
            done("b-2", "scenes", "partial", "A part is missing."),
            done("b-2", "downstream", "ok"),
            done("c-3", "scenes", "rejected", "The file is no video."),
            done("d-4", "scenes", "ok"),
            replace(attempt("d-4", "failed", now, error="No memory."), stage="downstream"),
        ],
    )
    states = home.read_states(graph).states
    assert [(state.status, state.error, state.failed_stage) for state in states] == [
        ("ok", None, None),
        ("partial", "A part is missing.", None),
        ("rejected", "The file is no video.", None),
        ("failed", "No memory.", "downstream"),
    ]
    assert [state.missing for state in states] == [set(), set(), {"stretches"}, {"stretches"}]
    assert [state.is_done(2) for state in states] == [True, True, True, False]


def test_the_results_of_a_replaced_recording_are_removed_and_the_reason_stays(home: Home) -> None:
    graph = AssetGraph.build(build_graph(home.folder).settings)
    files = [source_file(name) for name in ("a-1", "c-3", "d-4")]
    grown = replace(source_file("e-5", source_path="b-2.mp4"), replaces="b-2")
    SourceIndex(home.store).save([*files, grown])
    for recording_id in RECORDING_IDS:
        home.store.replace(SCENES, [recording_id], scene_rows(recording_id))
    (home.store.media_folder / "b-2").mkdir(parents=True)
    synopsis_file(home.store.data_folder, "b-2").parent.mkdir(parents=True)
    # The file of the first is rejected, but exists.
    append_stage_runs(home.store, [attempt("a-1", "rejected", datetime.now(UTC), error="The file is no video.")])
    assert reject_replaced_recordings(home.store, RECORDING_IDS) == ["b-2"]
    assert reject_replaced_recordings(home.store, RECORDING_IDS) == []
    states = home.read_states(graph)
    assert (
        states.states[1].error
        == "The recording was ingested while its file was still growing; e-5 is the complete file."
    )
    assert remove_replaced_recordings(home.instance, home.store, states) == ["b-2"]
    assert sorted(home.store.read(SCENES)["recording_id"].to_pylist()) == ["a-1", "c-3", "d-4"]
    (row,) = newest_stage_runs(home.store, ["b-2"]).to_pylist()
    assert (row["status"], row["error"]) == ("rejected", states.states[1].error)
    assert not (home.store.media_folder / "b-2").exists()
    assert not synopsis_file(home.store.data_folder, "b-2").parent.exists()
    assert remove_replaced_recordings(home.instance, home.store, home.read_states(graph)) == []


def test_runs_on_other_machines_go_on_while_the_pipeline_restarts(home: Home) -> None:
    data_folder = home.folder / "data"
    partial = data_folder / "media" / "a-1" / ".6f1c.partial.mp4"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x")
    for run_id in ("elsewhere", "here"):
        home.instance.run_storage.add_run(DagsterRun(job_name="ingest", run_id=run_id, status=DagsterRunStatus.STARTED))
    for host, pid, run_id in (("another-machine", 1, "elsewhere"), (socket.gethostname(), os.getpid(), "here")):
        write_worker_state(data_folder, WorkerState(host, host, pid, "cpu", "", "v", time.time(), run_id))

    mark_running_as_interrupted(home.instance, kept_run_ids=runs_of_other_processes(data_folder))
    assert cancel_interrupted_runs(home.instance, data_folder) == 1
    statuses = {run.run_id: run.status for run in home.instance.get_runs()}
    assert statuses == {"elsewhere": DagsterRunStatus.STARTED, "here": DagsterRunStatus.CANCELED}
    assert partial.exists()


def test_orphans_that_were_started_with_another_spelling_of_the_data_folder_are_killed(home: Home) -> None:
    data_folder = home.folder / "data"
    (data_folder / "dagster").mkdir(exist_ok=True)
    (home.folder / "link").symlink_to(data_folder)
    partial = data_folder / "media" / "a-1" / ".6f1c.partial.mp4"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x")
    orphans = []
    for spelling, name in (
        ("link", "dagster"),
        ("data", PAGES_MODULE),
        ("data/../data", "dagster"),
        ("other", "dagster"),
    ):
        environment = {**os.environ, "DAGSTER_HOME": f"{home.folder}/{spelling}/dagster"}
        command = [sys.executable, "-c", "import time; time.sleep(60)", name]
        orphans.append(subprocess.Popen(command, env=environment))
    try:
        cancel_interrupted_runs(home.instance, data_folder)
        assert [psutil.pid_exists(orphan.pid) for orphan in orphans] == [False, False, False, True]
    finally:
        orphans[3].kill()
        orphans[3].wait()
    assert not partial.exists()
