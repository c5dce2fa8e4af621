"""Over HTTP alone, with curl and with Python: submit, pictures while it runs, the callback, the summary."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
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
