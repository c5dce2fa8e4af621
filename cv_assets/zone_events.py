"""zone_events: one row per entry, exit or line crossing of an object (recording_id, track_id, event_index).

With it, from the same boxes: zone_seconds (occupancy and queue of each zone, second by second), line_trips (an object's
way from one line to the next) and ground_tracks (objects in metres, for cameras whose ground is known).

Made from stored tracks and what is drawn in the settings: moving a line reruns no model and no tracker.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, MetadataValue, ResourceParam, multi_asset

from cv_assets.cameras import ZONES
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    class_counts,
    count_metadata,
    table_asset,
    table_checks,
)
from cv_assets.tracks import corners
from resources.arrow_sql import select
from resources.errors import RecordingError
from resources.pictures import TIMELINE_BINS, as_markdown, presence, timeline
from resources.schema import (
    FRAMES,
    GROUND_TRACKS,
    LINE_TRIPS,
    RECORDINGS,
    TRACK_BOXES,
    TRACK_LINKS,
    ZONE_EVENTS,
    ZONE_SECONDS,
)
from resources.settings import CameraSettings, Settings, settings_version
from resources.storage import Store
from resources.wall_clock import with_times
from resources.zones import Changes, anchors, border_changes, crossings, homography, to_ground, velocities

TABLES = (ZONE_EVENTS, ZONE_SECONDS, LINE_TRIPS, GROUND_TRACKS)
STAGE = Stage("zone_events", TABLES)
_SPEED_WINDOW_S = 1.0  # long enough that a trembling box does not look like walking

_BOX_COLUMNS = ("track_id", "frame_index", "time_s", "captured_at_utc", "class_id", "class_name", "x_min_px",
                "y_min_px", "x_max_px", "y_max_px")  # fmt: skip

_EVENTS_SQL = """
SELECT *, row_number() OVER (PARTITION BY track_id ORDER BY time_s, event, zone_name, line_name)::INTEGER - 1
    AS event_index
FROM events ORDER BY track_id, event_index
"""

_TRIPS_SQL = """
WITH crossings AS (SELECT * FROM events WHERE line_name IS NOT NULL),
pairs AS (
    SELECT recording_id, track_id, class_id, class_name,
        line_name AS from_line, event AS from_direction, time_s AS start_s, captured_at_utc,
        lead(line_name) OVER way AS to_line, lead(event) OVER way AS to_direction,
        lead(time_s) OVER way - time_s AS travel_s,
        sqrt((lead(x_px) OVER way - x_px) ** 2 + (lead(y_px) OVER way - y_px) ** 2) AS distance_px,
        sqrt((lead(x_m) OVER way - x_m) ** 2 + (lead(y_m) OVER way - y_m) ** 2) AS distance_m
    FROM crossings WINDOW way AS (PARTITION BY track_id ORDER BY event_index)
)
SELECT *, row_number() OVER (PARTITION BY track_id ORDER BY start_s)::INTEGER - 1 AS trip_index,
    distance_px / nullif(travel_s, 0) AS speed_px_s, distance_m / nullif(travel_s, 0) AS speed_m_s
FROM pairs WHERE to_line IS NOT NULL AND to_line <> from_line ORDER BY track_id, start_s
"""

_GROUND_SQL = """
SELECT any_value(recording_id) AS recording_id, track_id, any_value(class_id) AS class_id,
    any_value(class_name) AS class_name, avg(speed_m_s) * (max(time_s) - min(time_s)) AS path_m,
    avg(speed_m_s) AS mean_speed_m_s, max(speed_m_s) AS max_speed_m_s,
    arg_min(x_m, time_s) AS first_x_m, arg_min(y_m, time_s) AS first_y_m,
    arg_max(x_m, time_s) AS last_x_m, arg_max(y_m, time_s) AS last_y_m
