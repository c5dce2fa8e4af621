"""Whether the server answers: GET /health."""

from typing import Any

from fastapi import APIRouter

from serve.app_state import State

health_router = APIRouter(tags=["operation"])


@health_router.get("/health")
def read_health(state: State) -> dict[str, Any]:
    """Report whether the server answers, and whether there are results yet."""
    return {"status": "ok", "has_results": state.results.exist}
