"""Clips of the page of a recording: POST /recordings/{recording_id}/clip answers with the finished MP4 file."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from serve.app_state import State
from serve.clip_runner import ClipQuery
from serve.problems import ProblemError

clip_router = APIRouter(prefix="/recordings/{recording_id}")
Layer = Literal["boxes", "labels", "trails", "zones", "clock"]


@clip_router.post("/clip", response_class=FileResponse)
async def send_clip(
    recording_id: str,
    state: State,
    track: Annotated[int | None, Query(ge=0, lt=1 << 31)] = None,
    from_s: Annotated[float | None, Query(ge=0, lt=1e9, allow_inf_nan=False)] = None,
    to_s: Annotated[float | None, Query(ge=0, lt=1e9, allow_inf_nan=False)] = None,
    draw: Annotated[list[Layer], Query(max_length=5)] = [],  # noqa: B006 - FastAPI copies it
) -> FileResponse:
    """Cut a clip of a track with three seconds before and after it, or of a range, and send it once it is whole."""
    if track is not None and (from_s is not None or to_s is not None):
        raise ProblemError(422, "query track: a clip is of a track or of a range: leave out the other.")
    clip = await state.clips.make(ClipQuery(recording_id, track, from_s, to_s, draw), state.settings)
    return FileResponse(clip.file, media_type="video/mp4", filename=clip.name, background=BackgroundTask(clip.delete))
