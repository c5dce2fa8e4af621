"""Errors of the API as problem documents (RFC 9457): one sentence each, with the status of HTTP."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import duckdb
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from resources.errors import PipelineError

_logger = logging.getLogger(__name__)
_MEDIA_TYPE = "application/problem+json"
_MAX_QUOTE_LENGTH = 100


class ProblemError(HTTPException):
    """A request cannot be answered as sent.

    Args:
        status: Status of HTTP.
        detail: One sentence: which thing, what is wrong, what to do.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))


def problem_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Build the response with a problem document."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(document, status, headers=dict(headers or {}), media_type=_MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Have an application answer every error with a problem document."""

    async def answer_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        detail = str(error.detail)
        if not isinstance(error, HTTPException):  # of the router itself, whose text is the bare phrase
            detail = _router_sentence(request, error.status_code)
        return problem_response(error.status_code, detail, error.headers)

    async def answer_known_error(_: Request, error: Exception) -> JSONResponse:
        return problem_response(*describe_error(error))

    async def answer_bug(request: Request, _: Exception) -> JSONResponse:
        sentence = f"{request.method} {request.url.path} failed: the server's log has the reason."
        return problem_response(500, sentence)

    app.add_exception_handler(StarletteHTTPException, answer_http_error)
    for kind in (RequestValidationError, PipelineError, duckdb.Error):
        app.add_exception_handler(kind, answer_known_error)
    app.add_exception_handler(Exception, answer_bug)


def describe_error(error: Exception) -> tuple[int, str]:
    """Status and sentence of an error that handlers raise or leave to the application."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        return 422, _describe_invalid_value(error.errors()[0])
    if isinstance(error, duckdb.Error):  # their files are damaged or gone; a query of ours has no other reason to fail
        _logger.error("the results cannot be read", exc_info=error)
        reason = str(error).strip().splitlines()[0].rstrip(".")
        return 503, f"The results cannot be read: {reason}. Try again; if it remains, run cv-assets repair."
    return 503, str(error)


def _router_sentence(request: Request, status: int) -> str:
    path = ascii(request.url.path[:_MAX_QUOTE_LENGTH])
    if status == HTTPStatus.NOT_FOUND:
        return f"{path} does not exist: /docs lists the paths of the API."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path} has no method {request.method}: /docs lists the methods of each path."
    if status == HTTPStatus.BAD_REQUEST:
        return f"body: that of {request.method} {path} cannot be read: send JSON as /docs describes it."
    return f"{request.method} {path} is refused: {HTTPStatus(status).phrase.lower()}."


def _describe_invalid_value(error: Mapping[str, Any]) -> str:
    """Describe the first invalid value of a request in a sentence."""
    place, *names = [str(part) for part in error["loc"]]
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    is_quotable = isinstance(value, str | int | float) and len(repr(value)) <= _MAX_QUOTE_LENGTH
    quote = f" (value: {value!a})" if is_quotable else ""
    name = ".".join(names)
    return f"{place} {name}: {message}{quote}." if name else f"{place}: {message}{quote}."


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {_MEDIA_TYPE: {}}}
    for status, description in (
        (400, "The request is malformed."),
        (401, "The token is missing or wrong."),
        (403, "Host or Origin is refused."),
        (404, "There is no such thing."),
        (422, "A value is invalid."),
        (503, "The results, or the pipeline, cannot be used now."),
    )
}
"""The errors that every operation can have, for the OpenAPI document."""
