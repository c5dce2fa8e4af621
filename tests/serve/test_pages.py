"""Every page and file answers, follows its filters, and refuses bad input in a sentence."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from resources.config.settings import Settings
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from serve.access_control import Access
from serve.app import STATIC_FOLDER, build_app
from tests.builders.numbered_pages import FRAME_COUNT, store_numbered_recordings
from tests.builders.table_rows import store_recordings

ADDRESS = "http://127.0.0.1:3100"
HTML = {"Accept": "text/html"}
LINE = {"lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    store_numbered_recordings(folder, ["constant"])
    return folder


@pytest.fixture
def client(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    file = tmp_path / "pipeline.yaml"
    file.write_text(f"watched_folder: {folder / 'recordings'}\ndata_folder: {folder / 'data'}\n")
    monkeypatch.setenv("CV_ASSETS_SETTINGS", str(file))
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    with TestClient(build_app(settings, Access.to_address("127.0.0.1", 3100, None)), base_url=ADDRESS) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "constant.mp4"),
        ("/?camera=gate&month=2026-03", "1 recording<"),
        ("/?text=nothing", "No recording fits these filters."),
        ("/?part=1&day=2026-03-01", "constant.mp4"),
        ("/recordings/constant", "Packets and frames"),
        ("/cameras", "gate"),
        ("/cameras/gate", "Objects per hour"),
        ("/search", "1 object<"),
        ("/search?class_name=car&start=2026-03-01T08:00&min_s=2&order=longest&part=1", "0 objects"),
    ],
)
def test_a_page_shows_what_it_is_asked_for(client: TestClient, path: str, text: str) -> None:
    response = client.get(path, headers=HTML)
    assert response.status_code == 200 and text in response.text
    assert re.findall(r'(?:src|href)="(?:https?:)?//', response.text) == []


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/recordings/nothing", 404, "Recording &#39;nothing&#39; is not among the results"),
        ("/recordings/%3Cscript%3E", 404, "Recording &#39;&lt;script&gt;&#39; is not among the results"),
        ("/cameras/nothing", 404, "Camera &#39;nothing&#39; has no recording"),
        ("/cameras/gate?end=yesterday", 422, "write it as 2026-03-01"),
        ("/search?start=noon", 422, "is no date and time"),
        ("/search?min_s=long", 422, "is no number of seconds"),
    ],
)
def test_a_wrong_address_is_a_page_with_one_sentence(client: TestClient, path: str, status: int, sentence: str) -> None:
    response = client.get(path, headers=HTML)
    assert response.status_code == status and sentence in response.text
    assert response.headers["content-type"].startswith("text/html")


def test_a_data_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(watched_folder=tmp_path / "recordings", data_folder=tmp_path / "data")
    with TestClient(build_app(settings), base_url=ADDRESS) as client:
        for path in ("/", "/cameras", "/search"):
            assert f"Put video files into {tmp_path / 'recordings'}." in client.get(path, headers=HTML).text, path
        assert client.get("/recordings/nope", headers=HTML).status_code == 503


def test_a_recording_without_a_video_has_no_player_and_a_guessed_start_is_marked(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    store_recordings(store, {"recording_id": "r", "created_at_utc": None})
    settings = Settings(watched_folder=tmp_path / "recordings", data_folder=tmp_path / "data")
    publish(store, settings)
    with TestClient(build_app(settings, Access.to_address("127.0.0.1", 3100, None)), base_url=ADDRESS) as client:
        text = client.get("/recordings/r", headers=HTML).text
        assert "no normalized video" in text and "(guess)" in text
        assert not re.findall('id="(play|timeline|draw)"', text)
        assert 'id="crops"' in text
        assert "(guess)" in client.get("/", headers=HTML).text


def test_the_player_gets_times_index_and_boxes(client: TestClient) -> None:
    assert len(client.get("/recordings/constant/times").content) == 2 * 8 * FRAME_COUNT
    assert client.get("/recordings/constant/index").json() == {
        "classes": ["square"], "first_frames": [0], "has_shapes": False,
    }  # fmt: skip
    assert len(client.get("/recordings/constant/boxes?first=10&end=20").content) == 10 * 18
    assert client.get("/recordings/constant/shapes?first=0&end=20").content == b""
    assert client.get("/recordings/constant/boxes?first=-1&end=20").status_code == 422
    assert client.get("/recordings/constant/timeline").json()["event_count"] == 0
    assert client.get("/recordings/constant/poster").content[:2] == b"\xff\xd8"


def test_counts_and_events_are_files(client: TestClient) -> None:
    for path, content_type in [
        ("counts?format=csv", "text/csv"),
        ("events.csv", "text/csv"),
        ("counts?format=xlsx", "sheet"),
    ]:
        response = client.get(f"/recordings/constant/{path}")
        assert response.status_code == 200 and content_type in response.headers["content-type"]
        assert response.headers["content-disposition"].startswith('attachment; filename="constant-')
    assert client.get("/recordings/constant/counts?minutes=7").status_code == 422


def test_a_drawn_line_is_counted_and_written_into_the_settings(client: TestClient, tmp_path: Path) -> None:
    for path in ("/recordings/constant/question", "/cameras/gate/question"):
        counts = client.post(path, json=LINE).json()["counts"]
        # The box passes the middle again and again: it crosses in both directions.
        assert {(row["name"], row["event"]) for row in counts} == {("middle", "in"), ("middle", "out")}
    old_text = (tmp_path / "pipeline.yaml").read_text()
    message = client.post("/cameras/gate/shapes", json=LINE).json()["message"]
    assert message.startswith("Written to pipeline.yaml. The old file is pipeline.yaml.")
    assert "- name: middle" in (tmp_path / "pipeline.yaml").read_text()
    assert [file.read_text() for file in tmp_path.glob("*.old")] == [old_text]
    assert "middle" in client.get("/recordings/constant", headers=HTML).text  # the page knows the new line at once


@pytest.mark.parametrize(
    ("path", "shapes", "status"),
    [
        ("/cameras/gate/shapes", {"lines": [{"name": "", "points": [[0, 0], [1, 1]]}]}, 422),
        ("/cameras/gate/question", {"zones": [{"name": "z", "points": [[0, 0], [1, 1], [1, 0], [0, 1]]}]}, 422),
        ("/cameras/gate/question", {"circles": []}, 422),
        ("/cameras/nothing/question", LINE, 404),
    ],
)
def test_a_bad_shape_is_refused_in_a_sentence(
    client: TestClient, tmp_path: Path, path: str, shapes: dict[str, object], status: int
) -> None:
    response = client.post(path, json=shapes)
    assert response.status_code == status and response.json()["detail"].endswith(".")
    assert [file.name for file in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_another_site_cannot_write_the_settings(client: TestClient, tmp_path: Path) -> None:
    # A page of another site may send a POST without asking first only as text.
    for headers, status in (({"Origin": "http://evil.example"}, 403), ({"Content-Type": "text/plain"}, 422)):
        response = client.post("/cameras/gate/shapes", content=json.dumps(LINE), headers=headers)
        assert response.status_code == status
    assert [file.name for file in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_scripts_and_styles_of_the_project_name_no_other_host() -> None:
    for file in STATIC_FOLDER.glob("*.*"):
        addresses = set(re.findall(r"https?://[a-z0-9.]+", file.read_text()))
        assert addresses <= {"http://www.w3.org"}, file
