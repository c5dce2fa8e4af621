"""The state of recordings over HTTP, while a run executes and without one; runs are launched through Dagster's API."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from dagster import AssetExecutionContext, AssetsDefinition, DagsterInstance, asset, materialize

from cv_assets.partitions import recordings_partitions
from cv_assets.stage_metadata import progress_reporter
from resources.dagster_instance.server_addresses import DAGSTER_UI, announced_address, read_address
from resources.schema.recording_tables import SOURCE_FILES
from resources.storage.stage_runs import StageRun, append_stage_runs
from serve.run_progress import RunProgress
from tests.builders.api_client import ApiClient, publish_two_recordings
from tests.builders.table_rows import sparse_rows


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["a", "b"])
        yield instance


@pytest.fixture
def client(tmp_path: Path, instance: DagsterInstance) -> ApiClient:
    client = ApiClient(tmp_path, instance=instance)
    client.state.progress = RunProgress(lambda: instance, refresh_interval_s=0)
    publish_two_recordings(client.data_folder)
    return client


def stage_run(stage: str, status: str = "ok", attempt: int = 1, error: str | None = None) -> StageRun:
    version = None if status in ("failed", "quarantined") else "v"
    now = datetime.now(UTC)
    return StageRun(
        "a", stage, attempt, status, "run", now, "person", error, version, started_at_utc=now, elapsed_s=1.0
    )


def read(client: ApiClient, recording_id: str = "a") -> dict[str, Any]:
    response = client.get(f"/api/recordings/{recording_id}")
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


def run_asset(client: ApiClient, instance: DagsterInstance, answers: dict[str, Any]) -> AssetsDefinition:
    """An asset that reports progress as a stage does, and asks the API what it says meanwhile."""

    @asset(partitions_def=recordings_partitions)
    def detections(context: AssetExecutionContext) -> None:
        report = progress_reporter(context, "detections", "a")
        report(0, 100)
        answers["before"] = client.get("/api/recordings/a/preview").json()
        report(40, 100, np.zeros((8, 8, 3), np.uint8))
        answers["state"], answers["queue"] = read(client), client.get("/api/queue").json()
        answers["preview"] = client.get("/api/recordings/a/preview")
        tag = answers["preview"].headers["etag"]
        answers["unchanged"] = client.get("/api/recordings/a/preview", headers={"if-none-match": tag}).status_code
        answers["metrics"] = client.get("/metrics").text
        answers["page"] = client.get("/queue").text

    return detections


def test_a_running_stage_shows_its_progress_and_its_newest_picture(
    client: ApiClient, instance: DagsterInstance
) -> None:
    answers: dict[str, Any] = {}
    materialize([run_asset(client, instance, answers)], instance=instance, partition_key="a")
    assert answers["before"]["detail"].startswith("Recording a has no picture: stages show one while they run.")
    state = answers["state"]
    assert (state["state"], state["stage"]) == ("running", "detections")
    assert (state["frames_done"], state["frames_total"]) == (40, 100)
    assert state["frames_per_s"] > 0 and state["remaining_s"] >= 0
    (run,) = answers["queue"]["runs"]
    assert (run["is_queued"], run["requested_by"], run["recordings"][0]["frames_done"]) == (False, "person", 40)
    picture = answers["preview"]
    assert picture.headers["content-type"] == "image/jpeg" and picture.content.startswith(b"\xff\xd8")
    assert (picture.headers["x-stage"], picture.headers["x-caption"]) == ("detections", "frame 40 of 100")
    assert answers["unchanged"] == 304
    assert 'cv_assets_executing_runs{queue="cpu"} 1' in answers["metrics"]
    assert "<strong>materialize" in answers["page"] and "40 of 100 frames" in answers["page"]
    assert "/api/recordings/a/preview?n=" in answers["page"]
    assert read(client)["state"] == "waiting" and read(client)["stage"] is None


def test_a_recording_goes_from_waiting_to_done(client: ApiClient) -> None:
    assert (read(client)["state"], read(client)["status"]) == ("waiting", None)
    stages = list(client.state.graph.stages)
    append_stage_runs(client.state.store, [stage_run(name) for name in stages[:-1]])
    assert (read(client)["state"], read(client)["status"]) == ("waiting", "ok")
    append_stage_runs(client.state.store, [stage_run(stages[-1])])
    state = read(client)
    assert state["state"] == "done" and all(stage["has_results"] for stage in state["stages"])
    assert state["links"]["page"] == "/recordings/a"
    events = client.get("/api/recordings/a/events").text
    assert events.startswith("id: 1\nevent: state\ndata: {") and events.endswith("event: end\ndata: {}\n\n")
    assert json.loads(events.split("data: ")[1].splitlines()[0])["state"] == "done"
    assert client.get("/api/recordings/a/preview", headers={"accept": "text/event-stream"}).text.endswith("{}\n\n")


@pytest.mark.parametrize(
    ("status", "attempt", "state"),
    [("failed", 1, "waiting"), ("failed", 2, "failed"), ("quarantined", 2, "failed"), ("rejected", 1, "failed")],
)
def test_a_failure_is_final_after_the_last_attempt(client: ApiClient, status: str, attempt: int, state: str) -> None:
    append_stage_runs(client.state.store, [stage_run("recordings", status, attempt, "The file is broken.")])
    report = read(client)
    assert (report["state"], report["status"], report["error"]) == (state, status, "The file is broken.")


def test_an_unknown_recording_is_a_sentence(client: ApiClient) -> None:
    for path in ("", "/preview", "/events"):
        response = client.get(f"/api/recordings/nope{path}")
        assert response.status_code == 404
        assert response.json()["detail"] == "Recording 'nope' does not exist: GET /api/recordings lists all."
    for path, body in (("materialize", {"stages": ["crops"]}), ("cancel", {})):
        assert client.post(f"/api/recordings/nope/{path}", json=body).status_code == 404


@pytest.fixture
def dagster_ui(client: ApiClient) -> Iterator[list[dict[str, Any]]]:
    """A web server in the place of Dagster's UI, which launches every run; yields the requests that it gets."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json" and self.path == "/graphql"
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": "r1"}}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": answer}).encode())

        def log_message(self, *_: object) -> None:
            pass

    (client.data_folder / "dagster").mkdir()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with announced_address(client.data_folder, DAGSTER_UI, f"http://127.0.0.1:{server.server_port}"):
        yield requests
    server.shutdown()
    server.server_close()


