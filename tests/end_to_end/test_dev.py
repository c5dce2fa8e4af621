"""Files dropped while the pipeline runs, materializations and backfills from the UI: all end in rows."""

import http.client
import json
import stat
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.schema.table_registry import TABLES
from tests.builders.command_line import run_cv_assets
from tests.builders.running_pipeline import RunningPipeline

COUNTS = {"person": 1, "car": 1}
EMPTY_TABLES = {
    *(
        "zone_events",
        "zone_seconds",
        "zone_presence",
        "zone_minutes",
        "line_minutes",
        "line_trips",
        "origin_destinations",
        "ground_tracks",
        "still_tracks",
    ),
    *("track_links", "masks", "keypoints", "oriented_boxes", "frame_classes", "stretches"),
    *("file_hashes", "kept_recordings", "camera_clocks", "privacy_copies"),
    *("corrections", "corrected_tracks", "corrected_boxes", "correction_results", "audit_answers"),
}
"""Tables of zones and lines, weights of another task, black frames, clocks in pictures, corrections and the like."""

ALSO_OF_REJECTED = {"recordings", "recording_clocks", "stage_runs"}
"""Tables with rows of a recording that is rejected because its file is not a video."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPipeline]:
    pipeline = RunningPipeline(tmp_path_factory.mktemp("dev"))
    pipeline.start()
    yield pipeline
    pipeline.stop()


@pytest.fixture(scope="module")
def recording_ids(pipeline: RunningPipeline) -> list[str]:
    """Ids of three good recordings, dropped with a bad file while the pipeline runs, and processed."""
    for number in range(3):
        path = pipeline.watched_folder / "gate" / f"gate {number}_2026-03-01_08-00-0{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(demo_scene(number, 8 + number, COUNTS), path)
    (pipeline.watched_folder / "gate" / "bad.mp4").write_bytes(b"this is not a video")
    pipeline.wait_until(
        lambda: (
            pipeline.sql("SELECT count(*) FROM summaries") == [(3,)]
            and pipeline.sql("SELECT count(*) FROM recordings WHERE status = 'rejected'") == [(1,)]
        ),
        900,
        "three summaries and a rejection",
    )
    rows = pipeline.sql("SELECT recording_id FROM recordings WHERE status = 'ok' ORDER BY source_path")
    return [str(row[0]) for row in rows]


def test_the_ui_listens_on_this_machine_only(pipeline: RunningPipeline) -> None:
    addresses = {
        connection.laddr.ip
        for process in pipeline.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == pipeline.port
    }
    assert addresses == {"127.0.0.1"}


def send_request(
    pipeline: RunningPipeline, method: str, path: str, headers: Mapping[str, str], body: str = ""
) -> tuple[int, str]:
    """Send exactly these headers to the UI; returns status and text of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", pipeline.port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode())
    response = connection.getresponse()
    status = response.status
    text = "" if status == http.client.SWITCHING_PROTOCOLS else response.read().decode()
    connection.close()
    return status, text


def test_pages_of_other_sites_can_neither_change_nor_read_anything(pipeline: RunningPipeline) -> None:
    mutation = """mutation { stopSensor(id: "x") { __typename } }"""
    query = json.dumps({"query": mutation})
    by_get = f"/graphql?query={urllib.parse.quote(mutation)}"
    ours, evil = {"Host": f"127.0.0.1:{pipeline.port}"}, "http://evil.example"
    as_json, own_origin = {"Content-Type": "application/json"}, {"Origin": f"http://127.0.0.1:{pipeline.port}"}
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "graphql-ws",
    }  # fmt: skip
    for method, path, headers, body in (
        ("GET", by_get, ours | {"Accept": "image/*"}, ""),
        ("GET", "/", {"Host": f"evil.example:{pipeline.port}"}, ""),
        ("POST", "/graphql", ours | as_json | {"Origin": evil}, query),
        ("POST", "/graphql", ours | as_json | {"Origin": "null"}, query),
        ("POST", "/graphql", ours | {"Content-Type": "text/plain; x=application/json"}, query),
        ("POST", by_get, ours | {"Content-Type": "application/x-www-form-urlencoded"}, "a=b"),
        ("POST", "/report_asset_materialization/summaries", ours | {"Origin": evil}, ""),
        ("GET", "/graphql", ours | upgrade | {"Origin": evil}, ""),
        ("GET", "/graphql", {"Host": f"evil.example:{pipeline.port}"} | upgrade, ""),
    ):
        status, text = send_request(pipeline, method, path, headers, body)
        assert (status, text.count("\n")) == (403, 1), (method, path, headers, text)
        assert "is refused" in text or "send queries by POST" in text
    for origin in ({}, own_origin):
        status, text = send_request(pipeline, "POST", "/graphql", ours | as_json | origin, query)
        assert '"stopSensor"' in text, (status, text)
        assert send_request(pipeline, "GET", "/graphql", ours | upgrade | origin)[0] == 101
    assert send_request(pipeline, "GET", "/runs", {"Host": f"localhost:{pipeline.port}"})[0] == 200


