"""What runs and what waits: GET /queue."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from serve.app_state import State
from serve.pages.page_templates import PageRoute, render
from serve.run_progress import RunProgress, UnfinishedRun

queue_router = APIRouter(route_class=PageRoute)
_MAX_RECORDINGS = 30
_MAX_RUNS = 200


@queue_router.get("/queue")
def show_queue(request: Request, state: State) -> HTMLResponse:
    """Show the runs that execute, with the progress of their recordings, and those that wait."""
    runs = state.progress.runs()
    executing = [_describe(run, state.progress) for run in runs if not run.is_queued]
    waiting = [_describe(run, state.progress) for run in runs if run.is_queued]
    template = "queue_runs.html" if "part" in request.query_params else "queue.html"
    return render(
        template,
        executing=executing,
        waiting=waiting[:_MAX_RUNS],
        waiting_count=len(waiting),
        waiting_recordings=sum(run["recording_count"] for run in waiting),
    )


def _describe(run: UnfinishedRun, progress: RunProgress) -> dict[str, Any]:
    """Values of a run for the page; its recordings with progress come first."""
    is_chosen = run.job_name.startswith("__")
    recordings = []
    for recording_id in run.recording_ids:
        report = None if run.is_queued else progress.report_of(recording_id)
        picture = None if report is None else progress.picture_of(recording_id)
        recordings.append(
            {
                "recording_id": recording_id,
                "report": report,
                "picture_number": picture.number if picture else None,
                "share": report.frames_done / report.frames_total if report and report.frames_total else None,
            }
        )
    recordings.sort(key=lambda item: item["report"] is None or item["share"] == 1)
    return {
        # Dagster has a job without a name of ours for assets that a person or a program has chosen.
        "job_name": "materialize" if is_chosen else run.job_name,
        "queue": run.queue,
        "queue_position": run.queue_position,
        "requested_by": run.requested_by.replace("_", " "),
        "created_at_ms": run.created_at_s * 1000,
        "started_at_ms": None if run.started_at_s is None else run.started_at_s * 1000,
        "assets": ", ".join(name.replace("_", " ") for name in run.asset_names) if is_chosen else "",
        "recording_count": len(run.recording_ids),
        "recordings": recordings[:_MAX_RECORDINGS],
    }
