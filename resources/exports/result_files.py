"""Exports of counted results: tables, GeoJSON of paths, and counts by flow as OpenTrafficCam has them."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from resources.config.camera_config import CameraSettings
from resources.errors import PipelineError
from resources.exports.annotations import RecordingAnnotations
from resources.geometry.homography import fit_homography, project_to_ground
from resources.geometry.zone_geometry import anchor_points

DEFAULT_TABLES = ("recordings", "v_objects", "track_boxes", "zone_events", "line_trips")
_METRES_PER_DEGREE = 111_320.0  # of latitude, on a sphere of the earth's mean circumference
_OTC_COLUMNS = (
    *("start time", "start occurrence date", "start occurrence time"),
    *("end time", "end occurrence date", "end occurrence time"),
    *("classification", "flow", "from section", "to section", "count"),
)
_ARROW_BATCH_ROWS = 100_000


def select_table(
    results: duckdb.DuckDBPyConnection, name: str, recording_ids: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """The rows of a table or view that belong to some recordings, all of them if it has no recordings.

    Raises:
        PipelineError: There is no such table.
    """
    known = {row[0] for row in results.execute("SELECT table_name FROM published_tables").fetchall()}
    if name not in known:
        raise PipelineError(f"There is no table {name!r}: cv-assets tables lists them.")
    columns = [row[0] for row in results.execute(f"DESCRIBE {name}").fetchall()]
    if "recording_id" not in columns:
        return results.sql(f"FROM {name}")
    return results.sql(f"FROM {name} WHERE recording_id IN (SELECT unnest($ids))", params={"ids": list(recording_ids)})


def write_arrow(relation: duckdb.DuckDBPyRelation, file: Path) -> None:
    """Write rows as an Arrow IPC file, which readers map into memory."""
    reader = relation.to_arrow_reader(_ARROW_BATCH_ROWS)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def write_geojson(
    file: Path,
    recordings: Sequence[RecordingAnnotations],
    cameras: Mapping[str, CameraSettings],
    origin: tuple[float, float] | None,
    bearing_deg: float,
) -> int:
    """Write the path of each track as a line: longitude and latitude, or metres without an origin.

    Args:
        file: The file.
        recordings: The recordings.
        cameras: Settings of the camera of each recording, by the recording; all have a ground.
        origin: Latitude and longitude of the point (0, 0) of the ground; None writes metres.
        bearing_deg: Direction of the y axis of the ground, clockwise from north.

    Returns:
        The number of paths.

    Raises:
        PipelineError: The positions of a moving camera are not known.
    """
    features = []
    for recording in recordings:
        camera = cameras[recording.recording_id]
        scale = np.array([recording.width_px, recording.height_px]) if camera.units == "relative" else np.ones(2)
        assert camera.ground
        matrix = fit_homography(np.array(camera.ground.points) * scale, np.array(camera.ground.metres))
        for number, boxes in recording.tracks().items():
            anchors = anchor_points(np.array([box.xyxy for box in boxes]), camera.anchor)
            if camera.fixed_to == "ground":
                anchors = anchors - recording.ground_shift_px([box.frame_index for box in boxes])
            positions = project_to_ground(matrix, anchors)
            is_on_ground = np.isfinite(positions).all(axis=1)
            if is_on_ground.sum() < 2:
                continue
            frames = [box.frame_index for box, on in zip(boxes, is_on_ground, strict=True) if on]
            points = positions[is_on_ground]
            coordinates = points if origin is None else to_degrees(points, origin, bearing_deg)
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "LineString", "coordinates": coordinates.round(8).tolist()},
                    "properties": {
                        "recording_id": recording.recording_id,
                        "camera": recording.camera,
                        "track_id": number,
                        "class_name": boxes[0].class_name,
                        "frame_indices": frames,
                        "times_s": recording.times_s[frames].tolist(),
                    },
                }
            )
    note = "longitude, latitude (WGS 84)" if origin else "x, y in metres on the axes of the camera's ground; no map"
    content = {"type": "FeatureCollection", "coordinates_note": note, "features": features}
    file.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    return len(features)


def to_degrees(metres: np.ndarray, origin: tuple[float, float], bearing_deg: float) -> np.ndarray:
    """Convert positions on the ground to longitude and latitude; exact to centimetres within a kilometre.

    Args:
        metres: Positions, shape (n, 2).
        origin: Latitude and longitude of the position (0, 0).
        bearing_deg: Direction of the y axis, clockwise from north.

    Returns:
        Longitude and latitude in degrees, shape (n, 2).
    """
    angle = math.radians(bearing_deg)
    east = metres[:, 0] * math.cos(angle) + metres[:, 1] * math.sin(angle)
    north = metres[:, 1] * math.cos(angle) - metres[:, 0] * math.sin(angle)
    latitude, longitude = origin
    return np.column_stack(
        [
            longitude + east / (_METRES_PER_DEGREE * math.cos(math.radians(latitude))),
            latitude + north / _METRES_PER_DEGREE,
        ]
    )


def write_flow_counts(
    results: duckdb.DuckDBPyConnection, file: Path, recording_ids: Sequence[str], interval_min: int
) -> int:
    """Write counts by interval, class and pair of lines, with the columns of OTAnalytics of OpenTrafficCam.

    Args:
        results: The published results.
        file: The CSV file.
        recording_ids: The recordings.
        interval_min: Length of an interval in minutes; those that divide an hour start with it, in UTC.

    Returns:
        The number of rows.

    Raises:
        PipelineError: A recording has no wall clock, or no object went from one line to another.
    """
    results.execute("SET TimeZone = 'UTC'")
    rows = results.execute(
        """
        SELECT time_bucket(to_minutes($minutes), captured_at_utc) AS start_utc, class_name, from_line, to_line, count(*)
        FROM line_trips WHERE recording_id IN (SELECT unnest($ids)) GROUP BY ALL ORDER BY ALL
        """,
        {"ids": list(recording_ids), "minutes": interval_min},
    ).fetchall()
    if not rows:
        raise PipelineError("No object went from one line to another: flows need two lines in cameras.NAME.lines.")
    if any(row[0] is None for row in rows):
        raise PipelineError("The start of a recording is not known, so that its trips belong to no interval.")
    with file.open("w", newline="", encoding="utf-8") as content:
        writer = csv.writer(content)
        writer.writerow(_OTC_COLUMNS)
        for start_utc, class_name, from_line, to_line, count in rows:
            end_utc = start_utc + timedelta(minutes=interval_min)
            times: list[str] = []
            for time_utc in (start_utc, end_utc):
                times += [f"{time_utc:%Y-%m-%d %H:%M:%S}", f"{time_utc:%Y-%m-%d}", f"{time_utc:%H:%M:%S}"]
            writer.writerow([*times, class_name, f"{from_line} --> {to_line}", from_line, to_line, count])
    return len(rows)
