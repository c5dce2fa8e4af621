"""Limits the body of a request, because most handlers read it into memory at once."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from serve.problems import ProblemError, problem_response
from serve.request_guard import header_values

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1_000_000
_SENTENCE = f"body: the request is larger than {MAX_BODY_BYTES // 10**6} MB: send less."


class BodyLimit:
    """An ASGI application that passes requests with a small body on to another.

    Args:
        app: The application.
        unlimited_paths: Paths whose handlers read the body in parts, with a limit of their own.
    """

    def __init__(self, app: "ASGIApp", unlimited_paths: Collection[str]) -> None:
        self._app, self._unlimited_paths = app, frozenset(unlimited_paths)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request that is too large with status 413 and a problem document; pass any other on."""
        if scope["type"] != "http" or scope["path"] in self._unlimited_paths:
            await self._app(scope, receive, send)
            return
        lengths = header_values(scope, b"content-length")
        if any(length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES for length in lengths):
            await problem_response(413, _SENTENCE)(scope, receive, send)
            return
        received_bytes = 0

        async def receive_limited() -> "Message":
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > MAX_BODY_BYTES:
                raise ProblemError(413, _SENTENCE)
            return message

        await self._app(scope, receive_limited, send)
