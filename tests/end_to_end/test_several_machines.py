"""Workers of several machines behind a broker: killed, without their broker and without their database."""

import time
from pathlib import Path
from typing import Protocol

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.workers.run_queue import BROKER_VARIABLE
from resources.workers.worker_states import WorkerState, read_worker_states
from tests.builders.postgres_server import PostgresServer
from tests.builders.running_pipeline import RunningPipeline
from tests.builders.worker_machine import WorkerMachine

_DURATION_S, _FRAME_COUNT = 4, 100
_GPU_WORKER_COUNT = 2
_BROKER_OUTAGE_S = 8.0
_DATABASE_OUTAGE_S = 15.0  # longer than dagster-postgres itself waits
_RUNS = "{ runsOrError { ... on Runs { results { runId status startTime endTime tags { key value } } } } }"


class Broker(Protocol):
    """A message broker that a test may stop and start."""

    @property
    def url(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class _Machines:
    """A pipeline without workers of its own, two machines with a GPU worker each, and one with a CPU worker."""

    def __init__(self, folder: Path, postgres_url: str, broker_url: str, max_recordings: int) -> None:
        self.pipeline = RunningPipeline(folder, postgres_url, batches={"max_recordings": max_recordings})
        self.pipeline.environment[BROKER_VARIABLE] = broker_url
        self.gpu = [WorkerMachine(self.pipeline, f"machine-{name}", "--queue", "gpu") for name in "ab"]
        self.cpu = WorkerMachine(self.pipeline, "machine-c", "--queue", "cpu")

    def start(self) -> None:
        self.pipeline.start("--no-workers")
        for machine in (*self.gpu, self.cpu):
            machine.start()

    def stop(self) -> None:
        for machine in (*self.gpu, self.cpu):
            machine.stop()
        self.pipeline.stop()

    def state_of(self, machine: WorkerMachine) -> WorkerState | None:
        """The state of a machine's worker; None before the first."""
        states = read_worker_states(self.pipeline.data_folder)
        return next((state for state in states if state.pid == machine.pid), None)

    def run_of(self, machine: WorkerMachine) -> str:
        """The run that a machine's worker executes; empty if none."""
        state = self.state_of(machine)
        return state.run_id if state else ""


@pytest.fixture(params=["redis_server", pytest.param("rabbitmq_server", marks=pytest.mark.long)])
def broker(request: pytest.FixtureRequest) -> Broker:
    server: Broker = request.getfixturevalue(request.param)
    return server


@pytest.mark.parametrize("recording_count", [10, pytest.param(100, marks=pytest.mark.long)])
def test_each_recording_is_there_once_whatever_fails(
    recording_count: int, broker: Broker, tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    machines = _Machines(tmp_path, postgres_url, broker.url, max_recordings=max(2, recording_count // 10))
    pipeline = machines.pipeline
    for number in range(recording_count):
        write_video(demo_scene(number, _DURATION_S, {"car": 1}), pipeline.watched_folder / f"{number}.mp4")
    machines.start()
    try:
        first, second = machines.gpu
        pipeline.wait_until(
            lambda: machines.run_of(first) and machines.run_of(second), 600, "both GPU workers to execute a run"
        )
        lost_run_id = pipeline.wait_until(lambda: machines.run_of(first), 600, "a run to kill")
        first.kill()
        first.start()

        broker.stop()
        time.sleep(_BROKER_OUTAGE_S)
        broker.start()

        pipeline.wait_until(lambda: machines.run_of(first) or machines.run_of(second), 600, "the next run")
        postgres_server.stop()
        time.sleep(_DATABASE_OUTAGE_S)
        postgres_server.start()

        complete = "SELECT count(*) FROM recordings JOIN summaries USING (recording_id) WHERE status = 'ok'"
        pipeline.wait_until(lambda: pipeline.sql(complete) == [(recording_count,)], 2400, "all summaries")
        _check_results(pipeline, recording_count)
        _check_runs(pipeline, lost_run_id)
    finally:
        machines.stop()


def _check_results(pipeline: RunningPipeline, recording_count: int) -> None:
    counts = "SELECT count(*), count(DISTINCT (recording_id, frame_index)) FROM frames"
    assert pipeline.sql(counts) == [(recording_count * _FRAME_COUNT,) * 2]
    keys = "SELECT count(*) = count(DISTINCT (recording_id, frame_index, detection_index)) FROM detections"
    assert pipeline.sql(keys) == [(True,)]
    assert pipeline.sql("SELECT * FROM stage_runs WHERE status IN ('quarantined', 'rejected')") == []
    twice_ok = "SELECT recording_id, stage FROM stage_runs WHERE status = 'ok' GROUP BY ALL HAVING count(*) > 1"
    assert pipeline.sql(twice_ok) == []
    workers = pipeline.sql("SELECT DISTINCT worker FROM stage_runs WHERE stage = 'detections' AND status = 'ok'")
    assert len(workers) >= _GPU_WORKER_COUNT


def _check_runs(pipeline: RunningPipeline, lost_run_id: str) -> None:
    runs = pipeline.graphql(_RUNS)["runsOrError"]["results"]
    (lost_status,) = (run["status"] for run in runs if run["runId"] == lost_run_id)
    assert lost_status == "FAILURE"
    gpu_runs = [run for run in runs if {"key": "gpu", "value": "true"} in run["tags"] and run["startTime"]]
    starts = [(run["startTime"], 1) for run in gpu_runs]
    ends = [(run["endTime"], -1) for run in gpu_runs if run["endTime"]]
    active = most_active = 0
    for _, change in sorted(starts + ends):
        active += change
        most_active = max(most_active, active)
    assert most_active == _GPU_WORKER_COUNT
