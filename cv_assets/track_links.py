"""track_links: one row per track that continues a track of the camera's preceding recording (recording_id, track_id).

An object that is in view when one file ends and the next begins has a track in each: to count the objects of a camera,
count the tracks without a link.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cv_assets.camera_settings import CAMERA_TRACK_LINKING
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from cv_assets.tracks import tracked_boxes
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.corrections.corrected_rows import read_track_boxes
from resources.media.progress import ReportProgress
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS
from resources.schema.recording_tables import RECORDINGS
from resources.schema.track_tables import TRACK_LINKS
from resources.start_times import CLOCK_COLUMNS, recording_start
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows
from resources.tracking.track_linking import link_tracks
from resources.tracking.track_parts import track_ends

_CLOCK_SLACK_S = 1.0  # start times in whole seconds let a file seem to begin before its predecessor ends
_BOUNDARY_S = 0.5  # only tracks that end or start this close to the boundary of two files are linked


def adjacent_recordings(
    recording_id: str, rows: list[dict[str, Any]], max_gap_s: float
) -> tuple[str | None, str | None]:
    """The preceding and the following recording of the same camera.

    Args:
        recording_id: The recording.
        rows: Recordings with recording_id, camera, started_at_utc and duration_s_from_content.
        max_gap_s: The longest time between two files.

    Returns:
        Ids of the preceding and the following recording; None where there is none within the gap, or where the start
        of the recording is unknown.
    """
    own_row = next((row for row in rows if row["recording_id"] == recording_id), None)
    timed_rows = [row for row in rows if row["started_at_utc"] and row["duration_s_from_content"]]
    if own_row not in timed_rows:
        return None, None
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for row in timed_rows:
        if row["camera"] != own_row["camera"] or row is own_row:
            continue
        later_s = (row["started_at_utc"] - own_row["started_at_utc"]).total_seconds()
        first_row, gap_s = (own_row, later_s) if later_s > 0 else (row, -later_s)
        gap_s -= first_row["duration_s_from_content"]
        if later_s and -_CLOCK_SLACK_S <= gap_s <= max_gap_s:
            (after if later_s > 0 else before)[row["recording_id"]] = abs(gap_s)
    return min(before, key=before.__getitem__, default=None), min(after, key=after.__getitem__, default=None)


def link_rows(
    before: dict[str, Any],
    after: dict[str, Any],
    boxes: dict[str, pa.Table],
    max_gap_s: float,
    min_confidence: float,
) -> pa.Table:
    """Build the rows of `track_links` between two consecutive recordings.

    Args:
        before: The first, with recording_id, started_at_utc and duration_s_from_content.
        after: The second.
        boxes: Rows of `track_boxes` of both by recording_id, sorted by track_id and frame_index.
        max_gap_s: The longest time between the files.
        min_confidence: Links of lower confidence are left out.
    """
    boxes_before, boxes_after = (tracked_boxes(boxes[row["recording_id"]]) for row in (before, after))
    first_before, _, ends = track_ends(boxes_before)
    first_after, starts, _ = track_ends(boxes_after)
    # Another model, or another name in the settings, may have numbered the classes of one of them differently.
    numbers = dict[str, int]()
    ends = replace(ends, class_id=_class_numbers(boxes[before["recording_id"]], first_before, numbers))
    starts = replace(starts, class_id=_class_numbers(boxes[after["recording_id"]], first_after, numbers))
    offset_s = max(
        (after["started_at_utc"] - before["started_at_utc"]).total_seconds(), before["duration_s_from_content"]
    )
    is_last = ends.time_s >= before["duration_s_from_content"] - _BOUNDARY_S
    is_first = starts.time_s <= _BOUNDARY_S
    ids_before, ids_after = boxes_before.part[first_before[is_last]], boxes_after.part[first_after[is_first]]
    ends, starts = ends.select(is_last), starts.select(is_first)
    starts = replace(starts, time_s=starts.time_s + offset_s)
    xyxy = np.concatenate([boxes_before.xyxy, boxes_after.xyxy])
    area_px = float((xyxy[:, 2:].max(axis=0) - xyxy[:, :2].min(axis=0)).prod()) if len(xyxy) else 1.0
    duration_s = before["duration_s_from_content"] + after["duration_s_from_content"]
    start_density = np.full(len(ids_after), (len(first_before) + len(first_after)) / duration_s / area_px)
    links = link_tracks(ends, starts, max_gap_s + 2 * _BOUNDARY_S, min_confidence, start_density)
    rows = {
        "recording_id": pa.repeat(after["recording_id"], len(links.end)),
        "track_id": ids_after[links.start],
        "previous_recording_id": pa.repeat(before["recording_id"], len(links.end)),
        "previous_track_id": ids_before[links.end],
        "gap_s": starts.time_s[links.start] - ends.time_s[links.end],
        "link_confidence": links.confidence,
    }
    return pa.table(rows).cast(TRACK_LINKS.arrow_schema)


def _class_numbers(boxes: pa.Table, rows: np.ndarray, numbers: dict[str, int]) -> np.ndarray:
    """Numbers of the class names of some rows; those of new names are added."""
    names = boxes["class_name"].take(pa.array(rows)).to_pylist()
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], int)


def link_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Link the tracks of one recording to those of the preceding and the following one.

    If the following recording is already tracked, its links are written too: so the rows do not depend on the order in
    which the files arrive.
    """
    cameras = store.read(RECORDINGS, columns=["recording_id", "camera"])
    name = next(iter(cameras.filter(pc.equal(cameras["recording_id"], recording_id))["camera"].to_pylist()), None)
    camera = settings.camera(name)
    links = {recording_id: TRACK_LINKS.empty}
    if camera.track_link_gap_s:
        is_of_camera = pc.is_null(cameras["camera"]) if name is None else pc.equal(cameras["camera"], name)
        by_id = timed_rows(cameras.filter(is_of_camera)["recording_id"].to_pylist(), store, settings)
        before, after = adjacent_recordings(recording_id, list(by_id.values()), camera.track_link_gap_s)
        boxes = _boxes_by_recording([name for name in (before, recording_id, after) if name], store)
        for first, second in ((before, recording_id), (recording_id, after)):
            if first and second:
                gap_s, min_confidence = camera.track_link_gap_s, settings.tracks.min_link_confidence
                links[second] = link_rows(by_id[first], by_id[second], boxes, gap_s, min_confidence)
    store.replace(TRACK_LINKS, list(links), pa.concat_tables(links.values()))
    return {TRACK_LINKS.name: count_metadata(links[recording_id].num_rows)}


