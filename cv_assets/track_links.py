"""track_links: one row per track that goes on from the recording before of the same camera (recording_id, track_id).

Whoever walks over the boundary of two files is one object of the camera: count tracks without a link.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.cameras import JOINING
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    table_asset,
    table_checks,
)
from cv_assets.tracks import track_ends
from cv_assets.wall_clock import WALL_CLOCK
from resources.schema import RECORDINGS, TRACK_BOXES, TRACK_LINKS, TRACKS
from resources.settings import Settings, settings_version
from resources.storage import Store
from resources.tracking import TrackEnds, link_tracks

STAGE = Stage("track_links", (TRACK_LINKS,))
_CLOCK_SLACK_S = 1.0  # a clock told in whole seconds may let a file begin before the one before it ends
_AT_BOUNDARY_S = 0.5  # what is seen this close to the boundary may go on beyond it


def neighbours(recording_id: str, rows: list[dict[str, Any]], max_gap_s: float) -> tuple[str | None, str | None]:
    """The recordings of the same camera that end where a recording begins, and begin where it ends.

    Args:
        recording_id: The recording.
        rows: Rows of `recordings` with recording_id, camera, started_at_utc and duration_s_from_content.
        max_gap_s: The longest time between two files.

    Returns:
        The one before and the one after, None where there is none, or where the camera's clock is not known.
    """
    own = next((row for row in rows if row["recording_id"] == recording_id), None)
    timed = [row for row in rows if row["started_at_utc"] and row["duration_s_from_content"]]
    if own not in timed:
        return None, None
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for row in timed:
        if row["camera"] != own["camera"] or row is own:
            continue
        later_s = (row["started_at_utc"] - own["started_at_utc"]).total_seconds()
        first, gap_s = (own, later_s) if later_s > 0 else (row, -later_s)
        gap_s -= first["duration_s_from_content"]
        if later_s and -_CLOCK_SLACK_S <= gap_s <= max_gap_s:
            (after if later_s > 0 else before)[row["recording_id"]] = abs(gap_s)
    return min(before, key=before.__getitem__, default=None), min(after, key=after.__getitem__, default=None)


def link_rows(before: dict[str, Any], after: dict[str, Any], boxes: dict[str, pa.Table], max_gap_s: float) -> pa.Table:
    """Rows of `track_links` between two consecutive recordings.

    Args:
        before: Row of `recordings` of the first.
        after: That of the second.
        boxes: Rows of `track_boxes` of both, sorted by track_id and frame_index, by recording_id.
        max_gap_s: The longest time between the files.
    """
    numbers, _, ends = track_ends(boxes[before["recording_id"]])
    new_numbers, starts, _ = track_ends(boxes[after["recording_id"]])
    offset_s = max(
        (after["started_at_utc"] - before["started_at_utc"]).total_seconds(), before["duration_s_from_content"]
    )
    is_last = ends.time_s >= before["duration_s_from_content"] - _AT_BOUNDARY_S
    is_first = starts.time_s <= _AT_BOUNDARY_S
    ended, started = ends.chosen(is_last), starts.chosen(is_first)
    later = TrackEnds(started.time_s + offset_s, started.centre, started.velocity, started.size, started.class_id)
    pairs = link_tracks(ended, later, max_gap_s + 2 * _AT_BOUNDARY_S)
    rows = [
        {
            "recording_id": after["recording_id"],
            "track_id": int(new_numbers[is_first][start]),
            "previous_recording_id": before["recording_id"],
            "previous_track_id": int(numbers[is_last][end]),
            "gap_s": float(later.time_s[start] - ended.time_s[end]),
        }
        for end, start in pairs
    ]
    return pa.Table.from_pylist(rows, schema=TRACK_LINKS.arrow_schema)


def link_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Link one recording to those before and after it.

    The one after is linked, too, where its tracks are there already: so the order in which files arrive does not
    matter, and the rows of a recording are always the same.
    """
    names = ["recording_id", "camera", "started_at_utc", "duration_s_from_content"]
    rows = store.read(RECORDINGS, columns=names).to_pylist()
    by_id = {row["recording_id"]: row for row in rows}
    camera = settings.camera(by_id.get(recording_id, {}).get("camera"))
    links = {recording_id: TRACK_LINKS.empty}
    if camera.joined_within_s:
        before, after = neighbours(recording_id, rows, camera.joined_within_s)
        chosen = [r for r in (before, recording_id, after) if r]
        read = store.read(TRACK_BOXES, chosen)
        boxes = {
            r: read.filter(pa.compute.equal(read["recording_id"], r)).sort_by(
                [("track_id", "ascending"), ("frame_index", "ascending")]
            )
            for r in chosen
        }
        for one, other in ((before, recording_id), (recording_id, after)):
            if one and other:
                links[other] = link_rows(by_id[one], by_id[other], boxes, camera.joined_within_s)
    store.replace(TRACK_LINKS, list(links), pa.concat_tables(links.values()))
    return {TRACK_LINKS.name: count_metadata(links[recording_id].num_rows)}


@multi_asset(
    specs=[
        table_asset(
            TRACK_LINKS,
            group=ANALYSIS,
            code_version=settings_version("track_links 2"),
            deps=[TRACKS.name, TRACK_BOXES.name, WALL_CLOCK, JOINING.name],
            kinds=("numpy",),
        )
    ],
    check_specs=table_checks(TRACK_LINKS),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def track_links(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Find the objects that go on from the recording before."""
    yield from STAGE.each_recording(context, store, lambda r, _: link_recording(r, store, settings))
