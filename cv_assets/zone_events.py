"""zone_events: one row per zone entry, zone exit or line crossing of a track (recording_id, track_id, event_index).

From the same boxes: zone_seconds (occupancy and queue of each zone per second), zone_presence (the same by class, as
intervals), line_trips (movement of a track from one line to the next) and ground_tracks (tracks in metres, for cameras
with a ground plane). All come from tracks as corrected and the settings: a moved line reruns no model and no tracker.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dagster import MetadataValue

from cv_assets.camera_settings import CAMERA_ZONES
from cv_assets.media_status import read_normalized_row
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata
from cv_assets.still_tracks import without_left_out
from cv_assets.track_links import boxes_of_preceding
from cv_assets.tracks import CAMERA_COLUMNS, camera_positions, corners
from cv_assets.zone_presence import find_presence
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.corrections.corrected_rows import read_track_boxes
from resources.errors import RecordingError
from resources.geometry.homography import fit_homography, project_to_ground
from resources.geometry.zone_geometry import (
    SideChanges,
    anchor_points,
    find_line_crossings,
    find_zone_transitions,
    interpolate_points,
    velocities,
)
from resources.media.progress import ReportProgress
from resources.previews.image_encoding import embed_in_markdown
from resources.previews.timeline_chart import TIMELINE_BINS, peak_counts_by_class, timeline_chart
from resources.schema.columns import Table
from resources.schema.correction_tables import CORRECTED_BOXES
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import STILL_TRACKS, TRACK_LINKS
from resources.schema.zone_tables import GROUND_TRACKS, LINE_TRIPS, ZONE_EVENTS, ZONE_PRESENCE, ZONE_SECONDS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store

TABLES = (ZONE_EVENTS, ZONE_SECONDS, ZONE_PRESENCE, LINE_TRIPS, GROUND_TRACKS)
_SPEED_WINDOW_S = 1.0  # long enough that the jitter of a box does not count as movement

_BOX_COLUMNS = ("track_id", "frame_index", "time_s", "class_id", "class_name", "x_min_px", "y_min_px",
                "x_max_px", "y_max_px")  # fmt: skip

_EVENTS_SQL = """
SELECT *, row_number() OVER (PARTITION BY track_id ORDER BY time_s, event, zone_name, line_name)::INTEGER - 1
    AS event_index
