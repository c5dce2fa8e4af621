"""Bad input over the pages and the API: each refusal is one sentence with the right status, and nothing fails."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from resources.storage.results_database import results_path
from serve.app import build_app
from tests.builders.api_client import ADDRESS, ApiClient, publish_two_recordings
from tests.builders.table_rows import store_recordings

HTML = {"Accept": "text/html"}
JSON_BODY = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    client = ApiClient(tmp_path_factory.mktemp("bad"))
    store = publish_two_recordings(client.data_folder)
    store_recordings(store, {"recording_id": "a", "video_path": "media/a.mp4", "normalized_by": "remux"})
    (client.data_folder / "media").mkdir()
    yield client


def sentence(response: Any) -> str:
    """The sentence of a refusal, which is one line and names no file of the program."""
    detail = str(response.json()["detail"])
    assert detail.endswith(".") and "\n" not in detail and ".py" not in detail
    return detail


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/cameras/gate?end=0001-01-01", 422, "is not between 1971 and 2199"),
        ("/cameras/gate?end=9999-12-31", 422, "is not between 1971 and 2199"),
        ("/search?page=99999999999999999999", 422, "query page: Input should be less than or equal to 1000000"),
        ("/search?start=9999-12-31T23:59-05:00", 422, "is no date and time"),
        ("/recordings/a/objects?from_s=nan", 422, "query from_s: Input should be a finite number"),
        ("/recordings/a/objects?to_s=inf", 422, "query to_s: Input should be a finite number"),
        ("/recordings/nope/objects", 404, "Recording 'nope' is not among the results"),
        ("/recordings/nope/counts?format=csv", 404, "Recording 'nope' is not among the results"),
        ("/recordings/a%0d%0aX-Y: 1/counts?format=csv", 404, "is not among the results"),
        ("/recordings/nope/heatmap", 404, "Recording 'nope' is not among the results"),
    ],
)
def test_a_bad_address_is_refused(client: ApiClient, path: str, status: int, text: str) -> None:
    response = client.get(path)
    assert (response.status_code, text in sentence(response)) == (status, True), response.text
    page = client.get(path, headers=HTML)
    assert page.status_code == status and page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/?page=99999999999999999999", "/search?page=1000000", "/?month=0001-01&day=x"])
def test_an_address_beyond_the_last_page_shows_the_last(client: ApiClient, path: str) -> None:
    assert client.get(path, headers=HTML).status_code == 200


def test_a_time_of_an_address_may_have_an_offset(client: ApiClient) -> None:
    # The recordings start at 08:59:58 UTC, and so do their objects.
    for start, count in (("2026-03-01T10:59%2B02:00", 3), ("2026-03-01T11:59%2B02:00", 0), ("0001-01-01T00:00", 3)):
        assert f"<span>{count} object" in client.get(f"/search?start={start}", headers=HTML).text, start


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b'{"lines": [{"name": "l", "points": [[NaN, 0], [1, 1]]}]}', 422, "The drawn shape is invalid"),
        (b'{"lines": [{"name": "l", "points": [[0, 0], [Infinity, 1]]}]}', 422, "The drawn shape is invalid"),
        (b'{"lines": [{"name": "\\ud800", "points": [[0, 0], [1, 1]]}]}', 422, "The name '\\ud800' of a drawn shape"),
        (b'{"lines": [{"name": "a\\nb", "points": [[0, 0], [1, 1]]}]}', 422, "use at most 200 printable characters"),
        (b'{"lines": ' + str([{}] * 300).encode() + b"}", 422, "body lines: List should have at most 200 items"),
        (b'{"lines": "' + b"x" * 1_000_000 + b'"}', 413, "body: the request is larger than 1 MB: send less."),
        (b"[" * 100_000, 400, "body"),
    ],
)
def test_a_bad_body_is_refused(client: ApiClient, body: bytes, status: int, text: str) -> None:
    for path in ("/recordings/a/question", "/cameras/gate/shapes"):
        response = client.post(path, content=body, headers=JSON_BODY)
        assert (response.status_code, text in sentence(response)) == (status, True), response.text


def test_a_body_of_unknown_length_is_limited(client: ApiClient) -> None:
    chunks = (b" " * 100_000 for _ in range(20))
    response = client.post("/api/sql", content=chunks, headers=JSON_BODY)
    assert response.status_code == 413 and "larger than 1 MB" in sentence(response)


@pytest.mark.parametrize(
    ("range_header", "status", "text"),
    [("bytes=99-", 416, "Range: the video has no such bytes"), ("lines=0-1", 400, "Range: the header is malformed")],
)
def test_a_bad_range_is_refused(client: ApiClient, range_header: str, status: int, text: str) -> None:
    (client.data_folder / "media" / "a.mp4").write_bytes(b"0123456789")
    response = client.get("/media/a/video", headers={"Range": range_header})
    assert response.status_code == status and text in sentence(response)
    assert status != 416 or response.headers["content-range"] == "bytes */10"


def test_damaged_results_are_a_sentence_until_they_are_replaced(tmp_path: Path) -> None:
    client = ApiClient(tmp_path)
    publish_two_recordings(client.data_folder)
    good = Path(os.path.realpath(results_path(client.data_folder)))
    content = good.read_bytes()
    good.write_bytes(b"no database" * 1000)
    for path in ("/api/tables", "/api/recordings", "/search"):
        response = client.get(path)
        assert response.status_code == 503 and "cannot be read" in sentence(response), path
    assert "cannot be read" in client.get("/", headers=HTML).text
    good.write_bytes(content)
    assert len(client.get("/api/recordings").json()["recordings"]) == 2


def test_an_empty_data_folder_says_what_to_do(tmp_path: Path) -> None:
    client = ApiClient(tmp_path)
    with TestClient(build_app(client.settings), base_url=ADDRESS, raise_server_exceptions=False) as bare:
        for path in (
            "/",
            "/cameras",
            "/search",
            "/queue",
            "/metrics",
            "/api/tables",
            "/recordings/a",
            "/media/a/video",
        ):
            response = bare.get(path)
            assert response.status_code in (200, 404, 503), (path, response.text)
            if response.status_code != 200:
                sentence(response)
        assert bare.get("/api/recordings").json() == {"recordings": []}
