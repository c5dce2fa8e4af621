"""Reads all counted events of a camera, and the stretches of time in which one may have been missed."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from resources.audit.audit_sample import AuditItem
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.corrections.corrected_rows import read_track_boxes, read_tracks
from resources.schema.model_tables import DETECTIONS
from resources.schema.track_tables import STILL_TRACKS, TRACK_LINKS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.start_times import recording_start
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.recording_rows import RecordingRow

STRETCH_S = 4.0
"""Length of a stretch: short enough that a few frames show all of it."""
OBJECTS = "objects"
"""Name of the count of a camera without lines and zones."""

# What zones and lines leave out is in no event; an object that continues one of the previous recording counts there.
_OBJECTS_SQL = """
SELECT recording_id, track_id, 'objects' AS count_name, 'object' AS event, start_s AS time_s, class_name,
    coalesce(is_doubtful, false) AS is_doubtful
FROM tracks ANTI JOIN (SELECT recording_id, track_id FROM still WHERE is_left_out) USING (recording_id, track_id)
    ANTI JOIN links USING (recording_id, track_id)
"""
_EVENTS_SQL = """
SELECT recording_id, track_id, coalesce('line ' || line_name, 'zone ' || zone_name) AS count_name, event, time_s,
    events.class_name, coalesce(is_doubtful, false) AS is_doubtful
FROM events LEFT JOIN (SELECT recording_id, track_id, is_doubtful FROM tracks) USING (recording_id, track_id)
WHERE event <> 'exit'
"""
_BUSY_SQL = """
SELECT DISTINCT recording_id, floor(time_s / $stretch_s)::INTEGER AS stretch FROM (
    SELECT recording_id, time_s FROM boxes UNION ALL SELECT recording_id, time_s FROM detections)
"""


def count_names(camera: CameraSettings) -> list[str]:
    """Names of what is counted at a camera: its lines and zones, or objects if it has none."""
    names = [f"line {line.name}" for line in camera.lines] + [f"zone {zone.name}" for zone in camera.zones]
    return names or [OBJECTS]


def read_population(store: Store, rows: Sequence[RecordingRow], settings: Settings) -> list[AuditItem]:
    """Read all counted events of a camera, as corrected, and all stretches of its recordings.

    A stretch in which something was counted is a stretch, too: another object may have been missed beside it.

    Args:
        store: The tables.
        rows: The camera's recordings, with their start and duration.
        settings: The settings, with the lines and zones of the camera.
    """
    names = count_names(settings.camera(rows[0]["camera"]))
    starts_s = {row["recording_id"]: _clock_s(row, settings) for row in rows}
    durations_s = {row["recording_id"]: row["duration_s_from_content"] or 0.0 for row in rows}
    events = [row for row in _read_events(store, list(starts_s), names).to_pylist() if row["count_name"] in names]
    items = [
        AuditItem(
            row["count_name"],
            "event",
            "doubtful" if row["is_doubtful"] else "certain",
            row["recording_id"],
            row["time_s"],
            row["time_s"],
            starts_s[row["recording_id"]] + row["time_s"],
            row["track_id"],
            row["class_name"],
            row["event"],
        )
        for row in events
    ]
    tables = {
        "boxes": read_track_boxes(store, list(starts_s), ["recording_id", "time_s"]),
        "detections": store.scan(DETECTIONS, list(starts_s)),
    }
    busy = {tuple(row.values()) for row in select(_BUSY_SQL, tables, {"stretch_s": STRETCH_S}).to_pylist()}
    for name in names:
        counted = {
            (row["recording_id"], int(row["time_s"] // STRETCH_S)) for row in events if row["count_name"] == name
        }
        for recording_id, duration_s in durations_s.items():
            items += _stretches(name, recording_id, duration_s, starts_s[recording_id], counted, busy)
    return items


def _stretches(
    name: str,
    recording_id: str,
    duration_s: float,
    clock_s: float,
    counted: set[tuple[str, int]],
    busy: set[tuple[str, int]],
) -> list[AuditItem]:
    edges_s = np.minimum(np.arange(math.ceil(duration_s / STRETCH_S) + 1) * STRETCH_S, duration_s).tolist()
    items = []
    for index, (start_s, end_s) in enumerate(itertools.pairwise(edges_s)):
        place = (recording_id, index)
        stratum = "with counted" if place in counted else "with boxes" if place in busy else "empty"
        items.append(AuditItem(name, "stretch", stratum, recording_id, start_s, end_s, clock_s + start_s))
    return items


def _read_events(store: Store, recording_ids: Sequence[str], names: Sequence[str]) -> pa.Table:
    tracks = read_tracks(store, recording_ids)
    tables: Mapping[str, pa.Table]
    if list(names) == [OBJECTS]:
        tables = {
            "tracks": tracks,
            "still": store.read(STILL_TRACKS, recording_ids, ["recording_id", "track_id", "is_left_out"]),
            "links": store.read(TRACK_LINKS, recording_ids, ["recording_id", "track_id"]),
        }
        return select(_OBJECTS_SQL, tables)
    return select(_EVENTS_SQL, {"events": store.read(ZONE_EVENTS, recording_ids), "tracks": tracks})


def _clock_s(row: RecordingRow, settings: Settings) -> float:
    start = recording_start(row, settings)
    return (start[0] if start else row["mtime_utc"]).timestamp()  # type: ignore[no-any-return]
