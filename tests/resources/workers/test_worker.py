"""A worker waits for what is away (share, broker, another version), and goes on by itself."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resources.workers.run_queue import CPU_QUEUE, FolderQueue
from resources.workers.worker import Worker, WorkerOptions
from resources.workers.worker_events import SilentEvents
from resources.workers.worker_states import WorkerState, read_worker_states
from resources.workers.worker_version import VersionReader, write_required_version


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that starts its process with its first run, of which there is none."""
    monkeypatch.setenv("CV_ASSETS_DATA", str(tmp_path / "data"))
    instance_file = tmp_path / "data" / "dagster" / "dagster.yaml"
    instance_file.parent.mkdir(parents=True)
    instance_file.touch()
    worker = Worker(
        "gate-cpu-1.1",
        WorkerOptions(CPU_QUEUE, is_kept_warm=False, is_started_at_once=False),
        tmp_path / "data",
        FolderQueue(tmp_path / "data" / "workers" / "queues"),
        VersionReader(),
        max_memory_bytes=10**9,
        must_agree=True,
        events=SilentEvents(),
    )
    thread = threading.Thread(target=worker.serve)
    thread.start()
    yield worker
    worker.stop(0)
    thread.join()


def wait_for_state(worker: Worker, condition: Callable[[WorkerState], bool]) -> WorkerState:
    deadline_s = time.monotonic() + 30
    while True:
        states = [state for state in read_worker_states(worker.data_folder) if condition(state)]
        if states:
            return states[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_worker_never_fills_the_mount_point_of_a_share_that_is_away(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for_state(worker, lambda state: state.takes_runs)
    share = worker.data_folder.with_name("share")
    worker.data_folder.rename(share)
    worker.data_folder.mkdir()
    deadline_s = time.monotonic() + 30
    while "is away: mount its share" not in caplog.text:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert list(worker.data_folder.iterdir()) == []
    worker.data_folder.rmdir()
    share.rename(worker.data_folder)
    mounted_s = time.time()
    wait_for_state(worker, lambda state: state.takes_runs and state.renewed_at_s > mounted_s)


def test_a_worker_of_another_version_refuses_runs_with_a_sentence(worker: Worker) -> None:
    write_required_version(worker.data_folder, "another")
    problem = wait_for_state(worker, lambda state: bool(state.problem)).problem
    assert "and the pipeline has another: install the same version" in problem
    queue = worker.data_folder / "workers" / "queues"
    FolderQueue(queue).put(CPU_QUEUE, "a run")
    time.sleep(1)
    assert len(list((queue / CPU_QUEUE).iterdir())) == 1, "the run waits for a worker that has the version"