FROM places WHERE isfinite(x_m) AND isfinite(speed_m_s) GROUP BY track_id ORDER BY track_id
"""


class _Places:
    """Where every box of a recording is, as arrays with a row per box, sorted by track and time."""

    def __init__(self, boxes: pa.Table, camera: CameraSettings, width_px: int, height_px: int) -> None:
        xyxy = corners(boxes)
        self.boxes = boxes
        self.track_id, self.time_s = boxes["track_id"].to_numpy(), boxes["time_s"].to_numpy()
        self.captured_us = boxes["captured_at_utc"].to_numpy().astype("datetime64[us]")
        self.points = anchors(xyxy, camera.anchor)
        self.tall = np.maximum(xyxy[:, 3] - xyxy[:, 1], 1)
        self.margin = camera.hysteresis * self.tall
        self.speed = np.hypot(*velocities(self.track_id, self.time_s, self.points, _SPEED_WINDOW_S).T)
        self.scale = np.array([width_px, height_px]) if camera.units == "relative" else np.ones(2)
        self.metres = np.full_like(self.points, np.nan)
        self.speed_m = np.full(len(self.points), np.nan)
        if camera.ground:
            ground = homography(np.array(camera.ground.points) * self.scale, np.array(camera.ground.metres))
            self.metres = to_ground(ground, self.points)
            self.speed_m = np.hypot(*velocities(self.track_id, self.time_s, self.metres, _SPEED_WINDOW_S).T)

    def at(self, changes: Changes) -> dict[str, np.ndarray]:
        """Columns of moments between two boxes."""
        row, share = changes.row, changes.share
        after = np.minimum(row + 1, max(len(self.points) - 1, 0))

        def between(values: np.ndarray) -> np.ndarray:
            weight = share if values.ndim == 1 else share[:, None]
            return np.asarray(values[row] + weight * (values[after] - values[row]))

        points, metres = between(self.points), between(self.metres)
        return {
            "row": row,
            "next_s": self.time_s[after],
            "time_s": between(self.time_s),
            "x_px": points[:, 0],
            "y_px": points[:, 1],
            "x_m": metres[:, 0],
            "y_m": metres[:, 1],
            "speed_px_s": self.speed[row],
            "speed_m_s": self.speed_m[row],
        }


def _line_events(places: _Places, name: str, line: np.ndarray) -> dict[str, Any]:
    changes = crossings(places.track_id, places.points, places.margin, line)
    count = len(changes.row)
    return places.at(changes) | {
        "event": np.where(changes.sign > 0, "in", "out"),
        "zone_name": [None] * count,
        "line_name": [name] * count,
        "dwell_s": np.full(count, np.nan),
        "is_at_track_end": np.zeros(count, bool),
    }


def _zone_events(places: _Places, name: str, polygon: np.ndarray, frame_s: float) -> tuple[dict[str, Any], np.ndarray]:
    """Entries and exits, and in which boxes an object is inside; a visit runs from an entry to the next exit."""
    changes, is_inside = border_changes(places.track_id, places.points, places.margin, polygon)
    is_first = np.ones(len(is_inside), bool)
    is_first[1:] = places.track_id[1:] != places.track_id[:-1]
    first, last = np.flatnonzero(is_first & is_inside), np.flatnonzero(np.roll(is_first, -1) & is_inside)

    def moments(sign: int, ends: np.ndarray) -> dict[str, np.ndarray]:
        own = changes.sign == sign
        rows = np.concatenate([changes.row[own], ends])
        share = np.concatenate([changes.share[own], np.zeros(len(ends))])
        is_end = np.arange(len(rows)) >= own.sum()
        # In order of time, so that the n-th entry and the n-th exit are of one visit.
        order = np.lexsort((is_end if sign < 0 else ~is_end, rows))
        found = places.at(Changes(rows[order], share[order], np.full(len(rows), sign)))
        is_end = is_end[order]
        return found | {"is_at_track_end": is_end, "next_s": np.where(is_end, found["time_s"], found["next_s"])}

    entries, exits = moments(1, first), moments(-1, last)
    # The last box lasts as long as a frame.
    exits["time_s"] = exits["time_s"] + np.where(exits["is_at_track_end"], frame_s, 0)
    dwell_s = exits["time_s"] - entries["time_s"]
    told = {name: np.concatenate([entries[name], exits[name]]) for name in entries}
    count = len(dwell_s)
    return told | {
        "event": np.repeat(["enter", "exit"], count),
        "zone_name": [name] * (2 * count),
        "line_name": [None] * (2 * count),
        "dwell_s": np.concatenate([np.full(count, np.nan), dwell_s]),
    }, is_inside


def _seconds(places: _Places, frames: pa.Table, name: str, is_inside: np.ndarray, standing: np.ndarray) -> pa.Table:
    """Rows of zone_seconds of one zone, for every second that has frames."""
    frame_index = places.boxes["frame_index"].to_numpy()
    of_frame = frames["frame_index"].to_numpy()
    second = np.floor(frames["time_s"].to_numpy()).astype(np.int32)
    length = int(max(of_frame.max(initial=-1), frame_index.max(initial=-1))) + 1
    starts = np.flatnonzero(np.diff(second, prepend=-1))
    columns: dict[str, Any] = {"zone_name": [name] * len(starts), "second_index": second[starts]}
    for told, counted in (("occupancy", is_inside), ("queue", is_inside & standing)):
        at_once = np.bincount(frame_index[counted & (places.time_s >= 0)], minlength=length)[of_frame]
        sizes = np.diff(np.append(starts, len(second)))
        columns[f"mean_{told}"] = np.add.reduceat(at_once, starts) / sizes if len(starts) else []
        columns[f"max_{told}"] = np.maximum.reduceat(at_once, starts).astype(np.int32) if len(starts) else []
    return pa.table(columns)


def zone_rows(
    recording_id: str, boxes: pa.Table, frames: pa.Table, camera: CameraSettings, width_px: int, height_px: int
) -> dict[str, pa.Table]:
    """What happened at the lines and in the zones of one recording.

    Args:
        recording_id: The recording.
        boxes: Its rows of `track_boxes`, sorted by track_id and time_s. Boxes before time 0 are those of the recording
            before, of tracks that go on in this one: they tell where these come from and give no rows.
        frames: Its rows of `frames`, sorted by frame_index.
        camera: What is drawn.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.

    Returns:
        The rows by table name.
    """
    places = _Places(boxes, camera, width_px, height_px)
    frame_times_s = frames["time_s"].to_numpy()
    frame_s = float(np.median(np.diff(frame_times_s))) if len(frame_times_s) > 1 else 0.0
    standing = places.speed < camera.standing_speed * places.tall
    found = [_line_events(places, line.name, np.array(line.points) * places.scale) for line in camera.lines]
    seconds = []
    for zone in camera.zones:
        events, is_inside = _zone_events(places, zone.name, np.array(zone.points) * places.scale, frame_s)
        found.append(events)
        seconds.append(_seconds(places, frames, zone.name, is_inside, standing))
    events = _numbered(recording_id, places, found)
    trips = select(_TRIPS_SQL, {"events": events})
    return {
        ZONE_EVENTS.name: events,
        ZONE_SECONDS.name: _of(recording_id, pa.concat_tables(seconds) if seconds else None, ZONE_SECONDS),
        LINE_TRIPS.name: trips,
        GROUND_TRACKS.name: _ground_rows(recording_id, places) if camera.ground else GROUND_TRACKS.empty,
    }


def _numbered(recording_id: str, places: _Places, found: list[dict[str, Any]]) -> pa.Table:
    """Rows of zone_events from the columns of every line and zone."""
    kept = []
    schema = pa.schema(
        [field for field in ZONE_EVENTS.arrow_schema if field.name not in ("recording_id", "event_index")]
    )
    for columns in found:
        row = columns["row"]
        of_box = places.boxes.select(["track_id", "frame_index", "class_id", "class_name"]).take(pa.array(row))
        columns["time_s"] = np.maximum(columns["time_s"], 0)
        # The picture's clock at the box before, moved on to the moment itself.
        moved_us = np.round((columns["time_s"] - places.time_s[row]) * 1e6).astype("timedelta64[us]")
        captured = places.captured_us[row] + moved_us
        values = {
            **{name: of_box[name] for name in of_box.column_names},
            **{name: columns[name] for name in schema.names if name in columns},
            "captured_at_utc": pa.array(captured).cast(pa.timestamp("us", tz="UTC")),
        }
        values = {
            # Not a number stands for unknown in arrays, and NULL in tables.
            name: pa.array(value, schema.field(name).type, from_pandas=True) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        # What was seen to happen before time 0 stands in the recording before.
        kept.append(pa.table(values, schema=schema).filter(pa.array(columns["next_s"] >= 0)))
    if not kept:
        return ZONE_EVENTS.empty
    return _of(recording_id, select(_EVENTS_SQL, {"events": pa.concat_tables(kept)}), ZONE_EVENTS)


def _ground_rows(recording_id: str, places: _Places) -> pa.Table:
    of_box = places.boxes.select(["track_id", "time_s", "class_id", "class_name"])
    columns = {"x_m": places.metres[:, 0], "y_m": places.metres[:, 1], "speed_m_s": places.speed_m}
    for name, values in columns.items():
        of_box = of_box.append_column(name, pa.array(values))
    of_box = of_box.append_column("recording_id", pa.repeat(recording_id, len(places.time_s)))
    return select(_GROUND_SQL, {"places": of_box.filter(pa.array(places.time_s >= 0))})


def _of(recording_id: str, rows: pa.Table | None, table: Any) -> pa.Table:
    """The rows with their recording, as the table declares them."""
    if rows is None:
        return table.empty
    rows = rows.append_column("recording_id", pa.repeat(recording_id, rows.num_rows))
    return rows.select(table.arrow_schema.names).cast(table.arrow_schema)


def find_zone_events(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Count at the lines and zones of one recording's camera and store what was found.

    Raises:
        RecordingError: There is no normalized video yet, or something is drawn outside the picture.
    """
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    if row is None or row["frame_count"] is None:
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    camera = settings.camera(row["camera"])
    if outside := camera.outside(row["width_px"], row["height_px"]):
        raise RecordingError(f"cameras.{row['camera'] or ''}: {outside}: mend the settings.")
    found = {table.name: table.empty for table in TABLES}
    told: dict[str, Metadata] = {}
    if camera.zones or camera.lines or camera.ground:
        boxes = store.read(TRACK_BOXES, [recording_id], list(_BOX_COLUMNS))
        boxes = pa.concat_tables([boxes, boxes_before(row, store)]) if camera.joined_within_s else boxes
        boxes = with_times(boxes, row["started_at_utc"])
        boxes = boxes.sort_by([("track_id", "ascending"), ("time_s", "ascending")])
        frames = store.read(FRAMES, [recording_id], ["frame_index", "time_s"]).sort_by("frame_index")
        found = zone_rows(recording_id, boxes, frames, camera, row["width_px"], row["height_px"])
        told = _told(found, boxes, row["duration_s_from_content"])
    for table in TABLES:
        store.replace(table, [recording_id], found[table.name])
    return {t.name: count_metadata(found[t.name].num_rows, **told.get(t.name, {})) for t in TABLES}


