"""The addresses of the pages."""

from fastapi import APIRouter

from serve.pages.camera_pages import camera_router
from serve.pages.clip_pages import clip_router
from serve.pages.queue_pages import queue_router
from serve.pages.recording_pages import recording_router
from serve.pages.recordings_overview import library_router
from serve.pages.search_pages import search_router
from serve.pages.synopsis_pages import synopsis_router

pages_router = APIRouter(include_in_schema=False)
for _router in (
    library_router,
    camera_router,
    search_router,
    queue_router,
    recording_router,
    synopsis_router,
    clip_router,
):
    pages_router.include_router(_router)
