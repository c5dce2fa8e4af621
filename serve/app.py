"""The application of `cv-assets serve`: the pages of recordings and the API, on one port.

The server never writes tables or media. It writes into the watched folder (uploads), the settings file and, through
Dagster's API, the run queue.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from resources.config.settings import Settings
from serve.access_control import Access, AccessGuard
from serve.api.health_routes import health_router
from serve.app_state import AppState
from serve.media_routes import media_router
from serve.pages.router import pages_router
from serve.problems import add_problem_handlers

if TYPE_CHECKING:
    from dagster import DagsterInstance

STATIC_FOLDER = Path(__file__).with_name("static")
DEFAULT_PORT = 3100
_DESCRIPTION = "Submit recordings, follow them, and read their results. docs/api.md has examples."


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
    app = FastAPI(
        title="cv-assets", version=version("cv-assets"), description=_DESCRIPTION, docs_url=None, redoc_url=None
    )
    app.state.cv_assets = AppState(settings, instance)
    app.state.access = access or Access.to_address("127.0.0.1", DEFAULT_PORT, None)
    app.add_middleware(AccessGuard, access=app.state.access)
    add_problem_handlers(app)
    for router in (health_router, media_router, pages_router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC_FOLDER), "static")
    return app
