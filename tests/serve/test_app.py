"""The server as its users reach it: guard, login, errors and media."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import commands
from resources.errors import PipelineError
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.storage.delta_store import Store
from sensors.crash_recovery import PAGES_MODULE
from serve import web_server
from serve.access_control import Access
from tests.builders.api_client import ADDRESS, ApiClient
from tests.builders.command_line import write_settings
from tests.builders.table_rows import content_row, sparse_rows, store_recordings

TOKEN = "correct horse battery staple"
VIDEO = bytes(range(250)) * 4


@pytest.fixture
def client(tmp_path: Path) -> ApiClient:
    return ApiClient(tmp_path)


@pytest.fixture
def guarded(tmp_path: Path) -> ApiClient:
    """A client of a server that listens on all addresses, with a token."""
    return ApiClient(tmp_path, Access.to_address("0.0.0.0", 3100, TOKEN, ["video.example.org"]))


def test_health_pages_and_the_page_of_the_api_answer(client: ApiClient) -> None:
    assert client.get("/health").json() == {"status": "ok", "has_results": False}
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert "/static/vendor/swagger-ui/swagger-ui-bundle.js" in client.get("/docs").text
    assert client.get("/static/vendor/swagger-ui/swagger-ui.css").status_code == 200
    assert client.get("/openapi.json").json()["paths"].keys() >= {"/api/recordings", "/api/sql", "/api/tables/{table}"}


def test_the_pages_load_nothing_from_other_hosts(client: ApiClient) -> None:
    for path in ("/docs", "/login", "/"):
        text = client.get(path).text
        assert 'src="http' not in text and 'href="http' not in text and "src=//" not in text


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/nowhere", "/media/%2e%2e%2fx/video", "/static/..%2fapp.py", "/static/%2e%2e/app.py"]
)
def test_an_unknown_path_is_a_problem_document(client: ApiClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 404 and response.json()["detail"].endswith(".")


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"host": "evil.example:3100"}, "Host 'evil.example:3100' is refused"),
        ({"host": "127.0.0.1"}, "Host '127.0.0.1' is refused"),
        ({"origin": "http://evil.example"}, "Origin 'http://evil.example' is refused"),
        ({"origin": "http://127.0.0.1:3000"}, "Origin 'http://127.0.0.1:3000' is refused"),
        ({"origin": "null"}, "Origin 'null' is refused"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_host_or_origin_is_refused(
    client: ApiClient, method: str, headers: dict[str, str], sentence: str
) -> None:
    response = client.request(method, "/api/recordings", headers=headers)
    assert (response.status_code, response.json()["detail"].startswith(sentence)) == (403, True)


def test_an_own_page_is_let_in(client: ApiClient) -> None:
    assert client.get("/api/recordings", headers={"origin": ADDRESS}).status_code == 200
    assert client.get("/api/recordings", headers={"host": "localhost:3100"}).status_code == 200


def test_another_address_than_loopback_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(PipelineError, match=r"need a token: set serve.token in the settings, or serve on 127\.0"):
            Access.to_address(host, 3100, None)
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.5"):
        assert Access.to_address(host, 3100, None).token is None
    with pytest.raises(PipelineError, match="too short"):
        Access.to_address("0.0.0.0", 3100, "short")


def test_the_command_refuses_another_address_without_a_token(tmp_path: Path) -> None:
    for options in (["--host", "0.0.0.0"], ["--host", "no.such.host.example"]):
        result = CliRunner().invoke(commands, ["serve", "--settings", str(write_settings(tmp_path)), *options])
        assert result.exit_code == 2 and "lets other machines in, which need a token" in result.stderr, result.output
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        settings_file = write_settings(tmp_path, serve={"token": {"env": "NO_SUCH_TOKEN"}})
        result = CliRunner().invoke(commands, ["serve", "--settings", str(settings_file), "--port", port])
        assert "serve.token: the environment variable NO_SUCH_TOKEN is not set" in result.stderr
        result = CliRunner().invoke(commands, ["serve", "--settings", str(write_settings(tmp_path)), "--port", port])
        assert f"Port {port} of 127.0.0.1 is not available for the pages" in result.stderr


def test_programs_send_the_token(guarded: ApiClient) -> None:
    refusal = guarded.get("/api/recordings")
    assert (refusal.status_code, refusal.headers["www-authenticate"]) == (401, "Bearer")
    assert refusal.json()["detail"].startswith("The token is missing or wrong: send the header Authorization")
    for value in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "Bearer ü"):
        assert guarded.get("/api/recordings", headers=[(b"authorization", value.encode())]).status_code == 401
    assert guarded.get("/api/recordings", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guarded.get("/health").status_code == 200
    assert guarded.get("/metrics").status_code == 401


def test_people_log_in(guarded: ApiClient) -> None:
    page = guarded.get("/", headers={"accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    response = guarded.post("/login", data={"token": TOKEN}, follow_redirects=False)
    cookie = response.headers["set-cookie"].lower()
    assert response.status_code == 303 and "httponly" in cookie and "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/api/recordings").status_code == 200
    guarded.post("/logout", follow_redirects=False)
    assert guarded.get("/api/recordings").status_code == 401
    assert guarded.get("/api/recordings", headers={"cookie": "cv_assets_session=x"}).status_code == 401


def test_a_wrong_token_gets_no_cookie(guarded: ApiClient) -> None:
    response = guarded.post("/login", data={"token": "wrong"})
    assert response.status_code == 401 and "The token is wrong." in response.text
    assert "set-cookie" not in response.headers


def test_a_name_of_the_settings_is_let_in(guarded: ApiClient) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "host": "video.example.org", "origin": "https://video.example.org"}
    assert guarded.get("/api/recordings", headers=headers).status_code == 200
    assert guarded.get("/api/recordings", headers=headers | {"host": "evil.example"}).status_code == 403


@pytest.fixture
def video_url(client: ApiClient) -> str:
    """The path of the video of a recording, whose file has 1,000 bytes."""
    store = Store(client.data_folder)
    store_recordings(store, {"recording_id": "r", "video_path": "media/r/normalized.mp4", "normalized_by": "encode"})
    file = client.data_folder / "media" / "r" / "normalized.mp4"
    file.parent.mkdir(parents=True)
    file.write_bytes(VIDEO)
    return "/media/r/video"


def test_a_video_is_sent_in_ranges(client: ApiClient, video_url: str) -> None:
    whole = client.get(video_url)
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, VIDEO, "bytes")
    assert whole.headers["content-type"] == "video/mp4"
    head = client.head(video_url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "1000")
    part = client.get(video_url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, VIDEO[10:20])
    assert part.headers["content-range"] == "bytes 10-19/1000"
    suffix = client.get(video_url, headers={"range": "bytes=-7"})
    assert (suffix.status_code, suffix.content) == (206, VIDEO[-7:])
    assert client.get(video_url, headers={"range": "bytes=995-"}).content == VIDEO[995:]
    beyond = client.get(video_url, headers={"range": "bytes=2000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */1000")
    assert client.get(video_url, headers={"range": "bytes=0-1", "if-range": '"other"'}).status_code == 200


def test_the_path_of_a_video_cannot_leave_its_folder(client: ApiClient, video_url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = client.data_folder / "media" / "link.mp4"
    link.symlink_to(secret)
    store = Store(client.data_folder)
    for path, kind in (
        ("../secret.txt", "encode"),
        (str(secret), "encode"),
        ("media/link.mp4", "encode"),
        (str(secret), "reference"),
        ("media/r/absent.mp4", "encode"),
        (None, "encode"),
    ):
        row = content_row("r") | {"video_path": path, "normalized_by": kind}
        store.replace(RECORDING_CONTENTS, ["r"], sparse_rows(RECORDING_CONTENTS, row))
        response = client.get(video_url)
        assert response.status_code == 404 and b"secret\n" not in response.content, path
        assert response.json()["detail"].endswith("."), path
    assert client.get("/media/other/video").json()["detail"].startswith("Recording 'other' does not exist")


def test_a_referenced_source_is_sent(client: ApiClient, video_url: str) -> None:
    source = client.watched_folder / "gate.mp4"
    source.write_bytes(b"source")
    row = content_row("r") | {"video_path": str(source), "normalized_by": "reference"}
    Store(client.data_folder).replace(RECORDING_CONTENTS, ["r"], sparse_rows(RECORDING_CONTENTS, row))
    assert client.get(video_url).content == b"source"


def test_the_module_of_the_pages_has_the_name_by_which_orphans_are_found() -> None:
    assert web_server.__name__ == PAGES_MODULE
