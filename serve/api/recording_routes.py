"""Recordings of the API: list, state, pictures of the running stage, events, materialize and cancel."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from resources.dagster_instance.dagster_names import PARTITION_NAME_TAG, PRIORITY_TAG
from resources.dagster_instance.run_coordinator import PERSON_PRIORITY
from serve.app_state import AppState, State
from serve.problems import PROBLEM_RESPONSES, ProblemError
from serve.recording_report import RecordingReport, read_report
from serve.row_formats import json_rows, read_batches

recording_router = APIRouter(tags=["recordings"], responses=PROBLEM_RESPONSES)
_EVENT_INTERVAL_S = 1.0
_KEEP_ALIVE_EVENTS = 15  # seconds of silence after which proxies close a connection
_MAX_PRIORITY = 1000
_LIST_SQL = """
SELECT recording_id, camera, source_path, status, error, failed_stage, started_at_utc,
    duration_s_from_content AS duration_s, frame_count
FROM recordings
WHERE ($camera IS NULL OR coalesce(camera, '') = $camera) AND ($status IS NULL OR status = $status)
ORDER BY started_at_utc DESC NULLS LAST, recording_id LIMIT $limit OFFSET $offset
"""


class MaterializeRequest(BaseModel):
    """What to materialize again."""

    model_config = ConfigDict(extra="forbid")
    stages: list[str] = Field(min_length=1, max_length=100, description="Stages, as in the state of the recording.")
    priority: int = Field(
        PERSON_PRIORITY, ge=-_MAX_PRIORITY, le=_MAX_PRIORITY, description="Runs of a higher priority start first."
    )


@recording_router.get("/api/recordings")
def list_recordings(
    state: State,
    camera: Annotated[str | None, Query(description="Only this camera; empty: files directly in the folder.")] = None,
    status: Annotated[str | None, Query(description="Only recordings with this status, such as failed.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> dict[str, Any]:
    """List the recordings, newest first. What is queued or executing is at /api/queue."""
    if not state.results.exist:
        return {"recordings": []}
    values = {"camera": camera, "status": status, "limit": limit, "offset": offset}
    with state.results.cursor() as cursor:
        return {"recordings": json_rows(read_batches(cursor, _LIST_SQL, values))}


@recording_router.get("/api/queue")
def read_queue(state: State) -> dict[str, Any]:
    """List the runs that execute, then those that wait, in their order, with the progress of each recording."""
    reports = state.progress.all_reports()
    return {
        "runs": [
            {
                **{key: value for key, value in vars(run).items() if key != "recording_ids"},
                "recordings": [
                    {
                        "recording_id": recording_id,
                        **(
                            {
                                "asset": report.asset_name,
                                "frames_done": report.frames_done,
                                "frames_total": report.frames_total,
                                "frames_per_s": report.frames_per_s,
                                "remaining_s": report.remaining_s,
                                "waiting_for": report.waiting_for,
                            }
                            if (report := reports.get(recording_id)) and report.run_id == run.run_id
                            else {}
                        ),
                    }
                    for recording_id in run.recording_ids
                ],
            }
            for run in state.progress.runs()
        ]
    }


@recording_router.get("/api/recordings/{recording_id}")
def read_recording(recording_id: str, state: State) -> dict[str, Any]:
    """Read the state of a recording: stage, frames done, frames/s, remaining time, place in the queue, result."""
    return _describe(state, _find(state, recording_id))


@recording_router.get("/api/recordings/{recording_id}/events", response_class=StreamingResponse)
async def follow_recording(recording_id: str, state: State, request: Request) -> StreamingResponse:
    """Follow the state of a recording as server-sent events, until it is done, failed or skipped."""
    await run_in_threadpool(_find, state, recording_id)

    def read() -> tuple[str, bool]:
        report = read_report(state, recording_id)
        return (json.dumps(_describe(state, report)), report.is_final) if report else ("", True)

    return _stream_events(request, "state", read)


@recording_router.get(
    "/api/recordings/{recording_id}/preview",
    response_class=Response,
    responses={
        200: {"description": "The picture.", "content": {"image/jpeg": {}, "text/event-stream": {}}},
        304: {"description": "The picture is that of If-None-Match."},
    },
)
async def show_preview(
    recording_id: str,
    state: State,
    request: Request,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    if_none_match: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Send the newest picture of the running stage as JPEG, or all as they come to a client of server-sent events."""
    report = await run_in_threadpool(_find, state, recording_id)
    if "text/event-stream" in accept:

        def read() -> tuple[str, bool]:
            picture = state.progress.picture_of(report.recording_id)
            current = read_report(state, report.recording_id)
            values = {
                "stage": picture.asset_name,
                "caption": picture.caption,
                "image": f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}",
            } if picture else None  # fmt: skip
            return (json.dumps(values) if values else "", current is None or current.is_final)

        return _stream_events(request, "preview", read)
    picture = await run_in_threadpool(state.progress.picture_of, report.recording_id)
    if picture is None:
        raise ProblemError(404, f"Recording {recording_id} has no picture: stages show one while they run.")
    tag = f'"{hashlib.blake2b(picture.jpeg, digest_size=8).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "X-Stage": picture.asset_name, "X-Caption": picture.caption}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    return Response(picture.jpeg, media_type="image/jpeg", headers=headers)


