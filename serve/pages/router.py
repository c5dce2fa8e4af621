"""The addresses of the pages."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

pages_router = APIRouter(include_in_schema=False)


@pages_router.get("/", response_class=HTMLResponse)
def show_library() -> str:
    """Show the library of all recordings."""
    return "<!doctype html><title>Recordings</title><p><a href=/docs>API</a></p>"