FROM events ORDER BY track_id, event_index
"""

_TRIPS_SQL = """
WITH crossings AS (SELECT * FROM events WHERE line_name IS NOT NULL),
pairs AS (
    SELECT recording_id, track_id, class_id, class_name,
        line_name AS from_line, event AS from_direction, time_s AS start_s,
        lead(line_name) OVER path AS to_line, lead(event) OVER path AS to_direction,
        lead(time_s) OVER path - time_s AS travel_s,
        sqrt((lead(x_px) OVER path - x_px) ** 2 + (lead(y_px) OVER path - y_px) ** 2) AS distance_px,
        sqrt((lead(x_m) OVER path - x_m) ** 2 + (lead(y_m) OVER path - y_m) ** 2) AS distance_m
    FROM crossings WINDOW path AS (PARTITION BY track_id ORDER BY event_index)
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
FROM positions WHERE isfinite(x_m) AND isfinite(speed_m_s) GROUP BY track_id ORDER BY track_id
"""


class _BoxPositions:
    """Position, speed and size of every box of a recording, one array entry per box, sorted by track and time.

    Args:
        boxes: Rows of `track_boxes`, sorted by track_id and time_s.
        camera: Anchor point, units, hysteresis and ground plane.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        is_repeated: Whether the frame of each box repeats the one before it, shape (n,): there the box stands still
            with the picture, and its object goes on.
        camera_px: How far the picture of each box was shifted from that of the first frame, shape (n, 2); 0 where
            zones and lines stand still in the frame.

    Attributes:
        points: Anchor points in pixels of the first frame, shape (n, 2).
        height_px: Heights of the boxes, at least 1, shape (n,).
        margin_px: Distance from a border beyond which a point is clear of it, shape (n,).
        speed_px_s: Speeds, shape (n,).
        scale: Factor from the units of the settings to pixels, shape (2,).
        points_m: Anchor points on the ground plane, shape (n, 2); NaN without one.
        speed_m_s: Speeds on the ground plane, shape (n,); NaN without one.
    """

    def __init__(
        self,
        boxes: pa.Table,
        camera: CameraSettings,
        width_px: int,
        height_px: int,
        is_repeated: np.ndarray,
        camera_px: np.ndarray | float = 0.0,
    ) -> None:
        xyxy = corners(boxes)
        self.boxes = boxes
        self.track_id, self.time_s = boxes["track_id"].to_numpy(), boxes["time_s"].to_numpy()
        points = anchor_points(xyxy, camera.anchor) - camera_px
        self.points = interpolate_points(self.track_id, self.time_s, points, is_repeated)
        self.height_px = np.maximum(xyxy[:, 3] - xyxy[:, 1], 1)
        self.margin_px = camera.hysteresis * self.height_px
        self.speed_px_s = self._speeds(self.points)
        self.scale = np.array([width_px, height_px]) if camera.units == "relative" else np.ones(2)
        self.points_m = np.full_like(self.points, np.nan)
        self.speed_m_s = np.full(len(self.points), np.nan)
        if camera.ground:
            ground = fit_homography(np.array(camera.ground.points) * self.scale, np.array(camera.ground.metres))
            self.points_m = project_to_ground(ground, self.points)
            self.speed_m_s = self._speeds(self.points_m)

    def _speeds(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(np.hypot(*velocities(self.track_id, self.time_s, points, _SPEED_WINDOW_S).T))

    def interpolate(self, changes: SideChanges) -> dict[str, np.ndarray]:
        """Columns of the times between two boxes at which tracks change sides."""
        row, fraction = changes.row, changes.fraction
        next_row = np.minimum(row + 1, max(len(self.points) - 1, 0))

        def between(values: np.ndarray) -> np.ndarray:
            weight = fraction if values.ndim == 1 else fraction[:, None]
            return np.asarray(values[row] + weight * (values[next_row] - values[row]))

        points, points_m = between(self.points), between(self.points_m)
        return {
            "row": row,
            "next_s": self.time_s[next_row],
            "time_s": between(self.time_s),
            "x_px": points[:, 0],
            "y_px": points[:, 1],
            "x_m": points_m[:, 0],
            "y_m": points_m[:, 1],
            "speed_px_s": self.speed_px_s[row],
            "speed_m_s": self.speed_m_s[row],
        }


def _line_event_columns(positions: _BoxPositions, line_name: str, line: np.ndarray) -> dict[str, Any]:
    changes = find_line_crossings(positions.track_id, positions.points, positions.margin_px, line)
    count = len(changes.row)
    return positions.interpolate(changes) | {
        "event": np.where(changes.sign > 0, "in", "out"),
        "zone_name": [None] * count,
        "line_name": [line_name] * count,
        "dwell_s": np.full(count, np.nan),
        "is_at_track_end": np.zeros(count, bool),
    }


def _zone_event_columns(
    positions: _BoxPositions, zone_name: str, polygon: np.ndarray, frame_s: float
) -> tuple[dict[str, Any], np.ndarray]:
    """Entries and exits of a zone, and which boxes are inside; a visit lasts from an entry to the next exit."""
    changes, is_inside = find_zone_transitions(positions.track_id, positions.points, positions.margin_px, polygon)
    is_first = np.ones(len(is_inside), bool)
    is_first[1:] = positions.track_id[1:] != positions.track_id[:-1]
    first_inside = np.flatnonzero(is_first & is_inside)
    last_inside = np.flatnonzero(np.roll(is_first, -1) & is_inside)

    def transitions(sign: int, end_rows: np.ndarray) -> dict[str, np.ndarray]:
        has_sign = changes.sign == sign
        rows = np.concatenate([changes.row[has_sign], end_rows])
        fraction = np.concatenate([changes.fraction[has_sign], np.zeros(len(end_rows))])
        is_end = np.arange(len(rows)) >= has_sign.sum()
        # Sorted by time, so that the n-th entry and the n-th exit belong to the same visit.
        order = np.lexsort((is_end if sign < 0 else ~is_end, rows))
        columns = positions.interpolate(SideChanges(rows[order], fraction[order], np.full(len(rows), sign)))
        is_end = is_end[order]
        return columns | {"is_at_track_end": is_end, "next_s": np.where(is_end, columns["time_s"], columns["next_s"])}

    entries, exits = transitions(1, first_inside), transitions(-1, last_inside)
    # The last box of a track lasts one frame.
    exits["time_s"] = exits["time_s"] + np.where(exits["is_at_track_end"], frame_s, 0)
    dwell_s = exits["time_s"] - entries["time_s"]
    columns = {name: np.concatenate([entries[name], exits[name]]) for name in entries}
    count = len(dwell_s)
    return columns | {
        "event": np.repeat(["enter", "exit"], count),
        "zone_name": [zone_name] * (2 * count),
        "line_name": [None] * (2 * count),
        "dwell_s": np.concatenate([np.full(count, np.nan), dwell_s]),
    }, is_inside


def _zone_second_rows(
    positions: _BoxPositions, frames: pa.Table, zone_name: str, is_inside: np.ndarray, is_standing: np.ndarray
) -> pa.Table:
    """Build the rows of `zone_seconds` of one zone, for every second that has frames."""
    box_frame_index = positions.boxes["frame_index"].to_numpy()
    frame_index = frames["frame_index"].to_numpy()
    second = np.floor(frames["time_s"].to_numpy()).astype(np.int32)
    frame_count = int(max(frame_index.max(initial=-1), box_frame_index.max(initial=-1))) + 1
    starts = np.flatnonzero(np.diff(second, prepend=-1))
    sizes = np.diff(np.append(starts, len(second)))
    columns: dict[str, Any] = {"zone_name": [zone_name] * len(starts), "second_index": second[starts]}
    for name, is_counted in (("occupancy", is_inside), ("queue", is_inside & is_standing)):
        counted_frame_index = box_frame_index[is_counted & (positions.time_s >= 0)]
        objects = np.bincount(counted_frame_index, minlength=frame_count)[frame_index]
        columns[f"mean_{name}"] = np.add.reduceat(objects, starts) / sizes if len(starts) else []
        columns[f"max_{name}"] = np.maximum.reduceat(objects, starts).astype(np.int32) if len(starts) else []
    return pa.table(columns)


def zone_rows(
    recording_id: str, boxes: pa.Table, frames: pa.Table, camera: CameraSettings, width_px: int, height_px: int
) -> dict[str, pa.Table]:
    """Build the rows of all tables of the stage for one recording.

    Args:
        recording_id: The recording.
        boxes: Its rows of `track_boxes`, sorted by track_id and time_s. Boxes with negative times belong to the
            preceding recording, to tracks that continue in this one: they show where these tracks come from, and give
            no rows.
        frames: Its rows of `frames`, sorted by frame_index, with is_duplicated, and with the positions of a camera
            whose zones are fixed to the ground.
        camera: Zones, lines and ground plane.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.

    Returns:
        The rows by table name.

    Raises:
        RecordingError: The positions of a moving camera are not known.
    """
    camera_px: np.ndarray | float = 0.0
    if camera.fixed_to == "ground":
        camera_px = _camera_of_boxes(boxes, frames)
    # Boxes before time 0 have the frame 0, which repeats none.
    is_repeated = frames["is_duplicated"].to_numpy().astype(bool)[boxes["frame_index"].to_numpy()]
    positions = _BoxPositions(boxes, camera, width_px, height_px, is_repeated, camera_px)
    frame_times_s = frames["time_s"].to_numpy()
    frame_s = float(np.median(np.diff(frame_times_s))) if len(frame_times_s) > 1 else 0.0
    is_standing = positions.speed_px_s < camera.standing_speed * positions.height_px
    event_columns = [
        _line_event_columns(positions, line.name, camera.border_px(line, width_px, height_px)) for line in camera.lines
    ]
    seconds, presence = [], []
    for zone in camera.zones:
        polygon = camera.border_px(zone, width_px, height_px)
        columns, is_inside = _zone_event_columns(positions, zone.name, polygon, frame_s)
        event_columns.append(columns)
        seconds.append(_zone_second_rows(positions, frames, zone.name, is_inside, is_standing))
        presence.append(find_presence(boxes, zone.name, is_inside & (positions.time_s >= 0), is_standing, frame_s))
    events = _event_rows(recording_id, positions, event_columns)
    trips = select(_TRIPS_SQL, {"events": events})
    return {
        ZONE_EVENTS.name: events,
        ZONE_SECONDS.name: _with_recording(recording_id, pa.concat_tables(seconds) if seconds else None, ZONE_SECONDS),
        ZONE_PRESENCE.name: _with_recording(
            recording_id, pa.concat_tables(presence) if presence else None, ZONE_PRESENCE
        ),
        LINE_TRIPS.name: trips,
        GROUND_TRACKS.name: _ground_rows(recording_id, positions) if camera.ground else GROUND_TRACKS.empty,
    }


def _camera_of_boxes(boxes: pa.Table, frames: pa.Table) -> np.ndarray:
    """How far the picture of each box was shifted from that of the first frame, shape (n, 2).

    Raises:
        RecordingError: It was not measured.
    """
    camera_px = camera_positions(frames)
    if camera_px is None:
        raise RecordingError(
            "The recording was normalized before the positions of moving cameras were measured, which fixed_to: ground "
            "needs: materialize normalized_video again."
        )
    return np.asarray(camera_px[boxes["frame_index"].to_numpy()])


def _event_rows(recording_id: str, positions: _BoxPositions, event_columns: list[dict[str, Any]]) -> pa.Table:
    """Build the rows of `zone_events` from the columns of every line and zone."""
    tables = []
    schema = pa.schema(
        [field for field in ZONE_EVENTS.arrow_schema if field.name not in ("recording_id", "event_index")]
    )
    for columns in event_columns:
        row = columns["row"]
        box_rows = positions.boxes.select(["track_id", "frame_index", "class_id", "class_name"]).take(pa.array(row))
        columns["time_s"] = np.maximum(columns["time_s"], 0)
        values = {
            **{name: box_rows[name] for name in box_rows.column_names},
            **{name: columns[name] for name in schema.names if name in columns},
        }
        values = {
            # Unknown values are NaN in arrays and NULL in tables.
            name: pa.array(value, schema.field(name).type, from_pandas=True) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        # Events before time 0 are rows of the preceding recording.
        tables.append(pa.table(values, schema=schema).filter(pa.array(columns["next_s"] >= 0)))
    if not tables:
        return ZONE_EVENTS.empty
    return _with_recording(recording_id, select(_EVENTS_SQL, {"events": pa.concat_tables(tables)}), ZONE_EVENTS)


def _ground_rows(recording_id: str, positions: _BoxPositions) -> pa.Table:
    rows = positions.boxes.select(["track_id", "time_s", "class_id", "class_name"])
    columns = {
        "x_m": positions.points_m[:, 0],
        "y_m": positions.points_m[:, 1],
        "speed_m_s": positions.speed_m_s,
    }
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values))
    rows = rows.append_column("recording_id", pa.repeat(recording_id, len(positions.time_s)))
    return select(_GROUND_SQL, {"positions": rows.filter(pa.array(positions.time_s >= 0))})


def _with_recording(recording_id: str, rows: pa.Table | None, table: Table) -> pa.Table:
    """Add the recording id to some rows, with the columns that their table declares."""
    if rows is None:
        return table.empty
    rows = rows.append_column("recording_id", pa.repeat(recording_id, rows.num_rows))
    return rows.select(table.arrow_schema.names).cast(table.arrow_schema)


def find_zone_events(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Find the events at the zones and lines of one recording's camera and store them.

    Raises:
        RecordingError: The recording has no normalized video, a point of the settings lies outside the frame, or the
            positions of a moving camera are not known.
    """
    row = read_normalized_row(recording_id, store)
    camera = settings.camera(row["camera"])
    if error := camera.out_of_frame_error(row["width_px"], row["height_px"]):
        raise RecordingError(f"The setting cameras.{row['camera'] or ''} is invalid: {error}. Correct the settings.")
    rows_by_table = {table.name: table.empty for table in TABLES}
    metadata: dict[str, Metadata] = {}
    if camera.zones or camera.lines or camera.ground:
        boxes = without_left_out(read_track_boxes(store, [recording_id], _BOX_COLUMNS), recording_id, store)
        if camera.track_link_gap_s:
            boxes = pa.concat_tables([boxes, boxes_of_preceding(row, store, settings, _BOX_COLUMNS)])
        boxes = boxes.sort_by([(name, "ascending") for name in ("track_id", "time_s")])
        frame_columns = ["frame_index", "time_s", "is_duplicated", *CAMERA_COLUMNS]
        frames = store.read(FRAMES, [recording_id], frame_columns).sort_by("frame_index")
        rows_by_table = zone_rows(recording_id, boxes, frames, camera, row["width_px"], row["height_px"])
        metadata = _event_metadata(rows_by_table, boxes, row["duration_s_from_content"])
    for table in TABLES:
        store.replace(table, [recording_id], rows_by_table[table.name])
    return {name: count_metadata(rows.num_rows, **metadata.get(name, {})) for name, rows in rows_by_table.items()}


def _event_metadata(rows_by_table: dict[str, pa.Table], boxes: pa.Table, duration_s: float) -> dict[str, Metadata]:
    """Counts and a timeline chart of one recording's events, by table name."""
    events, seconds = rows_by_table[ZONE_EVENTS.name], rows_by_table[ZONE_SECONDS.name]
    times_s, is_up = events["time_s"].to_numpy(), np.isin(events["event"].to_pylist(), ("in", "enter"))
    zone_or_line = pc.coalesce(events["line_name"], events["zone_name"])
    marks = {}
    for name in sorted(pc.unique(zone_or_line).to_pylist()):
        has_name = np.asarray(pc.equal(zone_or_line, name).to_numpy())
        marks[name] = times_s[has_name], is_up[has_name]
    lanes = peak_counts_by_class(boxes.filter(pc.greater_equal(boxes["time_s"], 0)), duration_s, TIMELINE_BINS)
    chart = timeline_chart(lanes, marks, duration_s)
    timeline = embed_in_markdown(chart, "objects per class at a time, and the events at lines and zones")
    names_and_events = zip(zone_or_line.to_pylist(), events["event"].to_pylist(), strict=True)
    counts = Counter(f"{name} {event}" for name, event in names_and_events)
    peaks = {name: pc.max(seconds[name]).as_py() or 0 for name in ("max_occupancy", "max_queue")}
    return {
        ZONE_EVENTS.name: {**class_count_metadata("events", counts), "timeline": MetadataValue.md(timeline)},
        ZONE_SECONDS.name: peaks,
    }


@stage_asset(
    group=ANALYSIS,
    tables=TABLES,
    deps=(CORRECTED_BOXES.name, STILL_TRACKS.name, TRACK_LINKS.name, FRAMES.name, CAMERA_ZONES.name),
    version=lambda _: StageVersion.build("zone_events 6"),
    kinds=("numpy",),
)
def zone_events(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Find entries, exits and crossings at the zones and lines of each recording's camera."""
    return find_zone_events(recording_id, run.store, run.settings)
