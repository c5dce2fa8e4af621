"""The application of `cv-assets serve`: the pages of recordings and the API, on one port.

The server never writes tables or media. It writes into the watched folder (uploads), the settings file and, through
Dagster's API, the run queue.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from resources.config.settings import Settings
from serve.access_control import Access, AccessGuard
from serve.api.docs_routes import docs_router
from serve.api.health_routes import health_router
from serve.api.login_routes import login_router
from serve.api.recording_routes import recording_router
from serve.api.sql_routes import sql_router
from serve.api.table_routes import table_router
from serve.api.upload_routes import upload_router
from serve.app_state import AppState
from serve.body_limit import BodyLimit
from serve.callback_sender import CallbackSender
from serve.media_routes import media_router
from serve.pages.router import pages_router
from serve.problems import add_problem_handlers
from serve.uploads import delete_abandoned_parts

if TYPE_CHECKING:
    from dagster import DagsterInstance

STATIC_FOLDER = Path(__file__).with_name("static")
DEFAULT_PORT = 3100
_MAX_THREADS = 8
_DESCRIPTION = "Submit recordings, follow them, and read their results. docs/api.md has examples."


@asynccontextmanager
async def _work_beside_requests(state: AppState) -> AsyncIterator[None]:
    """Send callbacks while the server runs, after deleting the part files of uploads that a kill has cut off."""
    # Each thread keeps its tables open, so few threads mean little memory.
    to_thread.current_default_thread_limiter().total_tokens = _MAX_THREADS
    delete_abandoned_parts(state.settings.watched_folder)
    callbacks = CallbackSender(state)
    callbacks.start()
    try:
        yield
    finally:
        await to_thread.run_sync(callbacks.stop)


def build_app(
    settings: Settings, access: Access | None = None, *, instance: "DagsterInstance | None" = None
) -> FastAPI:
    """Build the application.

    Args:
        settings: The settings.
        access: Who may use it; None means programs and pages of this machine, on the default port.
        instance: Dagster's instance; None means that of DAGSTER_HOME, opened with the first use.

    Returns:
        The application; its handlers get the state as a parameter of the type `serve.app_state.State`.
    """
    state = AppState(settings, instance)
    app = FastAPI(
        title="cv-assets",
        version=version("cv-assets"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: _work_beside_requests(state),
    )
    app.state.cv_assets = state
    app.state.access = access or Access.to_address("127.0.0.1", DEFAULT_PORT, None)
    app.add_middleware(BodyLimit, unlimited_paths=("/api/recordings", "/search/picture"))
    app.add_middleware(AccessGuard, access=app.state.access)
    add_problem_handlers(app)
    for router in (upload_router, recording_router, table_router, sql_router, media_router, health_router):
        app.include_router(router)
    for router in (docs_router, login_router, pages_router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC_FOLDER), "static")
    return app
