"""The page of a recording and the data that it loads: GET /recordings/{recording_id}."""

import math
from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from resources.dagster_instance.server_addresses import DAGSTER_UI, read_address
from resources.errors import PipelineError
from serve.app_state import AppState, State
from serve.media_routes import find_video
from serve.pages.count_tables import (
    INTERVALS_MIN,
    read_heatmap,
    read_interval_counts,
    read_line_pairs,
    write_csv,
    write_xlsx,
)
from serve.pages.frame_times import read_frame_times
from serve.pages.object_gallery import PAGE_SIZE, ObjectFilter, read_objects
from serve.pages.page_state import Pages, PageState, find_recording, relative_shapes, snapshot_name
from serve.pages.page_templates import PageRoute, render
from serve.pages.provenance import read_provenance
from serve.pages.result_rows import json_response
from serve.pages.shape_chunks import has_shapes, pack_shapes
from serve.pages.similarity import find_table
from serve.pages.synopsis_pages import has_synopsis
from serve.pages.timeline_lanes import read_timeline, read_tracks
from serve.problems import ProblemError
from serve.recording_report import read_report

recording_router = APIRouter(prefix="/recordings/{recording_id}", route_class=PageRoute)
_COUNT_COLUMNS = ("interval_start_s", "interval_start_utc", "name", "event", "class_name", "count")
_PAIR_COLUMNS = ("origin_line", "destination_line", "class_name", "track_count", "median_travel_s")
_EVENT_COLUMNS = (
    *("time_s", "event", "name", "class_name", "track_id", "frame_index", "dwell_s", "speed_km_h"),
    "is_at_track_end",
)
_BINARY = "application/octet-stream"
_FINAL_STATUSES = ("failed", "rejected", "quarantined")
_FORMAT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
Frame = Annotated[int, Query(ge=0, lt=1 << 31)]
Seconds = Annotated[float, Query(allow_inf_nan=False)]


@recording_router.get("", response_class=HTMLResponse)
def show_recording(recording_id: str, state: State, pages: Pages) -> Response:
    """Show a recording: its video with what was found in it, its timeline, objects, events and counts.

    Before its first results are published, the page follows its progress.
    """
    if progress_page := _show_progress(recording_id, state, pages):
        return progress_page
    with state.results.cursor() as cursor:
        library = pages.read_library(cursor)
        row = find_recording(library, recording_id)
        provenance = read_provenance(cursor, recording_id)
        has_embeddings = find_table(cursor, state.settings) is not None
    of_camera = sorted(
        (other for other in library.rows if other["camera"] == row["camera"] and other["started_at_utc"] is not None),
        key=lambda other: (other["started_at_utc"], other["recording_id"]),
    )
    position = next((index for index, other in enumerate(of_camera) if other is row), None)
    size_px = (row["width_px"] or 1, row["height_px"] or 1)
    page_data = {
        "recording_id": recording_id,
        "camera": row["camera"],
        "duration_s": row["duration_s"] or 0,
        "width_px": size_px[0],
        "height_px": size_px[1],
        "shapes": relative_shapes(state.settings, row["camera"], size_px),
        "has_embeddings": has_embeddings,
    }
    return render(
        "recording.html",
        row=row,
        is_complete=row["track_count"] is not None or row["status"] in _FINAL_STATUSES,
        page_data=page_data,
        provenance=provenance,
        dagster_address=read_address(state.data_folder, DAGSTER_UI),
        intervals=INTERVALS_MIN,
        has_synopsis=has_synopsis(state, recording_id),
        previous=of_camera[position - 1] if position else None,
        next=of_camera[position + 1] if position is not None and position + 1 < len(of_camera) else None,
    )


def _show_progress(recording_id: str, state: AppState, pages: PageState) -> Response | None:
    """The page of a recording that is submitted but has no results yet; None for any other."""

    def has_results(name: str) -> bool:
        if not state.results.exist:
            return False
        with state.results.cursor() as cursor:
            return pages.read_library(cursor).find(name) is not None

    if has_results(recording_id):
        return None
    try:
        report = read_report(state, recording_id)
    except PipelineError:  # without a pipeline nothing is in progress
        return None
    if report is None:
        return None
    if has_results(report.recording_id):  # under the id that the pipeline has given to an upload
        return RedirectResponse(f"/recordings/{quote(report.recording_id, safe='')}", 307)
    name = (report.source_path or recording_id).rpartition("/")[2]
    return render("recording_progress.html", recording_id=report.recording_id, name=name, camera=report.camera)


@recording_router.get("/times")
def send_frame_times(recording_id: str, state: State) -> Response:
    """Send the PTS of all frames, and then their times on the source's clock, as 64-bit floats."""
    pts_s = read_frame_times(find_video(state, recording_id))
    with state.results.cursor() as cursor:
        query = "SELECT time_s FROM frames WHERE recording_id = ? ORDER BY frame_index"
        time_s = cursor.execute(query, [recording_id]).fetchnumpy()["time_s"]
    # A table of another length belongs to a video that is being replaced: the frames that both have can be shown.
    count = min(len(pts_s), len(time_s))
    if not count:
        raise ProblemError(404, f"Recording {recording_id} has no frames: materialize normalized_video again.")
    times = np.concatenate([pts_s[:count], np.asarray(time_s[:count], np.float64)])
    return Response(times.astype("<f8").tobytes(), media_type=_BINARY, headers={"Cache-Control": "no-store"})


