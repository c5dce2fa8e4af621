"""The synopsis of a recording, if one was written: GET /recordings/{recording_id}/synopsis."""

import json

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse

from resources.clips.synopsis_file import synopsis_file
from serve.app_state import AppState, State
from serve.pages.page_state import Pages, find_recording
from serve.pages.page_templates import PageRoute, render
from serve.pages.result_rows import Row
from serve.problems import ProblemError

synopsis_router = APIRouter(prefix="/recordings/{recording_id}", route_class=PageRoute)


@synopsis_router.get("/synopsis")
def show_synopsis(recording_id: str, state: State, pages: Pages) -> HTMLResponse:
    """Show the synopsis; a click on an object opens its moment."""
    row = _find(recording_id, state, pages)
    places = synopsis_file(state.data_folder, recording_id).with_suffix(".json").read_text(encoding="utf-8")
    return render("synopsis.html", row=row, page_data=json.loads(places))


@synopsis_router.head("/synopsis.mp4")
@synopsis_router.get("/synopsis.mp4")
def send_synopsis(recording_id: str, state: State, pages: Pages) -> FileResponse:
    """Send the video of the synopsis, with byte ranges."""
    _find(recording_id, state, pages)
    file = synopsis_file(state.data_folder, recording_id)
    return FileResponse(file, media_type="video/mp4", content_disposition_type="inline")


def has_synopsis(state: AppState, recording_id: str) -> bool:
    """Whether a recording of the results has a synopsis."""
    file = synopsis_file(state.data_folder, recording_id)
    return file.is_file() and file.with_suffix(".json").is_file()


def _find(recording_id: str, state: AppState, pages: Pages) -> Row:
    """Find a recording that has a synopsis.

    Raises:
        ProblemError: There is no such recording, or it has none.
    """
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
    if not has_synopsis(state, recording_id):
        raise ProblemError(
            404, f"Recording {recording_id} has no synopsis: the command cv-assets synopsis {recording_id} writes one."
        )
    return row
