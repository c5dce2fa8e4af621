"""Over HTTP alone, with curl and with Python: submit, pictures while it runs, callback, summary, priority, cancel."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.dagster_instance.server_addresses import PAGES, read_address
from tests.builders.message_receivers import Webhook, webhook_server
from tests.builders.running_pipeline import RunningPipeline

pytestmark = pytest.mark.long
_CLIP_S, _RATE_FPS = 60, 25


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    with webhook_server() as webhook:
        yield webhook


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator[RunningPipeline]:
    host = webhook.url.removeprefix("http://").partition("/")[0]
    pipeline = RunningPipeline(tmp_path_factory.mktemp("flow"), serve={"callback_hosts": [host]})
    pipeline.start()
    pipeline.wait_until(lambda: read_address(pipeline.data_folder, PAGES), 60, "the pages to be served")
    yield pipeline
    pipeline.stop()


def api_of(pipeline: RunningPipeline) -> str:
    return f"{read_address(pipeline.data_folder, PAGES)}/api"


def draw_clip(folder: Path, seed: int) -> Path:
    clip = folder / f"clip{seed}.mp4"
    write_video(demo_scene(seed, _CLIP_S, {"car": 2}), clip)
    return clip


def curl(*arguments: str) -> bytes:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *arguments]
    process = subprocess.run(command, capture_output=True, timeout=240)
    assert process.returncode == 0, process.stderr + process.stdout
    return process.stdout


def check_callback(webhook: Webhook, recording_id: str) -> None:
    """Check that the callback of a recording has arrived once."""
    deadline = time.monotonic() + 30
    while recording_id not in (message["recording_id"] for message in webhook.messages):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (message,) = [message for message in webhook.messages if message["recording_id"] == recording_id]
    assert (message["state"], message["status"]) == ("done", "ok")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_with_curl(pipeline: RunningPipeline, webhook: Webhook) -> None:
    api, clip = api_of(pipeline), draw_clip(pipeline.folder, 3)
    form = ("-F", f"file=@{clip}", "-F", "camera=gate", "-F", f"callback_url={webhook.url}")
    recording_id = json.loads(curl(*form, f"{api}/recordings"))["recording_id"]
    pictures = curl("-N", "-H", "Accept: text/event-stream", f"{api}/recordings/{recording_id}/preview").decode()
    assert pictures.count("event: preview") >= 2 and "data:image/jpeg;base64," in pictures
    assert json.loads(curl(f"{api}/recordings/{recording_id}"))["state"] == "done"
    check_callback(webhook, recording_id)
    summary = json.loads(curl(f"{api}/recordings/{recording_id}/tables/summaries"))["rows"][0]
    assert summary["frame_count"] == _CLIP_S * _RATE_FPS and summary["track_count"] >= 1
    # A link of the asset in Dagster leads to the page of the recording.
    location = curl("-o", "/dev/null", "-w", "%{redirect_url}", f"http://127.0.0.1:{pipeline.port}/recordings/x")
    assert location.decode() == f"{api.removesuffix('/api')}/recordings/x"


def test_with_python(pipeline: RunningPipeline, webhook: Webhook) -> None:
    api, clip = api_of(pipeline), draw_clip(pipeline.folder, 4)

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"{api}{path}", timeout=30) as response:
            return json.load(response)

    query = f"name=python.mp4&camera=yard&callback_url={webhook.url}"
    headers = {"Content-Type": "video/mp4"}
    request = urllib.request.Request(f"{api}/recordings?{query}", clip.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 202
        recording_id = json.load(response)["recording_id"]
    states: list[dict[str, Any]] = []
    pictures: set[bytes] = set()
    while not states or states[-1]["state"] not in ("done", "failed"):
        states.append(get(f"/recordings/{recording_id}"))
        if states[-1]["links"]["preview"]:
            with urllib.request.urlopen(f"{api}/recordings/{recording_id}/preview", timeout=30) as response:
                pictures.add(response.read())
        time.sleep(0.5)
    assert states[-1]["state"] == "done" and states[0]["state"] == "waiting"
    assert len(pictures) >= 2
    reported = [state for state in states if state["stage"] == "detections" and state["frames_per_s"]]
    assert reported and all(state["frames_total"] == _CLIP_S * _RATE_FPS for state in reported)
    assert reported[-1]["frames_done"] > reported[0]["frames_done"] and reported[0]["remaining_s"] > 0
    check_callback(webhook, recording_id)
    assert get(f"/recordings/{recording_id}")["callbacks"][0]["state"] == "sent"
    assert get(f"/recordings/{recording_id}/tables/summaries")["rows"][0]["frame_count"] == _CLIP_S * _RATE_FPS


def test_runs_wait_by_priority_and_are_canceled(pipeline: RunningPipeline) -> None:
    api, clip = api_of(pipeline), draw_clip(pipeline.folder, 5)

    def send(path: str, content: bytes | None = None, content_type: str = "application/json") -> tuple[int, Any]:
        headers = {"Content-Type": content_type}
        request = urllib.request.Request(f"{api}{path}", content, headers, method="GET" if content is None else "POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def wait_for(condition: Callable[[dict[str, Any]], Any], timeout_s: float = 120) -> dict[str, Any]:
        state: dict[str, Any]
        deadline = time.monotonic() + timeout_s
        while not condition(state := send(path)[1]):
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        return state

    recording_id = send("/recordings?name=long.mp4&camera=dock", clip.read_bytes(), "video/mp4")[1]["recording_id"]
    path = f"/recordings/{recording_id}"
    (run_id,) = wait_for(lambda state: state["stage"] == "detections" and state["run_ids"])["run_ids"]
    with ThreadPoolExecutor(2) as threads:  # two people at once
        answers = list(threads.map(lambda _: send(f"{path}/cancel", b""), range(2)))
    assert (202, {"recording_id": recording_id, "run_ids": [run_id]}) in answers, answers
    assert all(status in (202, 409) for status, _ in answers), answers
    wait_for(lambda state: run_id not in state["run_ids"])
    # As after any interruption, what is missing is requested again.
    assert wait_for(lambda state: state["state"] == "done", 240)["status"] == "ok"

    def materialize(priority: int) -> str:
        body = json.dumps({"stages": ["detections"], "priority": priority}).encode()
        status, answer = send(f"{path}/materialize", body)
        assert status == 202, answer
        return str(answer["run_id"])

    priorities = {materialize(priority): priority for priority in (5, 7, 40, 20)}
    runs = send("/queue")[1]["runs"]
    waiting = [priorities[run["run_id"]] for run in runs if run["is_queued"] and run["run_id"] in priorities]
    assert len(waiting) >= 2 and waiting == sorted(waiting, reverse=True), runs

    def cancel_rest(state: dict[str, Any]) -> bool:
        if not set(state["run_ids"]) & set(priorities):
            return True
        status, answer = send(f"{path}/cancel", b"")  # a run that starts cannot be ended at that moment
        assert status == 202 or "Try again in a few seconds." in answer["detail"] or "no queued" in answer["detail"]
        return False

    wait_for(cancel_rest)
