"""States of workers: which of them live, and why runs wait."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from resources.workers.worker_states import (
    WorkerState,
    count_free_of_problems,
    delete_old_worker_states,
    delete_worker_state,
    describe_missing_workers,
    read_worker_states,
    write_worker_state,
)


def worker(name: str = "a", **values: object) -> WorkerState:
    state = WorkerState(name, socket.gethostname(), os.getpid(), "gpu", "", "v", time.time())
    return replace(state, **values)  # type: ignore[arg-type]


def test_a_worker_lives_while_it_renews_its_state_and_its_process_exists() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert worker().is_alive()
    assert not worker(renewed_at_s=time.time() - 31).is_alive()
    assert not worker(pid=ended.pid).is_alive()
    assert worker(pid=ended.pid, host="another-machine").is_alive()
    assert not worker(problem="it waits").takes_runs


def test_states_are_replaced_and_deleted_and_half_written_ones_are_not_read(tmp_path: Path) -> None:
    assert read_worker_states(tmp_path) == []
    first, second = worker(), worker("b", queue="cpu")
    write_worker_state(tmp_path, first)
    write_worker_state(tmp_path, second)
    write_worker_state(tmp_path, replace(first, run_id="r"))
    (tmp_path / "workers" / "states" / "c").write_text('{"name": "c", ')
    assert read_worker_states(tmp_path) == [replace(first, run_id="r"), second]
    assert count_free_of_problems(read_worker_states(tmp_path), "gpu") == 1
    delete_worker_state(tmp_path, "a")
    write_worker_state(tmp_path, worker("killed", renewed_at_s=time.time() - 100_000))
    delete_old_worker_states(tmp_path)
    assert [state.name for state in read_worker_states(tmp_path)] == ["b"]


def test_a_sentence_says_why_runs_wait(tmp_path: Path) -> None:
    assert "No worker of the queue gpu is running: start cv-assets dev" in describe_missing_workers(tmp_path, "gpu")
    write_worker_state(tmp_path, worker(problem="it has another version."))
    sentence = describe_missing_workers(tmp_path, "gpu")
    assert sentence == "No worker of the queue gpu takes runs: the worker a waits: it has another version."
    write_worker_state(tmp_path, worker("b"))
    assert describe_missing_workers(tmp_path, "gpu") == ""