def timed_rows(recording_ids: Sequence[str], store: Store, settings: Settings) -> dict[str, dict[str, Any]]:
    """Rows of header and content of some recordings with their started_at_utc, by recording_id.

    The start is computed from the settings: the table recording_clocks is only updated when results are published.
    """
    rows = read_recording_rows(store, recording_ids, CLOCK_COLUMNS)
    starts = {recording_id: recording_start(row, settings) for recording_id, row in rows.items()}
    return {
        recording_id: {**rows[recording_id], "started_at_utc": start[0] if start else None}
        for recording_id, start in starts.items()
    }


def _boxes_by_recording(recording_ids: list[str], store: Store) -> dict[str, pa.Table]:
    """Rows of `track_boxes` as corrected by recording, sorted by track_id and frame_index."""
    boxes = read_track_boxes(store, recording_ids)
    order = [("track_id", "ascending"), ("frame_index", "ascending")]
    return {
        recording_id: boxes.filter(pc.equal(boxes["recording_id"], recording_id)).sort_by(order)
        for recording_id in recording_ids
    }


def boxes_of_preceding(row: Mapping[str, Any], store: Store, settings: Settings, columns: Sequence[str]) -> pa.Table:
    """Boxes of tracks of the preceding recording that continue in this one, with times relative to its start.

    Args:
        row: The recording's row of `recordings`.
        store: The tables.
        settings: The settings in force, for the clocks of both recordings.
        columns: Columns of `track_boxes`, with track_id, frame_index and time_s.

    Returns:
        Rows of `track_boxes` with negative times and the track ids of this recording.
    """
    names = ["track_id", "previous_recording_id", "previous_track_id"]
    links = store.read(TRACK_LINKS, [row["recording_id"]], names)
    preceding = links["previous_recording_id"].unique().to_pylist()
    boxes = read_track_boxes(store, preceding, columns)
    preceding_rows = list(read_recording_rows(store, preceding).values())
    times_utc = [start[0] for other in (row, *preceding_rows) if (start := recording_start(other, settings))]
    offset_s = (times_utc[0] - times_utc[1]).total_seconds() if len(times_utc) > 1 else 0.0
    offset_s = max([offset_s, *(other["duration_s_from_content"] for other in preceding_rows)])  # clocks may overlap
    query = """
        SELECT boxes.* REPLACE (links.track_id AS track_id, time_s - $offset_s AS time_s, 0::INTEGER AS frame_index)
        FROM boxes JOIN links ON boxes.track_id = previous_track_id WHERE time_s < $offset_s
    """
    return select(query, {"boxes": boxes, "links": links}, {"offset_s": offset_s}).cast(boxes.schema)


@stage_asset(
    group=ANALYSIS,
    tables=(TRACK_LINKS,),
    deps=(CORRECTED_TRACKS.name, CORRECTED_BOXES.name, CAMERA_TRACK_LINKING.name),
    version=lambda settings: StageVersion.build(
        "track_links 5", {"tracks.min_link_confidence": settings.tracks.min_link_confidence}
    ),
    kinds=("numpy",),
)
def track_links(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Link tracks to those of the camera's preceding recording."""
    return link_recording(recording_id, run.store, run.settings)