def _told(found: dict[str, pa.Table], boxes: pa.Table, duration_s: float) -> dict[str, Metadata]:
    """What Dagster is to show of one recording's rows, by table name."""
    events, seconds = found[ZONE_EVENTS.name], found[ZONE_SECONDS.name]
    times_s, is_up = events["time_s"].to_numpy(), np.isin(events["event"].to_pylist(), ("in", "enter"))
    place = pc.coalesce(events["line_name"], events["zone_name"])
    owns = {name: np.asarray(pc.equal(place, name).to_numpy()) for name in sorted(pc.unique(place).to_pylist())}
    marks = {name: (times_s[own], is_up[own]) for name, own in owns.items()}
    lanes = presence(boxes.filter(pc.greater_equal(boxes["time_s"], 0)), duration_s, TIMELINE_BINS)
    drawn = as_markdown(timeline(lanes, marks, duration_s), "objects at once, and what happened at lines and zones")
    happened = zip(place.to_pylist(), events["event"].to_pylist(), strict=True)
    counts = Counter(f"{name} {event}" for name, event in happened)
    most = {name: pc.max(seconds[name]).as_py() or 0 for name in ("max_occupancy", "max_queue")}
    return {
        ZONE_EVENTS.name: {**class_counts("events", counts), "timeline": MetadataValue.md(drawn)},
        ZONE_SECONDS.name: most,
    }