def test_only_the_owner_can_use_the_data_folder_and_the_code_server(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    paths = [pipeline.data_folder, *pipeline.data_folder.rglob("*")]
    open_paths = []
    for path in paths:
        with suppress(FileNotFoundError):  # SQLite's logs come and go
            if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077:
                open_paths.append(path)
    assert open_paths == []
    listening = {
        connection.laddr
        for process in pipeline.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert len(listening) == 2  # Dagster's UI and the pages; the code server has a socket in a folder of its user
    for process in pipeline.processes("code-server"):
        socket = Path(process.cmdline()[process.cmdline().index("--socket") + 1])
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(pipeline.watched_folder.stat().st_mode) == 0o755


def test_dropped_files_become_rows_of_every_table(pipeline: RunningPipeline, recording_ids: list[str]) -> None:
    assert len(recording_ids) == 3
    for name, table in TABLES.items():
        if table.per_recording:
            (count,) = pipeline.sql(f"SELECT count(DISTINCT recording_id) FROM {name}")[0]
            expected = 4 if name in ALSO_OF_REJECTED else 0 if name in EMPTY_TABLES else 3
            assert count == expected, name
    assert pipeline.sql("SELECT frame_count FROM summaries ORDER BY frame_count") == [(200,), (225,), (250,)]
    track_counts = pipeline.sql("SELECT class_name, count(*) FROM tracks GROUP BY ALL ORDER BY ALL")
    assert track_counts == [("car", 3), ("person", 3)]


def test_the_camera_and_its_clock_are_known(pipeline: RunningPipeline, recording_ids: list[str]) -> None:
    rows = pipeline.sql(
        "SELECT camera, started_at_source, started_at_utc::TEXT FROM recordings WHERE status = 'ok' "
        "ORDER BY source_path"
    )
    assert [row[:2] for row in rows] == [("gate", "file_name")] * 3
    assert str(rows[1][2]).startswith("2026-03-01 08:00:01")


def test_a_bad_file_has_a_row_with_the_reason_of_its_rejection(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    rows = pipeline.sql("SELECT status, error FROM recordings WHERE source_path = 'gate/bad.mp4'")
    assert rows[0][0] == "rejected"
    assert "not a video that can be opened (19 bytes)" in str(rows[0][1])


def test_runs_with_a_model_stage_are_tagged_and_others_are_not(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    query = "{ runsOrError { ... on Runs { results { pipelineName status tags { key value } } } } }"
    runs = pipeline.graphql(query)["runsOrError"]["results"]
    is_tagged_by_job = {(run["pipelineName"], "gpu" in {tag["key"] for tag in run["tags"]}) for run in runs}
    assert is_tagged_by_job == {("ingest", False), ("analysis", True)}


def test_a_materialization_from_the_ui_is_tagged_and_published_within_5_s(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    version_query = "SELECT max(delta_version) FROM published_tables WHERE table_name = 'detections'"
    version_before = pipeline.sql(version_query)
    run_id = pipeline.materialize("__ASSET_JOB", ["detections", "tracks", "track_boxes"], recording_ids[0])
    pipeline.wait_until(lambda: pipeline.run(run_id)["status"] in ("SUCCESS", "FAILURE"), 900, "the run to end")
    ended_s = time.monotonic()
    run = pipeline.run(run_id)
    assert run["status"] == "SUCCESS"
    assert {"key": "gpu", "value": "true"} in run["tags"]
    pipeline.wait_until(lambda: pipeline.sql(version_query) != version_before, 5, "the publication")
    assert time.monotonic() - ended_s <= 5
    track_counts = pipeline.sql("SELECT class_name, count(*) FROM tracks GROUP BY ALL ORDER BY ALL")
    assert track_counts == [("car", 3), ("person", 3)]


def test_a_backfill_from_the_ui_runs_its_partitions_in_batches(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    version_query = "SELECT max(delta_version) FROM published_tables WHERE table_name = 'crops'"
    version_before = pipeline.sql(version_query)
    backfill_id = pipeline.backfill(["crops"], recording_ids)
    pipeline.wait_until(
        lambda: pipeline.backfill_status(backfill_id).startswith("COMPLETED"), 900, "the backfill to end"
    )
    assert pipeline.backfill_status(backfill_id) == "COMPLETED_SUCCESS"
    pipeline.wait_until(lambda: pipeline.sql(version_query) != version_before, 5, "the publication")
    query = "query($f: RunsFilter) { runsOrError(filter: $f) { ... on Runs { results { status } } } }"
    runs = pipeline.graphql(query, {"f": {"tags": [{"key": "dagster/backfill", "value": backfill_id}]}})
    statuses = [run["status"] for run in runs["runsOrError"]["results"]]
    # A batch is a range of partitions: two where the bad file was registered between the good ones.
    assert statuses in (["SUCCESS"], ["SUCCESS"] * 2)


@pytest.mark.long
def test_one_bad_partition_of_a_backfill_fails_alone(
    pipeline: RunningPipeline, recording_ids: list[str], tmp_path: Path
) -> None:
    video = pipeline.data_folder / "media" / recording_ids[1] / "normalized.mp4"
    hidden_video = video.rename(tmp_path / "hidden.mp4")
    try:
        backfill_id = pipeline.backfill(["crops"], recording_ids)
        pipeline.wait_until(
            lambda: pipeline.backfill_status(backfill_id).startswith("COMPLETED"), 900, "the backfill to end"
        )
        assert pipeline.backfill_status(backfill_id) == "COMPLETED_FAILED"
        rows = pipeline.sql("SELECT recording_id, status, failed_stage, error FROM recordings WHERE status = 'failed'")
        assert [(row[0], row[2]) for row in rows] == [(recording_ids[1], "crops")]
    finally:
        hidden_video.rename(video)
    # Once its cause is removed, a materialization by hand resets the status.
    pipeline.materialize("__ASSET_JOB", ["crops"], recording_ids[1])
    pipeline.wait_until(
        lambda: pipeline.sql("SELECT count(*) FROM recordings WHERE status = 'ok'") == [(3,)], 900, "three good rows"
    )


def test_a_copy_under_another_name_starts_no_run(pipeline: RunningPipeline, recording_ids: list[str]) -> None:
    query = "{ runsOrError { ... on Runs { count } } }"
    run_count_before = pipeline.graphql(query)["runsOrError"]["count"]
    source = next((pipeline.watched_folder / "gate").glob("gate 0*"))
    (pipeline.watched_folder / "copy.mp4").write_bytes(source.read_bytes())
    pipeline.wait_until(
        lambda: pipeline.sql("SELECT state FROM source_files WHERE source_path = 'copy.mp4'") == [("duplicate",)],
        60,
        "the copy to be identified",
    )
    assert pipeline.graphql(query)["runsOrError"]["count"] == run_count_before


def test_the_retention_job_waits_in_no_queue_and_its_schedule_runs(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    run_id = pipeline.launch("retention")
    pipeline.wait_until(lambda: pipeline.run(run_id)["status"] in ("SUCCESS", "FAILURE"), 900, "the retention run")
    run = pipeline.run(run_id)
    assert run["status"] == "SUCCESS"
    assert not {"gpu", "cpu"} & {tag["key"] for tag in run["tags"]}
    assert pipeline.sql("SELECT count(*) FROM summaries") == [(3,)]
    selector = '{repositoryLocationName: "cv_assets", repositoryName: "__repository__"}'
    fields = "... on Schedules { results { name scheduleState { status } } }"
    response = pipeline.graphql(f"{{ schedulesOrError(repositorySelector: {selector}) {{ {fields} }} }}")
    (schedule,) = response["schedulesOrError"]["results"]
    assert (schedule["name"], schedule["scheduleState"]["status"]) == ("retention", "RUNNING")


@pytest.mark.long
def test_a_recording_is_forgotten_beside_the_running_pipeline(
    pipeline: RunningPipeline, recording_ids: list[str]
) -> None:
    arguments = ("forget", recording_ids[0], "--settings", pipeline.settings_file)
    unconfirmed = run_cv_assets(*arguments)
    assert unconfirmed.returncode == 2
    assert "cv-assets: forget: there is no terminal to ask on; add --yes" in unconfirmed.stderr
    forgotten = run_cv_assets(*arguments, "--yes")
    assert (forgotten.returncode, forgotten.stdout) == (0, "Forgot 1 recording.\n"), forgotten.stderr
    again = run_cv_assets(*arguments, "--yes")
    assert again.returncode == 2
    assert f"{recording_ids[0]}: the recording was forgotten before" in again.stderr
    source = next((pipeline.watched_folder / "gate").glob("gate 0*"))
    (pipeline.watched_folder / "second copy.mp4").write_bytes(source.read_bytes())
    pipeline.wait_until(
        lambda: (
            pipeline.sql("SELECT state FROM source_files WHERE source_path = 'second copy.mp4'") == [("forgotten",)]
        ),
        60,
        "the copy to be identified",
    )
    assert pipeline.sql("SELECT count(*) FROM summaries") == [(2,)]
    query = '{ assetNodeOrError(assetKey: {path: ["tracks"]}) { ... on AssetNode { partitionKeys } } }'
    assert recording_ids[0] not in pipeline.graphql(query)["assetNodeOrError"]["partitionKeys"]
    assert not (pipeline.data_folder / "media" / recording_ids[0]).exists()
    assert source.exists()
