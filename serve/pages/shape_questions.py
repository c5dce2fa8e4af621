"""Counts at zones and lines that a person draws on a page, from stored tracks, without a run.

Crossings, entries and exits are found as in the stage zone_events, by the same code of `resources.geometry`; speeds,
positions in metres and occupancy, which take most of the stage's time, are left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.config.camera_config import CameraSettings, LineSettings, ZoneSettings
from resources.config.section import MAX_SHAPES
from resources.errors import PipelineError
from resources.geometry.zone_geometry import SideChanges, find_line_crossings, find_zone_transitions
from serve.pages.result_rows import Row, fetch_rows

MAX_RECORDINGS = 500
"""Recordings of one question about a camera; the newest are taken."""
_MAX_EVENTS = 2000
_MAX_NAME_LENGTH = 200


class DrawnShapes(BaseModel):
    """Zones and lines that a person has drawn; points are fractions of the frame's width and height."""

    model_config = ConfigDict(extra="forbid")
    zones: list[dict[str, Any]] = Field([], max_length=MAX_SHAPES)
    lines: list[dict[str, Any]] = Field([], max_length=MAX_SHAPES)


def drawn_camera(shapes: DrawnShapes, camera: CameraSettings) -> CameraSettings:
    """Build the settings of a camera with drawn zones and lines instead of its own.

    Args:
        shapes: The drawn zones and lines.
        camera: The settings in force: the point of a box that counts, hysteresis, ground.

    Raises:
        PipelineError: A shape is invalid; the sentence says why.
    """
    if not shapes.zones and not shapes.lines:
        raise PipelineError("The question has no zone and no line: draw one.")
    for shape in (*shapes.zones, *shapes.lines):
        _check_name(str(shape.get("name", "")))
    try:
        drawn = CameraSettings(
            zones=tuple(ZoneSettings.model_validate(zone) for zone in shapes.zones),
            lines=tuple(LineSettings.model_validate(line) for line in shapes.lines),
        )
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        raise PipelineError(f"The drawn shape is invalid: {message}.") from None
    return camera.model_copy(update={"zones": drawn.zones, "lines": drawn.lines, "ground": None, "units": "relative"})


def _check_name(name: str) -> None:
    """Check that a name fits into a table and into the settings.

    Raises:
        PipelineError: It does not.
    """
    if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
        raise PipelineError(
            f"The name {name[:50]!a} of a drawn shape is invalid: use at most {_MAX_NAME_LENGTH} printable characters."
        )


@dataclass(frozen=True)
class _Boxes:
    """The boxes of recordings whose frames have one size, sorted by recording, track and time.

    Attributes:
        track: Number of the track, different for every track of every recording, shape (n,).
        time_s: Shape (n,).
        points: Anchor points in pixels, shape (n, 2).
        margin_px: Distance from a border beyond which a point is clear of it, shape (n,).
        tracks: Recording, track and class by number of the track.
    """

    track: np.ndarray
    time_s: np.ndarray
    points: np.ndarray
    margin_px: np.ndarray
    tracks: list[tuple[str, int, str]]


def count_at_shapes(connection: duckdb.DuckDBPyConnection, recording_ids: Sequence[str], camera: CameraSettings) -> Row:
    """Count crossings, entries and exits at zones and lines over the stored tracks of some recordings.

    Tracks that settings leave out of counts are left out, as in the stage zone_events.

    Args:
        connection: The published results.
        recording_ids: Recordings of one camera.
        camera: Settings with the zones and lines.

    Returns:
        "counts" (rows with name, event, class_name and count), "events" (the first 2,000, in order) and
        "recording_count".
    """
    query = """
        SELECT width_px, height_px, list(recording_id ORDER BY recording_id) AS ids FROM recording_contents
        WHERE list_contains($ids, recording_id) AND frame_count IS NOT NULL GROUP BY ALL
    """
    groups = fetch_rows(connection, query, {"ids": list(recording_ids)})
    events: list[Row] = []
    for group in groups:
        boxes = _read_boxes(connection, group["ids"], camera)
        events += _find_events(boxes, camera, (group["width_px"], group["height_px"]))
    events.sort(key=lambda row: (row["recording_id"], row["time_s"], row["track_id"]))
    counter = Counter((row["name"], row["event"], row["class_name"]) for row in events)
    return {
        "counts": [
            {"name": name, "event": event, "class_name": class_name, "count": count}
            for (name, event, class_name), count in sorted(counter.items())
        ],
        "events": events[:_MAX_EVENTS],
        "recording_count": sum(len(group["ids"]) for group in groups),
    }


