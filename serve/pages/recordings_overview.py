"""The library of all recordings: GET /."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from serve.app_state import State
from serve.media_routes import find_video
from serve.pages.page_state import Pages
from serve.pages.page_templates import PageRoute, render, render_first_steps
from serve.pages.posters import read_poster
from serve.pages.recording_library import PAGE_SIZE, LibraryFilter, month_weeks, neighbouring_months
from serve.problems import ProblemError

library_router = APIRouter(route_class=PageRoute)
_POSTER_AGE_S = 86_400


@library_router.get("/")
def show_library(
    request: Request,
    state: State,
    pages: Pages,
    camera: str = "",
    status: str = "",
    day: str = "",
    text: str = "",
    month: str = "",
    page: int = 1,
) -> HTMLResponse:
    """Show the recordings that fit the filters, newest first, and a calendar."""
    template = "library_results.html" if "part" in request.query_params else "library.html"
    if not state.results.exist:
        return render_first_steps(state.settings.watched_folders, "library")
    selection = LibraryFilter(camera, status, day, text.strip())
    with state.results.cursor() as cursor:
        library = pages.read_library(cursor)
    page = max(1, page)
    rows, count = library.page(selection, page)
    page_count = max(1, -(-count // PAGE_SIZE))
    if page > page_count:  # of an old address
        page = page_count
        rows, _ = library.page(selection, page)
    days = library.days(selection)
    if not _is_month(month):
        month = day[:7] if _is_month(day[:7]) else max(days, default=f"{datetime.now(UTC):%Y-%m}")[:7]
    before, after = neighbouring_months(days, month)
    return render(
        template,
        selection=selection,
        choices=library.choices(),
        rows=rows,
        count=count,
        total=len(library.rows),
        page=page,
        page_count=page_count,
        weeks=month_weeks(days, month),
        month=month,
        month_before=before,
        month_after=after,
    )


@library_router.get("/recordings/{recording_id}/poster")
def send_poster(recording_id: str, state: State) -> Response:
    """Send a small picture of a recording."""
    jpeg = read_poster(find_video(state, recording_id))
    if jpeg is None:
        raise ProblemError(404, f"The video of {recording_id} has no frame that decodes.")
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={_POSTER_AGE_S}"})


def _is_month(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m")
    except ValueError:
        return False
    return len(text) == len("2026-01")