def boxes_before(row: dict[str, Any], store: Store) -> pa.Table:
    """Boxes of the tracks of the recording before that go on in this one, on its clock: their times are negative.

    Args:
        row: The recording's row of `recordings`.
        store: The tables.
    """
    names = ["track_id", "previous_recording_id", "previous_track_id"]
    links = store.read(TRACK_LINKS, [row["recording_id"]], names)
    previous = links["previous_recording_id"].unique().to_pylist()
    boxes = store.read(TRACK_BOXES, previous, list(_BOX_COLUMNS))
    started = [r["started_at_utc"] for r in store.read(RECORDINGS, previous).to_pylist()]
    offset_s = (row["started_at_utc"] - started[0]).total_seconds() if started else 0.0
    query = """
        SELECT boxes.* REPLACE (links.track_id AS track_id, time_s - $offset_s AS time_s, 0::INTEGER AS frame_index)
        FROM boxes JOIN links ON boxes.track_id = previous_track_id WHERE time_s < $offset_s
    """
    return select(query, {"boxes": boxes, "links": links}, {"offset_s": offset_s}).cast(boxes.schema)


@multi_asset(
    specs=[
        table_asset(
            table,
            group=ANALYSIS,
            code_version=settings_version("zone_events 2"),
            deps=[TRACK_BOXES.name, TRACK_LINKS.name, FRAMES.name, ZONES.name],
            kinds=("numpy",),
        )
        for table in TABLES
    ],
    check_specs=table_checks(*TABLES),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def zone_events(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Count at the lines and in the zones that are drawn for each camera."""
    yield from STAGE.each_recording(context, store, lambda r, _: find_zone_events(r, store, settings))
