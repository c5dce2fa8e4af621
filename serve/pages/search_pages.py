"""Search for objects over all recordings: GET /search."""

import math
from datetime import UTC, datetime
from typing import Annotated

import duckdb
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from resources.crop_search import embedding_model, parse_attribute, vote_tables
from resources.errors import PipelineError
from resources.schema.crop_tables import TRACK_CLASSES
from resources.votes import UNSURE
from serve.app_state import State
from serve.pages.object_gallery import PAGE_SIZE, ObjectFilter, ObjectPage, read_objects
from serve.pages.page_state import Pages
from serve.pages.page_templates import PageRoute, render, render_first_steps
from serve.pages.picture_examples import MAX_PICTURE_BYTES
from serve.pages.result_rows import Row, json_response
from serve.pages.similarity import MAX_SIMILAR, find_table, read_example, read_similar_objects
from serve.problems import ProblemError

search_router = APIRouter(route_class=PageRoute)


@search_router.get("/search")
def show_search(
    request: Request,
    state: State,
    pages: Pages,
    camera: str = "",
    class_name: str = "",
    place: str = "",
    attribute: str = "",
    start: str = "",
    end: str = "",
    min_s: str = "",
    order: str = "newest",
    like: str = "",
    page: Annotated[int, Query(le=1_000_000)] = 1,
) -> HTMLResponse:
    """Show the objects that fit, each with its best crop; with an example the most similar first."""
    if not state.results.exist:
        return render_first_steps(state.settings.watched_folders, "search")
    selection = ObjectFilter(
        camera=camera,
        class_name=class_name,
        place=place,
        attribute=attribute.strip(),
        from_utc=_time(start),
        to_utc=_time(end),
        min_duration_s=_seconds(min_s),
    )
    page, order = max(1, page), order if order in ("newest", "time", "longest") else "newest"
    with state.results.cursor() as cursor:
        example = read_example(cursor, state.settings, like, pages.pictures) if like else None

        def read(number: int) -> ObjectPage:
            offset = (number - 1) * PAGE_SIZE
            if example:
                return read_similar_objects(cursor, state.settings, selection, offset, example)
            return read_objects(cursor, selection, offset, order)

        result = read(page)
        page_count = max(1, -(-result.count // PAGE_SIZE))
        if page > page_count:  # of an old address
            page, result = page_count, read(page_count)
        has_embeddings = find_table(cursor, state.settings) is not None
        choices = _read_choices(cursor)
    template = "search_results.html" if "part" in request.query_params else "search.html"
    return render(
        template,
        result=result,
        choices=choices,
        values={"start": start, "end": end, "min_s": min_s, "attribute": attribute, "like": like},
        selection=selection,
        order=order,
        attribute_names={name: attribute_name(name) for name in choices["attributes"]},
        example=example,
        max_similar=MAX_SIMILAR,
        has_embeddings=has_embeddings,
        page=page,
        page_count=page_count,
    )


@search_router.post("/search/picture")
async def add_picture(request: Request, state: State, pages: Pages) -> Response:
    """Compute the embedding of a picture, the body of the request; answers with its name for the parameter like."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/"):
        raise ProblemError(415, f"Content-Type: {kind[:100]!a} is refused: send a picture as image/jpeg or image/png.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_PICTURE_BYTES:
            limit = MAX_PICTURE_BYTES // 10**6
            raise ProblemError(413, f"The picture is larger than {limit} MB: cut out the object, or make it smaller.")
    try:
        model = embedding_model(state.settings)
    except PipelineError as error:
        raise ProblemError(422, str(error)) from error
    return json_response({"like": await run_in_threadpool(pages.pictures.add, bytes(content), model)})


def _read_choices(connection: duckdb.DuckDBPyConnection) -> Row:
    """Read the cameras, classes, zones, lines and attributes that occur."""
    queries = {
        "cameras": "SELECT DISTINCT coalesce(camera, '-') FROM recordings ORDER BY 1",
        "classes": "SELECT DISTINCT class_name FROM class_presence ORDER BY 1",
        "places": """
            SELECT DISTINCT unnest([zone_name, line_name]) AS place
            FROM (SELECT DISTINCT zone_name, line_name FROM zone_events)
            ORDER BY 1""",
        "attributes": """
            SELECT DISTINCT unnest([value, attribute]) AS value FROM v_corrections
            WHERE action = 'attribute' AND state = 'applied' ORDER BY 1""",
    }
    choices: Row = {
        name: [value for (value,) in connection.execute(query).fetchall() if value] for name, query in queries.items()
    }
    for table in vote_tables(connection):
        model = table.removesuffix(f"_{TRACK_CLASSES.name}")
        query = f"SELECT DISTINCT part, class_name FROM {table} WHERE class_name <> '{UNSURE}' ORDER BY ALL"
        choices["attributes"] += [
            f"{model}{'.' + part if part else ''}={class_name}"
            for part, class_name in connection.execute(query).fetchall()
        ]
    return choices


def attribute_name(attribute: str) -> str:
    """How a filter shows an attribute: the vote colour.upper=red as "colour, upper: red"."""
    vote = parse_attribute(attribute)
    if vote is None:
        return attribute
    model, part, class_name = vote
    return f"{model}{f', {part}' if part else ''}: {class_name}"


def _time(text: str) -> str:
    """A time as a date-time field of a form gives it; empty if there is none."""
    if not text:
        return ""
    try:
        time = datetime.fromisoformat(text)
        # A form gives none, an address may have one.
        return (time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time).isoformat(" ", "seconds")
    except (ValueError, OverflowError):
        raise ProblemError(422, f"The time {text[:30]!a} is no date and time: write it as 2026-03-01T08:00.") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ProblemError(422, f"The shortest time {text[:30]!a} is no number of seconds.")
    return max(0.0, seconds)
