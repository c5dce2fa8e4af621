"""Events of workers: Flower shows workers, runs and queues, and a lost broker disturbs no worker."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resources.config.settings_file import PROJECT_ROOT
from resources.workers.run_queue import BROKER_VARIABLE, BrokerQueue
from resources.workers.worker_events import CeleryEvents, SilentEvents, open_worker_events
from resources.workers.worker_states import WorkerState
from tests.builders.redis_server import RedisServer

pytestmark = pytest.mark.slow
IDLE = WorkerState("gate-gpu-1.1", "gate", 1, "gpu", "", "v1", time.time())
BUSY = replace(IDLE, run_id="3f2a19c4-0000-4000-8000-000000000000")


class Flower:
    """A real Flower process, started as the docs say.

    Args:
        broker_url: The broker.
        folder: Gets its log.
    """

    def __init__(self, broker_url: str, folder: Path) -> None:
        with socket.socket() as free_socket:
            free_socket.bind(("127.0.0.1", 0))
            self._port = int(free_socket.getsockname()[1])
        page = (PROJECT_ROOT / "docs" / "deploy.md").read_text()
        ((options, documented_port),) = re.findall(r"^celery (.* flower .*) --port=(\d+)$", page, re.MULTILINE)
        command = [str(Path(sys.executable).with_name("celery")), *options.split(), f"--port={self._port}"]
        assert documented_port == "5555"
        with (folder / "flower.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=PROJECT_ROOT,
                env={**os.environ, "CELERY_BROKER_URL": broker_url, "FLOWER_BASIC_AUTH": "cv:secret"},
            )

    def get(self, path: str) -> Any:
        """Answer of its API; None while it starts."""
        login = base64.b64encode(b"cv:secret").decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/{path}", headers={"Authorization": f"Basic {login}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read())
        except OSError:
            return None


@pytest.fixture
def flower(redis_server: RedisServer, tmp_path: Path) -> Iterator[Flower]:
    flower = Flower(redis_server.url, tmp_path)
    yield flower
    flower.process.send_signal(signal.SIGTERM)
    flower.process.wait(20)


def wait_for(read: Callable[[], Any], expected: Any) -> None:
    deadline = time.monotonic() + 60
    while (value := read()) != expected:
        assert time.monotonic() < deadline, value
        time.sleep(0.2)


def test_flower_shows_workers_runs_and_queues_also_after_the_broker_was_away(
    flower: Flower, redis_server: RedisServer
) -> None:
    queue = BrokerQueue(redis_server.url)
    queue.put("gpu", "waiting")
    lengths = [
        {"name": "cv-assets-cpu", "messages": 0},
        {"name": "cv-assets-gpu", "messages": 1},
        {"name": "cv-assets-housekeeping", "messages": 0},
    ]
    wait_for(lambda: flower.get("queues/length"), {"active_queues": lengths})

    def run_states() -> list[tuple[str, str, str]]:
        tasks = flower.get("tasks") or {}
        return [(task["uuid"], task["state"], task["name"]) for task in tasks.values()]

    events = CeleryEvents(redis_server.url)
    events.report(IDLE)
    events.report(BUSY)
    wait_for(run_states, [(BUSY.run_id, "STARTED", "cv-assets-gpu.run")])
    assert flower.get("workers?status=1") == {IDLE.name: True}
    assert flower.get(f"task/info/{BUSY.run_id}")["worker"] == IDLE.name

    redis_server.stop()
    started_s = time.monotonic()
    events.report(IDLE, is_success=True)
    assert time.monotonic() - started_s < 0.1, "the worker does not wait for the broker"
    time.sleep(1)  # an event that is sent before Flower is back would be lost
    redis_server.start()
    wait_for(run_states, [(BUSY.run_id, "SUCCESS", "cv-assets-gpu.run")])

    events.report(replace(BUSY, run_id="second"))
    events.report(IDLE, is_success=False)
    wait_for(
        lambda: {(uuid, state) for uuid, state, _ in run_states()}, {(BUSY.run_id, "SUCCESS"), ("second", "FAILURE")}
    )
    events.close()
    wait_for(lambda: flower.get("workers?status=1"), {IDLE.name: False})


def test_no_events_are_sent_without_a_broker() -> None:
    assert isinstance(open_worker_events({}), SilentEvents)


def test_workers_end_at_once_while_the_broker_is_away() -> None:
    events = open_worker_events({BROKER_VARIABLE: "redis://127.0.0.1:1/0"})
    for _ in range(3000):
        events.report(BUSY)
    started_s = time.monotonic()
    events.close()
    assert time.monotonic() - started_s < 2


def test_a_queue_opens_while_the_events_start() -> None:
    code = (
        "import sys; from resources.workers import worker_events, run_queue; "
        "worker_events.open_worker_events(dict(CV_ASSETS_BROKER='redis://127.0.0.1:1/0')); "
        "assert hasattr(sys.modules['kombu'], 'Connection') and 'celery.app' in sys.modules; "
        "run_queue.BrokerQueue('redis://127.0.0.1:1/0')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_ROOT, timeout=60)
