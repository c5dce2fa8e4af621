"""Counts at zones and lines that a person draws on a page, from stored tracks, without a run.

The rows are built by the stage zone_events itself, so the counts are those that a run with these settings would store.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from cv_assets.zone_events import zone_rows
from resources.config.camera_config import CameraSettings, LineSettings, ZoneSettings
from resources.errors import PipelineError
from resources.schema.columns import BOX
from resources.schema.zone_tables import ZONE_EVENTS
from serve.pages.result_rows import Row, fetch_rows

MAX_RECORDINGS = 500
"""Recordings of one question about a camera; the newest are taken."""
_MAX_EVENTS = 2000
_BOX_COLUMNS = ("track_id", "frame_index", "time_s", "class_id", "class_name", *(column.name for column in BOX))


class DrawnShapes(BaseModel):
    """Zones and lines that a person has drawn; points are fractions of the frame's width and height."""

    model_config = ConfigDict(extra="forbid")
    zones: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []


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


def count_at_shapes(connection: duckdb.DuckDBPyConnection, recording_ids: Sequence[str], camera: CameraSettings) -> Row:
    """Count crossings, entries and exits at zones and lines over the stored tracks of some recordings.

    Tracks that settings leave out of counts are left out, as in the stage.

    Args:
        connection: The published results.
        recording_ids: Recordings of one camera.
        camera: Settings with the zones and lines.

    Returns:
        "counts" (rows with name, event, class_name, count, median_dwell_s), "events" (the first 2,000, in order) and
        "recording_count".
    """
    query = """
        SELECT recording_id, width_px, height_px FROM recordings
        WHERE list_contains($ids, recording_id) AND frame_count IS NOT NULL
    """
    sizes = {row["recording_id"]: row for row in fetch_rows(connection, query, {"ids": list(recording_ids)})}
    tables = []
    for recording_id, boxes in _read_boxes(connection, list(sizes)):
        size = sizes[recording_id]
        frames = _read_frames(connection, recording_id, camera)
        tables.append(
            zone_rows(recording_id, boxes, frames, camera, size["width_px"], size["height_px"])[ZONE_EVENTS.name]
        )
    events = pa.concat_tables(tables).to_pylist() if tables else []
    counter = Counter((row["line_name"] or row["zone_name"], row["event"], row["class_name"]) for row in events)
    return {
        "counts": [
            {"name": name, "event": event, "class_name": class_name, "count": count}
            for (name, event, class_name), count in sorted(counter.items())
        ],
        "events": [
            {name: row[name] for name in ("recording_id", "time_s", "event", "class_name", "track_id", "dwell_s")}
            | {"name": row["line_name"] or row["zone_name"], "is_line": row["line_name"] is not None}
            for row in sorted(events, key=lambda row: (row["recording_id"], row["time_s"]))[:_MAX_EVENTS]
        ],
        "recording_count": len(sizes),
    }


def _read_boxes(connection: duckdb.DuckDBPyConnection, recording_ids: Sequence[str]) -> list[tuple[str, pa.Table]]:
    """Read the boxes of each recording, sorted by track and time, with one query for all."""
    query = f"""
        SELECT recording_id, {", ".join(_BOX_COLUMNS)} FROM track_boxes
        ANTI JOIN (SELECT recording_id, track_id FROM still_tracks WHERE is_left_out) USING (recording_id, track_id)
        WHERE list_contains($ids, recording_id) ORDER BY recording_id, track_id, time_s
    """
    boxes = connection.sql(query, params={"ids": list(recording_ids)}).to_arrow_table()
    ids = boxes["recording_id"].combine_chunks().dictionary_encode()
    counts = Counter[str]()
    for value in ids.value_counts().to_pylist():
        counts[value["values"]] = value["counts"]
    tables, start = [], 0
    for recording_id in sorted(counts):
        tables.append((recording_id, boxes.slice(start, counts[recording_id]).select(_BOX_COLUMNS)))
        start += counts[recording_id]
    return tables


def _read_frames(connection: duckdb.DuckDBPyConnection, recording_id: str, camera: CameraSettings) -> pa.Table:
    """Read the frames that the stage needs: all where zones follow a moving camera, else enough for the frame rate."""
    limit = "" if camera.fixed_to == "ground" or camera.zones else "LIMIT 1000"
    query = f"""
        SELECT frame_index, time_s, camera_x_px, camera_y_px FROM frames
        WHERE recording_id = $id ORDER BY frame_index {limit}
    """
    return connection.sql(query, params={"id": recording_id}).to_arrow_table()
