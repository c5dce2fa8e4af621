"""Renders the pages from their templates, and shows the errors of pages as a page with one sentence."""

import functools
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from resources.errors import PipelineError
from serve.pages.result_rows import script_json
from serve.problems import ProblemError, describe_error

_FOLDER = Path(__file__).parents[1] / "templates"


def render(template: str, status: int = 200, **values: object) -> HTMLResponse:
    """Render a template.

    Args:
        template: File name of the template.
        status: Status of the answer.
        values: Values by name in the template.
    """
    page = _environment().get_template(template).render(values)
    return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})


def render_first_steps(watched_folders: Iterable[Path], here: str) -> HTMLResponse:
    """Render the page of a data folder without results.

    Args:
        watched_folders: Folders into which recordings are put.
        here: The page that the navigation shows as the present one.
    """
    folders = ", ".join(map(str, watched_folders))
    sentence = f"Put video files into {folders}. They appear here once the pipeline has processed the first of them."
    return render("message.html", title="No recordings yet", sentence=sentence, here=here, link=("/queue", "Queue"))


class PageRoute(APIRoute):
    """A route whose errors are shown as a page to a browser; programs get a problem document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler of the route."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                return await handle(request)
            except (ProblemError, PipelineError, RequestValidationError, duckdb.Error) as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                status, sentence = describe_error(error)
                return render("message.html", status, title="Not available", sentence=sentence)

        return handle_page


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": format_clock_ms,
        "clock_utc": lambda time_ms: "–" if time_ms is None else f"{format_clock_ms(time_ms)} UTC",
        "month_name": lambda month: datetime.strptime(month, "%Y-%m").strftime("%B %Y"),
        "duration": format_duration,
        "address": lambda text: quote(str(text), safe=""),
        "script_json": script_json,
        "megabytes": lambda size_bytes: f"{size_bytes / 1e6:,.1f} MB",
        "percent": lambda share: f"{share * 100:.1f} %",
    }
    return environment


def format_clock_ms(time_ms: float | None) -> str:
    """A time of the wall clock, UTC; a dash if it is unknown."""
    return "–" if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def format_duration(seconds: float | None) -> str:
    """A length of time as h:mm:ss or m:ss; a dash if it is unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes}" if whole >= 3600 else minutes
