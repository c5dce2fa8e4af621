"""Queues of launched runs: each run is taken once, in order, also while a broker restarts."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError
from resources.workers.run_queue import (
    BrokerQueue,
    FolderQueue,
    RunQueue,
    broker_queue_name,
    open_broker,
    open_run_queue,
)
from tests.builders.redis_server import RedisServer

_TAKE_ALL = """
import sys
from pathlib import Path
from resources.workers.run_queue import FolderQueue
queue, is_over = FolderQueue(Path(sys.argv[1])), False
while not is_over:
    run_id = queue.take("cpu")
    is_over = run_id == "end"
    if run_id:
        print(run_id)
"""


@pytest.fixture(params=["folder", "redis_server", "rabbitmq_server"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> RunQueue:
    if request.param == "folder":
        return FolderQueue(tmp_path / "queues")
    return BrokerQueue(request.getfixturevalue(request.param).url)


def test_each_queue_is_taken_from_in_order(queue: RunQueue) -> None:
    assert queue.take("cpu") is None
    for run_id in ("a", "b", "c"):
        queue.put("cpu", run_id)
    queue.put("gpu", "d")
    assert [queue.take("cpu") for _ in range(4)] == ["a", "b", "c", None]
    assert [queue.take("gpu") for _ in range(2)] == ["d", None]


def test_messages_that_name_no_run_are_dropped(redis_server: RedisServer) -> None:
    queue = BrokerQueue(redis_server.url)
    assert queue.take("cpu") is None
    with open_broker(redis_server.url) as connection:
        for body, serializer in (({"id": 1}, "json"), ("text", "json"), ({"run_id": "x"}, "pickle")):
            connection.Producer().publish(body, routing_key=broker_queue_name("cpu"), serializer=serializer)
    queue.put("cpu", "a")
    assert [queue.take("cpu"), queue.take("cpu")] == ["a", None]


def test_each_run_is_taken_by_one_of_several_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TAKE_ALL, str(tmp_path)]
    takers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT) for _ in range(3)]
    queue = FolderQueue(tmp_path)
    run_ids = [f"run-{number:03}" for number in range(300)]
    for run_id in (*run_ids, "end", "end", "end"):
        queue.put("cpu", run_id)
    outputs = [taker.communicate(timeout=60)[0].split() for taker in takers]
    assert sorted(run_id for output in outputs for run_id in output if run_id != "end") == run_ids
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_run_that_is_put_while_the_broker_restarts_is_not_lost(redis_server: RedisServer) -> None:
    producer, worker = BrokerQueue(redis_server.url), BrokerQueue(redis_server.url)
    producer.put("cpu", "before")
    redis_server.stop()
    with pytest.raises(PipelineError, match="cannot be reached"):
        worker.take("cpu")
    putting = threading.Thread(target=producer.put, args=("cpu", "during"))
    putting.start()
    redis_server.start()
    putting.join(30)
    assert [worker.take("cpu") for _ in range(3)] == ["before", "during", None]


def test_an_address_of_another_kind_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="must be an address like redis://"):
        open_run_queue(tmp_path, {"CV_ASSETS_BROKER": "kafka://host"})
    assert isinstance(open_run_queue(tmp_path, {}), FolderQueue)
