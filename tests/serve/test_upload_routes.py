"""Uploads over HTTP: complete, refused, cut off and repeated."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resources.file_hashes import content_fingerprint, read_content_hash
from resources.file_identification import identify_files
from resources.schema.recording_tables import RECORDINGS, SOURCE_FILES
from resources.storage.delta_store import Store
from resources.watched_files import list_watched_files
from serve.uploads import PartFile, delete_abandoned_parts
from tests.builders.api_client import ApiClient
from tests.builders.table_rows import header_row, sparse_rows

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def client(tmp_path: Path) -> ApiClient:
    return ApiClient(tmp_path, max_upload_gb=0.001)


def files_of(client: ApiClient) -> list[str]:
    """All files and folders of the watched folder, hidden ones included."""
    return sorted(path.relative_to(client.watched_folder).as_posix() for path in client.watched_folder.rglob("*"))


def send_raw(client: ApiClient, content: Any = CONTENT, **query: str) -> Any:
    headers = {"content-type": "application/octet-stream"}
    return client.post("/api/recordings", params=query, content=content, headers=headers)


def test_a_raw_upload_becomes_a_file_of_its_camera(client: ApiClient) -> None:
    response = send_raw(client, name="visit.mp4", camera="gate")
    body = response.json()
    assert (response.status_code, body["source_path"], body["is_new"]) == (202, "gate/visit.mp4", True)
    assert response.headers["location"] == body["status_url"] == f"/api/recordings/{body['recording_id']}"
    file = client.watched_folder / "gate" / "visit.mp4"
    assert file.read_bytes() == CONTENT and file.stat().st_mode & 0o600 == 0o600
    assert files_of(client) == ["gate", "gate/visit.mp4"]
    # The id is that which the pipeline gives to the file.
    listed = list_watched_files(client.settings).files
    assert identify_files(client.settings, listed, {})["gate/visit.mp4"].recording_id == body["recording_id"]
    report = client.get(body["status_url"]).json()
    assert (report["state"], report["source_path"]) == ("waiting", "gate/visit.mp4")


def test_the_page_of_an_upload_follows_it_until_it_has_results(client: ApiClient) -> None:
    body = send_raw(client, name="visit.mp4", camera="gate").json()
    page = client.get(body["page_url"], headers={"Accept": "text/html"})
    assert page.status_code == 200 and f'data-recording="{body["recording_id"]}"' in page.text
    assert "<h1>visit.mp4</h1>" in page.text and "/static/live.js" in page.text
    assert client.get("/recordings/nope").status_code in (404, 503)


@pytest.mark.parametrize("fields_come_first", [True, False])
def test_a_form_upload_takes_its_name_and_camera_from_the_form(client: ApiClient, fields_come_first: bool) -> None:
    fields = b'--x\r\nContent-Disposition: form-data; name="camera"\r\n\r\nyard\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a b.mkv"\r\n\r\n' + CONTENT + b"\r\n"
    body = (fields + file if fields_come_first else file + fields) + b"--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/api/recordings", content=body, headers=headers)
    assert response.status_code == 202, response.text
    assert (client.watched_folder / "yard" / "a b.mkv").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ({"name": "../x.mp4"}, 422, "name: '../x.mp4' is not a plain name"),
        ({"name": "/etc/x.mp4"}, 422, "name: '/etc/x.mp4' is not a plain name"),
        ({"name": "C:\\x.mp4"}, 422, "is not a plain name"),
        ({"name": ".x.mp4"}, 422, "is not a plain name"),
        ({"name": "x\n.mp4"}, 422, "is not a plain name"),
        ({"name": "x\0.mp4"}, 422, "is not a plain name"),
        ({"name": "x.mp4", "camera": ".."}, 422, "camera: '..' is not a plain name"),
        ({"name": "x.mp4", "camera": "a/b"}, 422, "camera: 'a/b' is not a plain name"),
        ({"name": f"{'x' * 300}.mp4"}, 422, "is too long"),
        ({"name": ""}, 422, "name: the name is empty"),
        ({"name": "x.exe"}, 415, "name: 'x.exe' has no extension of a recording: use one of "),
        ({"name": "x.part"}, 415, "has no extension of a recording"),
        ({"name": "x"}, 415, "has no extension of a recording"),
        ({"name": "x.mp4", "callback_url": "http://evil.example/"}, 422, "is not in serve.callback_hosts"),
        ({"name": "x.mp4", "callback_url": "file:///etc/passwd"}, 422, "callback_url: the address must be like"),
        ({"name": "x.mp4", "camera": "link"}, 422, "leads out of the watched folder"),
    ],
)
def test_a_wrong_name_is_refused(client: ApiClient, query: dict[str, str], status: int, sentence: str) -> None:
    (client.watched_folder / "link").symlink_to("/tmp")
    response = send_raw(client, **query)
    assert response.status_code == status and sentence in response.json()["detail"]
    assert files_of(client) == ["link"]


def test_a_name_in_a_form_is_checked_too(client: ApiClient) -> None:
    for name, camera in (("../../x.mp4", ""), ("x.mp4", "../..")):
        response = client.post("/api/recordings", files={"file": (name, CONTENT)}, data={"camera": camera})
        assert response.status_code == 422 and "is not a plain name" in response.json()["detail"]
    assert files_of(client) == []


@pytest.mark.parametrize(
    ("content", "headers", "status", "sentence"),
    [
        (b"", {"content-type": "application/octet-stream"}, 422, "the upload is empty"),
        (CONTENT * 5, {"content-type": "video/mp4"}, 413, "is larger than serve.max_upload_gb (0.001 GB)"),
        (b"{}", {"content-type": "application/json"}, 415, "Content-Type: 'application/json' is refused"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "multipart/form-data has no boundary"),
        (b"xyz", {"content-type": "multipart/form-data; boundary=b"}, 400, "the multipart form is malformed"),
        (b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 422, "the form has no complete file"),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.mp4"\r\n\r\nhalf',
            {"content-type": "multipart/form-data; boundary=b"},
            422,
            "the form has no complete file",
        ),
    ],
)
def test_a_wrong_body_is_refused(
    client: ApiClient, content: bytes, headers: dict[str, str], status: int, sentence: str
) -> None:
    response = client.post("/api/recordings?name=x.mp4", content=content, headers=headers)
    assert response.status_code == status and sentence in response.json()["detail"]
    assert files_of(client) == []


def test_the_size_of_a_body_without_length_is_checked(client: ApiClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield CONTENT

    assert send_raw(client, chunks(), name="x.mp4").status_code == 413
    assert files_of(client) == []


def test_a_missing_watched_folder_is_not_created(client: ApiClient) -> None:
    client.watched_folder.rmdir()  # as a share that is not mounted
    response = send_raw(client, name="x.mp4")
    assert response.status_code == 503 and "cannot be written: No such file or directory" in response.json()["detail"]
    assert not client.watched_folder.exists()


def test_two_uploads_of_one_file_are_one_recording(client: ApiClient) -> None:
    first = send_raw(client, name="visit.mp4", camera="gate").json()
    again = send_raw(client, name="visit.mp4", camera="gate").json()
    renamed = send_raw(client, name="copy.mp4", camera="yard").json()
    assert [answer["is_new"] for answer in (first, again, renamed)] == [True, False, False]
    assert {answer["recording_id"] for answer in (again, renamed)} == {first["recording_id"]}
    assert files_of(client) == ["gate", "gate/visit.mp4"]
    other = send_raw(client, b"other", name="visit.mp4", camera="gate")
    assert other.status_code == 409 and "with other content exists: choose another name" in other.json()["detail"]
    assert (client.watched_folder / "gate" / "visit.mp4").read_bytes() == CONTENT


def test_a_known_recording_is_found_by_its_whole_content(tmp_path: Path) -> None:
    client = ApiClient(tmp_path)
    content = bytearray(2_000_000)  # so large that its fingerprint covers a part
    file = client.watched_folder / "known.mp4"
    file.write_bytes(content)
    store, state = Store(client.data_folder), file.stat()
    fingerprint = content_fingerprint(file)
    source: dict[str, Any] = {
        "source_path": "known.mp4",
        "recording_id": "known-1",
        "fingerprint": fingerprint,
        "state": "known",
    }
    source |= {"size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "seen_at_utc": header_row()["mtime_utc"]}
    store.replace(SOURCE_FILES, [], sparse_rows(SOURCE_FILES, source))
    header = header_row("known-1") | {"fingerprint": fingerprint, "content_hash": read_content_hash(file)[1]}
    store.replace(RECORDINGS, ["known-1"], sparse_rows(RECORDINGS, header))
    same = send_raw(client, bytes(content), name="other.mp4").json()
    assert (same["recording_id"], same["is_new"]) == ("known-1", False)
    content[100_000] = 1  # between the sampled blocks
    other = send_raw(client, bytes(content), name="other.mp4").json()
    # The pipeline gives it an id that its hash makes longer where the shorter one is taken.
    assert other["is_new"] and other["recording_id"] == f"other-{fingerprint[:8]}"
    assert content_fingerprint(client.watched_folder / "other.mp4") == fingerprint


def test_uploads_that_end_and_begin_at_once_do_not_disturb_each_other(client: ApiClient) -> None:
    def upload_often(_: int) -> None:
        for _ in range(150):
            with PartFile(client.watched_folder, 100):
                pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(upload_often, range(8)))
    assert files_of(client) == []


def test_the_part_files_of_a_killed_server_are_deleted_at_the_next_start(client: ApiClient) -> None:
    folder = client.watched_folder / ".cv-assets-uploads"
    folder.mkdir()
    (folder / "0123.part").write_bytes(b"half")
    with PartFile(client.watched_folder, 100) as live:
        live.write(b"live")
        assert delete_abandoned_parts(client.watched_folder) == 1
        assert list(folder.iterdir()) == [live.path]
        assert list_watched_files(client.settings).files == {}
    assert files_of(client) == []