@recording_router.get("/index")
def send_chunk_index(recording_id: str, state: State, pages: Pages) -> Response:
    """Send the classes of a recording and the frames at which the chunks of its boxes begin."""
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
        size_px = (row["width_px"] or 1, row["height_px"] or 1)
        index = pages.boxes.index(cursor, snapshot_name(cursor), recording_id, size_px)
        return json_response(
            {
                "classes": index.classes,
                "first_frames": index.first_frames,
                "has_shapes": has_shapes(cursor, recording_id),
            }
        )


@recording_router.get("/boxes")
def send_boxes(recording_id: str, first: Frame, end: Frame, state: State, pages: Pages) -> Response:
    """Send the boxes of some frames as a binary chunk."""
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
        snapshot = snapshot_name(cursor)
        index = pages.boxes.index(cursor, snapshot, recording_id, (row["width_px"] or 1, row["height_px"] or 1))
        content = pages.boxes.chunk(cursor, snapshot, recording_id, index, first, end)
    return Response(content, media_type=_BINARY, headers={"Cache-Control": "no-store"})


@recording_router.get("/shapes")
def send_shapes(recording_id: str, first: Frame, end: Frame, state: State, pages: Pages) -> Response:
    """Send the masks, oriented boxes and keypoints of some frames as a binary chunk."""
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
        size_px = (row["width_px"] or 1, row["height_px"] or 1)
        index = pages.boxes.index(cursor, snapshot_name(cursor), recording_id, size_px)
        content = pack_shapes(cursor, recording_id, index.classes, size_px, (first, end))
    return Response(content, media_type=_BINARY, headers={"Cache-Control": "no-store"})


@recording_router.get("/timeline")
def send_timeline(recording_id: str, state: State, pages: Pages) -> Response:
    """Send the lanes, events and marks of the timeline, and all tracks."""
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
        timeline = read_timeline(cursor, recording_id, row["duration_s"] or 0)
        return json_response(timeline | {"tracks": read_tracks(cursor, recording_id)})


@recording_router.get("/objects")
def send_objects(
    recording_id: str,
    state: State,
    pages: Pages,
    class_name: str = "",
    offset: Frame = 0,
    from_s: Seconds = 0,
    to_s: Seconds = math.inf,
    doubtful: bool = False,
) -> Response:
    """Send a page of the objects of a recording in order of time, with their best crops."""
    selection = ObjectFilter(
        recording_id=recording_id, class_name=class_name, is_doubtful=doubtful, from_s=from_s, to_s=to_s
    )
    with state.results.cursor() as cursor:
        find_recording(pages.read_library(cursor), recording_id)
        page = read_objects(cursor, selection, offset, "time")
    return json_response({"count": page.count, "page_size": PAGE_SIZE, "objects": page.objects})


@recording_router.get("/counts")
def send_counts(
    recording_id: str,
    state: State,
    pages: Pages,
    minutes: Literal["1", "5", "15", "60"] = "15",
    format: Literal["json", "csv", "xlsx"] = "json",
) -> Response:
    """Send the counts per interval, and those by pair of lines in JSON and Excel."""
    with state.results.cursor() as cursor:
        find_recording(pages.read_library(cursor), recording_id)
        counts = read_interval_counts(cursor, recording_id, int(minutes))
        pairs = read_line_pairs(cursor, recording_id)
    if format == "json":
        return json_response({"counts": counts, "pairs": pairs})
    if format == "csv":
        return _send_file(write_csv(counts, _COUNT_COLUMNS), f"{recording_id}-counts-{minutes}min.csv")
    sheets = [("counts", counts, _COUNT_COLUMNS), ("pairs of lines", pairs, _PAIR_COLUMNS)]
    return _send_file(write_xlsx(sheets), f"{recording_id}-counts-{minutes}min.xlsx")


@recording_router.get("/events.csv")
def send_events(recording_id: str, state: State, pages: Pages) -> Response:
    """Send all events as CSV."""
    with state.results.cursor() as cursor:
        row = find_recording(pages.read_library(cursor), recording_id)
        timeline = read_timeline(cursor, recording_id, row["duration_s"] or 0, max_events=1 << 31)
    return _send_file(write_csv(timeline["events"], _EVENT_COLUMNS), f"{recording_id}-events.csv")


@recording_router.get("/heatmap")
def send_heatmap(recording_id: str, state: State, pages: Pages) -> Response:
    """Send the time that objects spent in each cell of the frame."""
    with state.results.cursor() as cursor:
        find_recording(pages.read_library(cursor), recording_id)
        return json_response(read_heatmap(cursor, recording_id))


def _send_file(content: bytes, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, media_type=_FORMAT_TYPES[name.rpartition(".")[2]], headers=headers)