def _find_events(boxes: _Boxes, camera: CameraSettings, size_px: tuple[int, int]) -> list[Row]:
    """Find the crossings of all lines, and the entries into all zones and exits from them."""
    events: list[Row] = []

    def add(name: str, event: str, rows: np.ndarray, fraction: np.ndarray) -> None:
        after = np.minimum(rows + 1, max(len(boxes.time_s) - 1, 0))
        times_s = boxes.time_s[rows] + fraction * (boxes.time_s[after] - boxes.time_s[rows])
        for track, time_s in zip(boxes.track[rows].tolist(), times_s.tolist(), strict=True):
            recording_id, track_id, class_name = boxes.tracks[track]
            where = {"recording_id": recording_id, "track_id": track_id, "class_name": class_name}
            events.append({"name": name, "event": event, "time_s": time_s, **where})

    def add_changes(name: str, event: str, changes: SideChanges, sign: int) -> None:
        has_sign = changes.sign == sign
        add(name, event, changes.row[has_sign], changes.fraction[has_sign])

    for line in camera.lines:
        crossings = find_line_crossings(boxes.track, boxes.points, boxes.margin_px, camera.border_px(line, *size_px))
        add_changes(line.name, "in", crossings, 1)
        add_changes(line.name, "out", crossings, -1)
    is_first = np.diff(boxes.track, prepend=-1) != 0
    for zone in camera.zones:
        polygon = camera.border_px(zone, *size_px)
        changes, is_inside = find_zone_transitions(boxes.track, boxes.points, boxes.margin_px, polygon)
        add_changes(zone.name, "enter", changes, 1)
        add_changes(zone.name, "exit", changes, -1)
        # As in the stage: who is inside when first seen enters then, and who is inside when last seen leaves then.
        for event, is_end in (("enter", is_first), ("exit", np.roll(is_first, -1))):
            rows = np.flatnonzero(is_end & is_inside)
            add(zone.name, event, rows, np.zeros(len(rows)))
    return events


def _read_boxes(connection: duckdb.DuckDBPyConnection, recording_ids: Sequence[str], camera: CameraSettings) -> _Boxes:
    """Read the boxes of some recordings with two queries: texts are read per track alone."""
    values = {"ids": list(recording_ids), "first": recording_ids[0], "last": recording_ids[-1]}
    of_recordings = "recording_id >= $first AND recording_id <= $last AND list_contains($ids, recording_id)"
    tracks = f"""
        SELECT recording_id, track_id, class_name FROM tracks
        ANTI JOIN (SELECT recording_id, track_id FROM still_tracks WHERE is_left_out) USING (recording_id, track_id)
        WHERE {of_recordings} ORDER BY recording_id, track_id
    """
    is_moving = camera.fixed_to == "ground"
    position = ("- coalesce(camera_x_px, 0)", "- coalesce(camera_y_px, 0)") if is_moving else ("", "")
    y_px = "y_max_px" if camera.anchor == "bottom_centre" else "(y_min_px + y_max_px) / 2"
    # The range of ids lets DuckDB skip files and row groups before it compares texts.
    query = f"""
        SELECT number, track_boxes.time_s, (x_min_px + x_max_px) / 2 {position[0]} AS x_px,
            {y_px} {position[1]} AS y_px, greatest(y_max_px - y_min_px, 1) * $hysteresis AS margin_px
        FROM track_boxes JOIN (
            SELECT *, row_number() OVER (ORDER BY recording_id, track_id) - 1 AS number FROM ({tracks})
        ) USING (recording_id, track_id)
        {"JOIN frames USING (recording_id, frame_index)" if is_moving else ""}
        WHERE track_boxes.{of_recordings.replace("AND recording_id", "AND track_boxes.recording_id")}
    """
    rows = connection.execute(query, values | {"hysteresis": camera.hysteresis}).fetchnumpy()
    number, time_s = np.asarray(rows["number"], np.int64), np.asarray(rows["time_s"])
    order = np.lexsort((time_s, number))
    return _Boxes(
        track=number[order],
        time_s=time_s[order],
        points=np.column_stack([rows["x_px"], rows["y_px"]])[order],
        margin_px=np.asarray(rows["margin_px"])[order],
        tracks=connection.execute(tracks, values).fetchall(),
    )