@recording_router.post("/api/recordings/{recording_id}/materialize", status_code=202)
def materialize(recording_id: str, body: MaterializeRequest, state: State) -> dict[str, Any]:
    """Request a run that materializes some stages of a recording, as the button in Dagster's UI does."""
    report = _find(state, recording_id)
    stages = state.graph.stages
    for name in body.stages:
        if name not in stages:
            raise ProblemError(422, f"body stages: {name[:100]!a} is no stage: use {', '.join(stages)}.")
    if not any(stage.status for stage in report.stages):
        raise ProblemError(
            409, f"Recording {recording_id} has not been probed yet: its first run is requested by itself."
        )
    assets = [asset for name in dict.fromkeys(body.stages) for asset in stages[name]]
    tags = {PARTITION_NAME_TAG: report.recording_id, PRIORITY_TAG: str(body.priority)}
    return {"recording_id": report.recording_id, "run_id": state.dagster.launch_run(assets, tags)}


@recording_router.post("/api/recordings/{recording_id}/cancel", status_code=202)
def cancel(recording_id: str, state: State) -> dict[str, Any]:
    """End the queued and executing runs of a recording.

    What is missing is requested again, as after any interruption.
    """
    report = _find(state, recording_id)
    runs = [run for run in state.progress.runs() if report.recording_id in run.recording_ids]
    if not runs:
        raise ProblemError(409, f"Recording {recording_id} is in no queued or executing run: nothing can be canceled.")
    for run in runs:
        if len(run.recording_ids) > 1:
            others = len(run.recording_ids) - 1
            raise ProblemError(
                409, f"Run {run.run_id} also has {others} other recordings: end it in Dagster's UI if all may stop."
            )
    state.dagster.terminate_runs([run.run_id for run in runs])
    return {"recording_id": report.recording_id, "run_ids": [run.run_id for run in runs]}


def _find(state: AppState, recording_id: str) -> RecordingReport:
    report = read_report(state, recording_id)
    if report is None:
        raise ProblemError(404, f"Recording {recording_id[:200]!a} does not exist: GET /api/recordings lists all.")
    return report


def _describe(state: AppState, report: RecordingReport) -> dict[str, Any]:
    """The report with the addresses of what belongs to it."""
    base, address = f"/api/recordings/{report.recording_id}", state.dagster.address
    has_picture = state.progress.picture_of(report.recording_id) is not None
    links = {
        "preview": f"{base}/preview" if has_picture else None,
        "events": f"{base}/events",
        "summary": f"{base}/tables/summaries",
        "page": f"/recordings/{report.recording_id}",
        "dagster": f"{address}/assets/recordings?view=partitions&partition={report.recording_id}" if address else None,
    }
    return {**report.as_dict(), "links": links}


def _stream_events(request: Request, event: str, read: Callable[[], tuple[str, bool]]) -> StreamingResponse:
    """Stream a value as server-sent events whenever it changes.

    Args:
        request: The request, which ends when the client leaves.
        event: Name of the events.
        read: Returns the value as one line of text, empty while there is none, and whether it is final.
    """

    async def events() -> AsyncIterator[str]:
        last, number, quiet = "", 0, 0
        while not await request.is_disconnected():
            value, is_final = await run_in_threadpool(read)
            if value and value != last:
                last, number, quiet = value, number + 1, 0
                yield f"id: {number}\nevent: {event}\ndata: {value}\n\n"
            if is_final:
                yield "event: end\ndata: {}\n\n"  # else a browser would connect again
                return
            quiet += 1
            if quiet % _KEEP_ALIVE_EVENTS == 0:
                yield ": \n\n"
            await asyncio.sleep(_EVENT_INTERVAL_S)

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)
