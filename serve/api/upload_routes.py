"""Submission of recordings: POST /api/recordings."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from serve.app_state import AppState, State
from serve.callback_sender import check_callback_url
from serve.multipart_upload import MultipartUpload
from serve.problems import PROBLEM_RESPONSES, ProblemError
from serve.upload_names import check_upload_target
from serve.uploads import PartFile, StoredUpload, check_free_space, check_upload_size

upload_router = APIRouter(tags=["recordings"], responses=PROBLEM_RESPONSES)
_IDLE_LIMIT_S = 60.0
_WRITE_BYTES = 1_000_000
_FORM_OVERHEAD_BYTES = 100_000  # of boundaries, headers and fields
_RAW_TYPES = ("", "application/octet-stream")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"},
                        "name": {"type": "string"},
                        "camera": {"type": "string"},
                        "callback_url": {"type": "string"},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@upload_router.post(
    "/api/recordings",
    status_code=202,
    openapi_extra=_BODY,
    responses={
        202: {"description": "The file is in the watched folder: its id, and the URL of its status."},
        409: {"description": "A file with other content has this name."},
        413: {"description": "The file is larger than serve.max_upload_gb."},
        415: {"description": "The name has no extension of a recording, or the body is of another type."},
        507: {"description": "The disk of the watched folder is full."},
    },
)
async def submit_recording(
    request: Request,
    state: State,
    name: Annotated[str, Query(description="Name of the file; of a form by default that of its file.")] = "",
    camera: Annotated[str, Query(description="Camera, which is the folder of the file; empty: none.")] = "",
    callback_url: Annotated[str, Query(description="Address to call once the recording is done or failed.")] = "",
) -> JSONResponse:
    """Submit a recording: the file as the body, or as the field `file` of a form.

    It appears in the watched folder once it is complete. A file whose content is there already is not stored again:
    the answer has the id of its recording.
    """
    values = {"name": name, "camera": camera, "callback_url": callback_url}
    settings = state.settings
    max_bytes = int(settings.serve.max_upload_gb * 1e9)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    if not is_form and kind not in _RAW_TYPES and not kind.startswith("video/"):
        raise ProblemError(
            415, f"Content-Type: {kind[:100]!a} is refused: use multipart/form-data, or application/octet-stream."
        )
    if callback_url:
        check_callback_url(callback_url, settings.serve.callback_hosts)
    if not is_form:
        check_upload_target(settings, name, camera)  # before the first byte
    length = _content_length(request)
    if length is not None:
        check_upload_size(length - (_FORM_OVERHEAD_BYTES if is_form else 0), max_bytes)
    await run_in_threadpool(check_free_space, settings.watched_folder, length or 0)
    with PartFile(settings.watched_folder, max_bytes) as part:
        if is_form:
            form = MultipartUpload(content_type, part.write)
            await _receive(request, form.feed)
            if not form.is_complete or form.file_name is None:
                raise ProblemError(422, "body: the form has no complete file: send it as the field file.")
            values = {key: form.fields.get(key) or value for key, value in values.items()}
            values["name"] = values["name"] or form.file_name
        else:
            await _receive(request, part.write)
        stored = await run_in_threadpool(_store, state, part, values)
    body = _describe(state, stored)
    return JSONResponse(body, 202, headers={"Location": body["status_url"]})


def _store(state: AppState, part: PartFile, values: dict[str, str]) -> StoredUpload:
    settings = state.settings
    target = check_upload_target(settings, values["name"], values["camera"])
    callback_url = values["callback_url"] or None
    if callback_url:
        check_callback_url(callback_url, settings.serve.callback_hosts)
    stored = state.uploads.store_upload(part, target, settings)
    state.submissions.add(stored.recording_id, stored.source_path, callback_url)
    return stored


def _describe(state: AppState, stored: StoredUpload) -> dict[str, Any]:
    return {
        "recording_id": stored.recording_id,
        "source_path": stored.source_path,
        "is_new": stored.is_new,
        "status_url": f"/api/recordings/{stored.recording_id}",
        "preview_url": f"/api/recordings/{stored.recording_id}/preview",
        "page_url": f"/recordings/{stored.recording_id}",
    }


async def _receive(request: Request, consume: Callable[[bytes], None]) -> None:
    """Pass the body on in large parts, in a thread, because disks are slow.

    Raises:
        ProblemError: The client has closed the connection, or sends nothing for a minute.
    """
    buffer = bytearray()
    chunks = request.stream()
    try:
        while True:
            async with asyncio.timeout(_IDLE_LIMIT_S):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            buffer += chunk
            if len(buffer) >= _WRITE_BYTES:
                data, buffer = bytes(buffer), bytearray()
                await run_in_threadpool(consume, data)
    except ClientDisconnect as error:
        raise ProblemError(
            400, "body: the connection was closed before the end of the upload: send it again."
        ) from error
    except TimeoutError as error:
        sentence = f"body: nothing arrived for {_IDLE_LIMIT_S:.0f} s, so the upload was ended: send it again."
        raise ProblemError(408, sentence) from error
    if buffer:
        await run_in_threadpool(consume, bytes(buffer))


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise ProblemError(400, f"Content-Length: {text[:100]!a} is no number of bytes: leave it to the HTTP client.")
    return int(text)
