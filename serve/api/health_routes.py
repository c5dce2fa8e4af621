"""Operation: whether the server answers, and the state of the pipeline for Prometheus."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from serve.app_state import State
from serve.metrics import read_metrics
from serve.problems import PROBLEM_RESPONSES

health_router = APIRouter(tags=["operation"], responses=PROBLEM_RESPONSES)
_METRICS_TYPE = "text/plain; version=0.0.4"


@health_router.get("/health")
def read_health(state: State) -> dict[str, Any]:
    """Report whether the server answers, and whether there are results yet. Needs no token."""
    return {"status": "ok", "has_results": state.results.exist}


@health_router.get("/metrics", response_class=PlainTextResponse)
def show_metrics(state: State) -> PlainTextResponse:
    """Report queue length, backlog, frames/s, failures, disk space and load of the devices, for Prometheus."""
    return PlainTextResponse(read_metrics(state), media_type=_METRICS_TYPE)