def test_materialize_launches_the_assets_of_the_stages(client: ApiClient, dagster_ui: list[dict[str, Any]]) -> None:
    url = "/api/recordings/a/materialize"
    assert client.post(url, json={"stages": ["tracks"]}).status_code == 409  # not probed yet
    append_stage_runs(client.state.store, [stage_run("recordings")])
    assert client.post(url, json={"stages": ["tracks", "crops"], "priority": 7}).json()["run_id"] == "r1"
    (request,) = dagster_ui
    params = request["variables"]["params"]
    assets = [key["path"][0] for key in params["selector"]["assetSelection"]]
    assert assets == ["tracks", "track_boxes", "crops"]
    tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
    assert tags == {"dagster/partition": "a", "dagster/priority": "7"}
    wrong = client.post(url, json={"stages": ["nope"]})
    assert wrong.status_code == 422 and wrong.json()["detail"].startswith("body stages: 'nope' is no stage: use ")
    bodies: list[Any] = [{}, {"stages": []}, {"stages": ["crops"], "extra": 1}, {"stages": "crops"}]
    for body in bodies:
        assert client.post(url, json=body).status_code == 422, body


def test_a_run_needs_the_pipeline(client: ApiClient) -> None:
    append_stage_runs(client.state.store, [stage_run("recordings")])
    response = client.post("/api/recordings/a/materialize", json={"stages": ["crops"]})
    assert response.status_code == 503 and response.json()["detail"].endswith("start cv-assets dev.")
    response = client.post("/api/recordings/a/cancel")
    assert response.status_code == 409 and "is in no queued or executing run" in response.json()["detail"]


def test_the_address_of_a_server_is_gone_with_it(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    assert read_address(tmp_path, DAGSTER_UI) is None
    with announced_address(tmp_path, DAGSTER_UI, "http://127.0.0.1:3000"):
        assert read_address(tmp_path, DAGSTER_UI) == "http://127.0.0.1:3000"
        file = tmp_path / "dagster" / "ui-address.json"
        killed = json.loads(file.read_text()) | {"pid": 2**22 + 1}  # no process has this number
    assert read_address(tmp_path, DAGSTER_UI) is None
    file.write_text(json.dumps(killed))
    assert read_address(tmp_path, DAGSTER_UI) is None


def test_metrics_describe_the_pipeline(client: ApiClient) -> None:
    client.state.store.replace(SOURCE_FILES, [], sparse_rows(SOURCE_FILES))
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['cv_assets_queued_runs{queue="gpu"}'] == "0"
    assert float(values['cv_assets_disk_free_bytes{folder="data"}']) > 0
    assert values["cv_assets_frames_per_second"] == "0"
    assert "# TYPE cv_assets_backlog_hours gauge" in text and "# TYPE cv_assets_failed_attempts_total counter" in text
