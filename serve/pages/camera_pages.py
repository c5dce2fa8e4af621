"""Cameras, over days, and questions at drawn zones and lines: GET /cameras, GET /cameras/{camera}."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from resources.config.settings_file import find_settings_file
from resources.config.shape_writer import add_shapes
from resources.errors import PipelineError
from serve.app_state import State
from serve.pages.camera_rows import DAYS, last_day_ms, read_camera_days, read_cameras
from serve.pages.page_state import Pages, find_camera, find_recording, relative_shapes
from serve.pages.page_templates import PageRoute, render, render_first_steps
from serve.pages.result_rows import json_response
from serve.pages.shape_questions import MAX_RECORDINGS, DrawnShapes, count_at_shapes, drawn_camera
from serve.problems import ProblemError

camera_router = APIRouter(route_class=PageRoute)
_DAY_MS = 86_400_000
_FIRST_YEAR, _LAST_YEAR = 1971, 2199
_NO_NAME = "Recordings without a camera have no section in the settings: put them into a folder of their own."


@camera_router.get("/cameras")
def show_cameras(state: State, pages: Pages) -> HTMLResponse:
    """Show all cameras with their health."""
    if not state.results.exist:
        return render_first_steps(state.settings.watched_folders, "cameras")
    with state.results.cursor() as cursor:
        return render("cameras.html", cameras=read_cameras(cursor))


@camera_router.get("/cameras/{name}")
def show_camera(name: str, state: State, pages: Pages, end: str = "") -> HTMLResponse:
    """Show a camera over two weeks: counts by hour, gaps between recordings, and states."""
    with state.results.cursor() as cursor:
        library = pages.read_library(cursor)
        camera = find_camera(library, name)
        summary = next(row for row in read_cameras(cursor) if row["camera"] == camera)
        end_ms = _day_ms(end) if end else last_day_ms(cursor, camera)
        days = read_camera_days(cursor, camera, end_ms - (DAYS - 1) * _DAY_MS) if end_ms is not None else None
    newest = summary["newest_recording_id"]
    row = find_recording(library, newest) if newest else None
    size_px = (row["width_px"], row["height_px"]) if row else (1, 1)
    page_data = {
        "camera": camera,
        "name": name,
        "days": days,
        "recording_id": newest,
        "width_px": size_px[0],
        "height_px": size_px[1],
        "shapes": relative_shapes(state.settings, camera, size_px) if row else [],
    }
    return render("camera.html", name=name, camera=summary, page_data=page_data, day_ms=_DAY_MS, day_count=DAYS)


@camera_router.post("/recordings/{recording_id}/question")
def answer_recording_question(recording_id: str, shapes: DrawnShapes, state: State, pages: Pages) -> Response:
    """Count at drawn zones and lines over the stored tracks of a recording."""
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
        return json_response(count_at_shapes(cursor, [recording_id], _drawn(state, row["camera"], shapes)))


@camera_router.post("/cameras/{name}/question")
def answer_camera_question(name: str, shapes: DrawnShapes, state: State, pages: Pages) -> Response:
    """Count at drawn zones and lines over the stored tracks of a camera's newest recordings."""
    with state.results.cursor() as cursor:
        library = pages.read_library(cursor)
        camera = find_camera(library, name)
        ids = [row["recording_id"] for row in library.rows if row["camera"] == camera][:MAX_RECORDINGS]
        return json_response(count_at_shapes(cursor, ids, _drawn(state, camera, shapes)))


@camera_router.post("/cameras/{name}/shapes")
def save_shapes(name: str, shapes: DrawnShapes, state: State, pages: Pages) -> Response:
    """Write drawn zones and lines into the settings file, and keep the old file."""
    with state.results.cursor() as cursor:
        library = pages.read_library(cursor)
    camera = find_camera(library, name)
    if camera is None:
        raise ProblemError(422, _NO_NAME)
    drawn = _drawn(state, camera, shapes)
    size_px = next(((row["width_px"], row["height_px"]) for row in library.rows
                    if row["camera"] == camera and row["width_px"]), (1, 1))  # fmt: skip
    scale = size_px if state.settings.camera(camera).units == "px" else (1, 1)
    decimals = 1 if scale != (1, 1) else 4

    def values(points: tuple[tuple[float, float], ...]) -> list[list[float]]:
        return [[round(x * scale[0], decimals), round(y * scale[1], decimals)] for x, y in points]

    file = find_settings_file()
    try:
        sections: dict[str, list[dict[str, Any]]] = {
            "zones": [{"name": zone.name, "points": values(zone.points)} for zone in drawn.zones],
            "lines": [{"name": line.name, "points": values(line.points)} for line in drawn.lines],
        }
        old_file = add_shapes(file, camera, sections)
    except PipelineError as error:
        raise ProblemError(422, str(error)) from error
    kept = f" The old file is {old_file.name}." if old_file else ""
    return json_response({"message": f"Written to {file.name}.{kept} The next run of the pipeline counts with it."})


def _drawn(state: State, camera: str | None, shapes: DrawnShapes) -> Any:
    try:
        return drawn_camera(shapes, state.settings.camera(camera))
    except PipelineError as error:
        raise ProblemError(422, str(error)) from error


def _day_ms(text: str) -> int:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ProblemError(422, f"The day {text[:20]!a} is no date: write it as 2026-03-01.") from None
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise ProblemError(422, f"The day {text[:20]!a} is not between {_FIRST_YEAR} and {_LAST_YEAR}.")
    return int(day.timestamp() * 1000)
