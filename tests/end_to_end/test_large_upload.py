"""A large upload to a real server: little memory, never half a file, and nothing left after a kill."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.builders.api_server import ApiServer

pytestmark = pytest.mark.long
_SIZE_BYTES, _BLOCK = 2_000_000_000, bytes(range(250)) * 4000
_MAX_MEMORY_BYTES = 200_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    server.start()
    yield server
    server.kill()


def open_upload(server: ApiServer, name: str, length: int = _SIZE_BYTES) -> http.client.HTTPConnection:
    """Begin an upload of `length` bytes."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=120)
    connection.putrequest("POST", f"/api/recordings?name={name}")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    return connection


def visible_files(server: ApiServer) -> list[str]:
    return sorted(path.name for path in server.watched_folder.rglob("*") if path.is_file() and path.suffix != ".part")


def wait_until_empty(server: ApiServer) -> None:
    deadline = time.monotonic() + 30
    while list(server.watched_folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(server.watched_folder.iterdir()) == []


def test_two_gigabytes_need_little_memory_and_appear_whole(server: ApiServer) -> None:
    connection, most = open_upload(server, "large.mp4"), 0
    for number in range(_SIZE_BYTES // len(_BLOCK)):
        connection.send(_BLOCK)
        if number % 50 == 0:
            most = max(most, server.memory_bytes)
            assert visible_files(server) == []
    response = connection.getresponse()
    assert response.status == 202, response.read()
    assert json.loads(response.read())["recording_id"].startswith("large-")
    assert (server.watched_folder / "large.mp4").stat().st_size == _SIZE_BYTES
    print(f"most memory: {max(most, server.memory_bytes) / 1e6:.0f} MB")
    assert max(most, server.memory_bytes) < _MAX_MEMORY_BYTES
    assert server.stop() == 0


def test_an_upload_that_is_cut_off_leaves_nothing(server: ApiServer) -> None:
    connection = open_upload(server, "cut.mp4", 10 * len(_BLOCK))
    for _ in range(5):
        connection.send(_BLOCK)
    connection.close()
    wait_until_empty(server)
    connection = open_upload(server, "cut.mp4", 10 * len(_BLOCK))
    connection.send(_BLOCK)
    time.sleep(1)
    assert [path.suffix for path in server.watched_folder.rglob("*") if path.is_file()] == [".part"]
    server.kill()
    assert visible_files(server) == []
    server.start()
    wait_until_empty(server)
