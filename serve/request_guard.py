"""The guard of the UI: refuses requests that a page of another site sends through a browser on this machine.

The UI has no login, and a browser lets every page send requests to 127.0.0.1. Such a request gives itself away: a
browser sends the page's own address as Origin with each POST and WebSocket, and a page that has pointed its own name at
127.0.0.1 sends that name as Host. A GET has no Origin, so it must not change anything.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
"""The address at which the UI listens."""
HOST_NAMES = (HOST, "localhost", "[::1]")
"""Names of this machine's loopback addresses in URLs."""
_HTTP_PORT = 80  # which browsers leave out
_JSON = "application/json"
RECORDING_PATH = "/recordings/"
"""Path of the pages of recordings, to which assets in Dagster link; the UI has no pages under it."""
_MAX_QUOTE_LENGTH = 100


class RequestGuard:
    """An ASGI application that passes the requests of its own pages, and of programs, on to another.

    Args:
        app: Dagster's web application.
        port: Port of the UI.
        pages_address: Returns the address of the pages of recordings; None while they are not served.
    """

    def __init__(self, app: "ASGIApp", port: int, pages_address: Callable[[], str | None] = lambda: None) -> None:
        self._app, self._pages_address = app, pages_address
        suffixes = (f":{port}", "") if port == _HTTP_PORT else (f":{port}",)
        self._hosts = {f"{name}{suffix}" for name in HOST_NAMES for suffix in suffixes}
        self._address = f"http://{HOST}:{port}"

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a refused request with status 403 and one sentence; pass any other on."""
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "lifespan" and (sentence := self._refusal(scope)):
            await PlainTextResponse(f"{sentence}\n", 403)(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"].startswith(RECORDING_PATH):
            if address := self._pages_address():
                await RedirectResponse(f"{address}{scope['path']}", 307)(scope, receive, send)
            else:
                sentence = "The pages of recordings are not served: start cv-assets serve."
                await PlainTextResponse(f"{sentence}\n", 404)(scope, receive, send)
            return

        async def send_unframed(message: "Message") -> None:
            if message["type"] == "http.response.start":
                # Otherwise another page could show the UI in a transparent frame, and have a person click in it.
                message["headers"] = [*message.get("headers", ()), (b"x-frame-options", b"SAMEORIGIN")]
            await send(message)

        await self._app(scope, receive, send_unframed)

    def _refusal(self, scope: "Scope") -> str | None:
        """The sentence for a request that is refused; None for any other."""
        hosts, origins = header_values(scope, b"host"), header_values(scope, b"origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return f"Host {quote_values(hosts)} is refused: this UI answers only at {self._address}."
        if any(origin.lower() not in {f"http://{host}" for host in self._hosts} for origin in origins):
            return (
                f"Origin {quote_values(origins)} is refused: only the pages of this UI, and programs that send no "
                "Origin, may use it."
            )
        method = scope.get("method")  # a WebSocket has none
        if method == "POST":
            types = header_values(scope, b"content-type")
            if len(types) != 1 or types[0].partition(";")[0].strip().lower() != _JSON:
                return f"Content-Type {quote_values(types)} is refused: send {_JSON}."
        elif method is not None and scope["path"].rstrip("/") == "/graphql":
            accepted = header_values(scope, b"accept")
            if not accepted or "text/html" not in accepted[0]:  # to which Dagster answers with the page
                return f"GET /graphql only opens the GraphiQL page in a browser: send queries by POST, as {_JSON}."
        return None


def header_values(scope: "Scope", name: bytes) -> list[str]:
    """All values of a header of a request."""
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]


def quote_values(values: Sequence[str]) -> str:
    """Quote the values of a header, as ASCII and shortened."""
    return ascii(", ".join(values)[:_MAX_QUOTE_LENGTH]) if values else "(none)"
