"""The guard of the UI, as an ASGI application in front of one that answers every request."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from serve.request_guard import RequestGuard

OURS = {"host": "127.0.0.1:3000"}
JSON = OURS | {"content-type": "application/json"}
PAGE = "text/html,application/xhtml+xml"


async def answer(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Answer a request with status 200, accept a WebSocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"ok"})


def send_request(
    headers: dict[str, str] | list[tuple[str, str]], port: int = 3000, pages: str | None = None, **scope: Any
) -> list[Any]:
    """Send a request through the guard; returns the messages of the answer."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    pairs = headers.items() if isinstance(headers, dict) else headers
    raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
    request = {"type": "http", "path": "/graphql", "headers": raw_headers, **scope}
    asyncio.run(RequestGuard(answer, port, lambda: pages)(request, receive, send))
    return messages


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        pytest.param("POST", "/graphql", JSON, id="a program"),
        pytest.param("POST", "/graphql", JSON | {"content-type": "Application/JSON; charset=utf-8"}, id="charset"),
        pytest.param("POST", "/graphql", JSON | {"origin": "http://127.0.0.1:3000"}, id="our page"),
        pytest.param(
            "POST", "/graphql", JSON | {"host": "LOCALHOST:3000", "origin": "http://localhost:3000"}, id="name"
        ),
        pytest.param("POST", "/report_asset_materialization/a", JSON | {"host": "[::1]:3000"}, id="IPv6"),
        pytest.param("GET", "/", OURS, id="a page"),
        pytest.param("GET", "/runs/1", OURS | {"accept": PAGE}, id="a link on another site"),
        pytest.param("GET", "/graphql", OURS | {"accept": PAGE}, id="GraphiQL"),
    ],
)
def test_requests_of_our_pages_and_of_programs_pass(method: str, path: str, headers: dict[str, str]) -> None:
    start, _ = send_request(headers, method=method, path=path)
    assert start["status"] == 200
    assert (b"x-own", b"1") in start["headers"]
    assert (b"x-frame-options", b"SAMEORIGIN") in start["headers"]  # no page of another site shows the UI in a frame


@pytest.mark.parametrize(
    ("method", "path", "headers", "sentence"),
    [
        pytest.param(
            "GET", "/", {}, "Host (none) is refused: this UI answers only at http://127.0.0.1:3000.", id="none"
        ),
        pytest.param("GET", "/", {"host": "evil.example:3000"}, "Host 'evil.example:3000' is refused", id="other name"),
        pytest.param("GET", "/", {"host": "127.0.0.1:3001"}, "Host '127.0.0.1:3001' is refused", id="other port"),
        pytest.param("GET", "/", {"host": "127.0.0.1"}, "Host '127.0.0.1' is refused", id="no port"),
        pytest.param("GET", "/", {"host": "127.0.0.1:3000.evil.example"}, "Host '127.0.0.1:3000.evil", id="suffix"),
        pytest.param("GET", "/", [*OURS.items(), ("host", "evil.example")], "is refused", id="two hosts"),
        pytest.param(
            "POST",
            "/graphql",
            JSON | {"origin": "http://evil.example"},
            "Origin 'http://evil.example' is refused: only the pages of this UI, and programs that send no Origin",
            id="other origin",
        ),
        pytest.param("POST", "/graphql", JSON | {"origin": "null"}, "Origin 'null' is refused", id="sandboxed frame"),
        pytest.param("POST", "/graphql", JSON | {"origin": "http://127.0.0.1:8000"}, "is refused", id="other program"),
        pytest.param("POST", "/graphql", JSON | {"origin": "https://127.0.0.1:3000"}, "is refused", id="other scheme"),
        pytest.param("GET", "/", OURS | {"origin": "http://\x1b[31mé"}, r"Origin 'http://\x1b[31m\xe9'", id="no ASCII"),
        pytest.param("OPTIONS", "/graphql", OURS | {"origin": "http://evil.example"}, "is refused", id="preflight"),
        pytest.param("POST", "/graphql", OURS, "Content-Type (none) is refused: send application/json.", id="no type"),
        *(
            pytest.param(
                "POST", path, OURS | {"content-type": name}, f"Content-Type {name!r} is refused", id=name + path
            )
            for name in (
                "text/plain",
                "text/plain; x=application/json",  # which Dagster takes for JSON
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "application/graphql",
            )
            for path in ("/graphql", "/report_asset_materialization/a")
        ),
        pytest.param("GET", "/graphql", OURS, "GET /graphql only opens the GraphiQL page", id="GET"),
        pytest.param("GET", "/graphql/", OURS | {"accept": "*/*"}, "send queries by POST", id="GET of a picture"),
        pytest.param("HEAD", "/graphql", OURS, "send queries by POST", id="HEAD"),
    ],
)
def test_requests_that_pages_of_other_sites_can_send_are_refused_in_a_sentence(
    method: str, path: str, headers: dict[str, str], sentence: str
) -> None:
    start, body = send_request(headers, method=method, path=path)
    assert start["status"] == 403
    assert sentence in body["body"].decode("ascii")
    assert body["body"].decode("ascii").count("\n") == 1


@pytest.mark.parametrize(
    ("headers", "answer_type"),
    [
        (OURS, "websocket.accept"),
        (OURS | {"origin": "http://127.0.0.1:3000"}, "websocket.accept"),
        (OURS | {"origin": "http://evil.example"}, "websocket.http.response.start"),
        ({"host": "evil.example:3000"}, "websocket.http.response.start"),
    ],
)
def test_a_websocket_of_another_site_is_refused(headers: dict[str, str], answer_type: str) -> None:
    first_message = send_request(headers, type="websocket")[0]
    assert first_message["type"] == answer_type
    assert first_message.get("status", 403) == 403


def test_browsers_leave_out_the_port_80() -> None:
    for host in ("127.0.0.1", "127.0.0.1:80"):
        headers = {"host": host, "origin": "http://127.0.0.1", "content-type": "application/json"}
        assert send_request(headers, port=80, method="POST")[0]["status"] == 200


def test_the_page_of_a_recording_is_wherever_the_pages_are_served() -> None:
    start, _ = send_request(OURS, pages="http://127.0.0.1:3100", method="GET", path="/recordings/r-1")
    assert (start["status"], dict(start["headers"])[b"location"]) == (307, b"http://127.0.0.1:3100/recordings/r-1")
    start, body = send_request(OURS, method="GET", path="/recordings/r-1")
    assert (start["status"], body["body"]) == (404, b"The pages of recordings are not served: start cv-assets serve.\n")
    start, _ = send_request({"host": "evil.example"}, pages="http://127.0.0.1:3100", method="GET", path="/recordings/r")
    assert start["status"] == 403
