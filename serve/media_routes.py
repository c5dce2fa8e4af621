"""The normalized video of a recording, with byte ranges: GET /media/{recording_id}/video."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from resources.errors import RecordingError
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.watched_files import resolve_source_path
from serve.app_state import AppState, State
from serve.problems import PROBLEM_RESPONSES, ProblemError, problem_response

media_router = APIRouter(tags=["media"], responses=PROBLEM_RESPONSES)
_RANGE_SENTENCES = {
    400: "Range: the header is malformed: write bytes=0-999.",
    416: "Range: the video has no such bytes: Content-Range has its length.",
}


@media_router.head("/media/{recording_id}/video", include_in_schema=False)
@media_router.get(
    "/media/{recording_id}/video",
    response_class=FileResponse,
    responses={
        200: {"content": {"video/mp4": {}}},
        206: {"description": "A range."},
        416: {"description": "No such range."},
    },
)
def send_video(recording_id: str, state: State) -> FileResponse:
    """Send the normalized video of a recording: upright, with square pixels, and seekable by byte ranges."""
    return VideoResponse(find_video(state, recording_id), media_type="video/mp4", content_disposition_type="inline")


class VideoResponse(FileResponse):
    """A file in byte ranges, whose refusals are problem documents, too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the range of it."""
        is_refused = False

        async def send_problem_instead(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start" and message["status"] in _RANGE_SENTENCES:
                is_refused = True
                status, headers = message["status"], Headers(raw=message["headers"])
                kept = {"content-range": headers["content-range"]} if "content-range" in headers else {}
                await problem_response(status, _RANGE_SENTENCES[status], kept)(scope, receive, send)
            elif not is_refused:
                await send(message)

        await super().__call__(scope, receive, send_problem_instead)


def find_video(state: AppState, recording_id: str) -> Path:
    """Find the normalized video of a recording: a file of the data folder, or the source file that conforms.

    Raises:
        ProblemError: There is no such recording, it has no video yet or any more, or its path leads out of its folder.
    """
    row = _read_row(state, recording_id)
    if row is None:
        raise ProblemError(404, f"Recording {recording_id!a} does not exist: GET /api/recordings lists all.")
    if row["video_path"] is None:
        raise ProblemError(404, f"Recording {recording_id} has no normalized video: materialize normalized_video.")
    if row["normalized_by"] == "reference":  # the absolute path of the source file
        try:
            file = resolve_source_path(state.settings, row["video_path"]).resolve()
        except RecordingError as error:
            raise ProblemError(404, str(error)) from error
    else:
        file = (state.data_folder / row["video_path"]).resolve()
        if not file.is_relative_to(state.data_folder.resolve()):
            raise ProblemError(
                404, f"The video of {recording_id} is outside the data folder: put the file itself there."
            )
    if not file.is_file():
        raise ProblemError(404, f"The video of {recording_id} is missing: materialize normalized_video again.")
    return file


def _read_row(state: AppState, recording_id: str) -> dict[str, Any] | None:
    """Where the video of a recording is; None if there is no such recording."""
    if not state.store.read(RECORDINGS, [recording_id], ["recording_id"]).num_rows:
        return None
    contents = state.store.read(RECORDING_CONTENTS, [recording_id], ["video_path", "normalized_by"]).to_pylist()
    return contents[0] if contents else {"video_path": None, "normalized_by": None}
