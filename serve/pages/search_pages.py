"""Search for objects over all recordings: GET /search."""

from datetime import datetime

import duckdb
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from serve.app_state import State
from serve.pages.object_gallery import PAGE_SIZE, ObjectFilter, read_objects
from serve.pages.page_templates import PageRoute, render
from serve.pages.result_rows import Row
from serve.pages.similarity import Example, find_embedding_table
from serve.problems import ProblemError

search_router = APIRouter(route_class=PageRoute)


@search_router.get("/search")
def show_search(
    request: Request,
    state: State,
    camera: str = "",
    class_name: str = "",
    place: str = "",
    attribute: str = "",
    start: str = "",
    end: str = "",
    min_s: str = "",
    order: str = "newest",
    like: str = "",
    page: int = 1,
) -> HTMLResponse:
    """Show the objects that fit, each with its best crop."""
    selection = ObjectFilter(
        camera=camera,
        class_name=class_name,
        place=place,
        attribute=attribute.strip(),
        from_utc=_time(start),
        to_utc=_time(end),
        min_duration_s=_seconds(min_s),
    )
    example = Example.parse(like)
    page, order = max(1, page), order if order in ("newest", "time", "longest") else "newest"
    with state.results.cursor() as cursor:
        result = read_objects(cursor, selection, (page - 1) * PAGE_SIZE, order, example)
        has_embeddings = find_embedding_table(cursor) is not None
        choices = _read_choices(cursor)
    template = "search_results.html" if "part" in request.query_params else "search.html"
    return render(
        template,
        result=result,
        choices=choices,
        values={"start": start, "end": end, "min_s": min_s, "attribute": attribute, "like": like},
        selection=selection,
        order=order,
        example=example if has_embeddings else None,
        has_embeddings=has_embeddings,
        page=page,
        page_count=max(1, -(-result.count // PAGE_SIZE)),
    )


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
    return {
        name: [value for (value,) in connection.execute(query).fetchall() if value] for name, query in queries.items()
    }


def _time(text: str) -> str:
    """A time as a date-time field of a form gives it; empty if there is none."""
    if not text:
        return ""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        raise ProblemError(422, f"The time {text[:30]!a} is no date and time: write it as 2026-03-01T08:00.") from None


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        raise ProblemError(422, f"The shortest time {text[:30]!a} is no number of seconds.") from None
