"""Objects with their best crops: those of a recording, and those that a search finds."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb

from resources.crop_search import parse_attribute, vote_condition
from resources.errors import PipelineError
from serve.pages.result_rows import Row, fetch_rows
from serve.problems import ProblemError

PAGE_SIZE = 60
"""Objects of a page of the gallery."""
OBJECT_COLUMNS = """
    recording_id, track_id, camera, class_name, start_s, end_s, duration_s, epoch_ms(start_utc) AS start_utc, direction,
    mean_speed_km_h, is_doubtful"""


@dataclass(frozen=True)
class ObjectFilter:
    """Which objects are asked for; empty values do not restrict.

    Attributes:
        recording_id: One recording.
        camera: One camera; "-" means the recordings without a camera.
        class_name: One class.
        place: Name of a zone that the object entered or a line that it crossed.
        attribute: Value of an attribute that a person gave it, or its name; or the vote of a crop model, MODEL=CLASS
            or MODEL.PART=CLASS.
        from_utc: Earliest time at which it may have been last seen, ISO 8601, UTC.
        to_utc: Latest time at which it may have been first seen.
        from_s: Earliest time of the recording at which it may have been last seen.
        to_s: Latest time of the recording at which it may have been first seen.
        min_duration_s: Shortest time in view.
        is_doubtful: Only objects whose track is doubtful.
    """

    recording_id: str = ""
    camera: str = ""
    class_name: str = ""
    place: str = ""
    attribute: str = ""
    from_utc: str = ""
    to_utc: str = ""
    from_s: float = 0
    to_s: float = math.inf
    min_duration_s: float = 0
    is_doubtful: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether all objects fit."""
        return self == ObjectFilter()

    def conditions(self, connection: duckdb.DuckDBPyConnection) -> tuple[list[str], dict[str, object]]:
        """The conditions on rows of v_objects in SQL, and the values of their parameters.

        Raises:
            ProblemError: The attribute is the vote of a crop model that has none.
        """
        conditions, values = ["NOT is_left_out"], dict[str, object]()
        for name, condition in _CONDITIONS.items():
            if (value := getattr(self, name)) and value != math.inf:
                conditions.append(condition)
                if f"${name}" in condition:
                    values[name] = value
        if self.camera == "-":
            conditions[conditions.index(_CONDITIONS["camera"])] = "camera IS NULL"
            del values["camera"]
        if vote := parse_attribute(self.attribute):
            try:
                condition, parameters = vote_condition(connection, *vote, "vote")
            except PipelineError as error:
                raise ProblemError(422, str(error)) from error
            conditions[conditions.index(_ATTRIBUTE_SQL)] = condition
            del values["attribute"]
            values |= parameters
        return conditions, values


_PLACE_SQL = """(recording_id, track_id) IN (
    SELECT (recording_id, track_id) FROM zone_events WHERE zone_name = $place OR line_name = $place)"""
_ATTRIBUTE_SQL = """(recording_id, track_id) IN (
    SELECT (recording_id, unnest(track_ids)) FROM v_corrections
    WHERE state = 'applied' AND action = 'attribute' AND lower($attribute) IN (lower(value), lower(attribute)))"""
_CONDITIONS = {
    "recording_id": "recording_id = $recording_id",
    "camera": "camera = $camera",
    "class_name": "class_name = $class_name",
    "place": _PLACE_SQL,
    "attribute": _ATTRIBUTE_SQL,
    "from_utc": "end_utc >= ($from_utc || '+00')::TIMESTAMPTZ",
    "to_utc": "start_utc <= ($to_utc || '+00')::TIMESTAMPTZ",
    "from_s": "end_s > $from_s",
    "to_s": "start_s < $to_s",
    "min_duration_s": "duration_s >= $min_duration_s",
    "is_doubtful": "is_doubtful",
}


@dataclass(frozen=True)
class ObjectPage:
    """A page of objects.

    Attributes:
        count: Number of objects that fit.
        objects: The objects of the page, each with "jpeg" (base64; None without a crop).
    """

    count: int
    objects: list[Row] = field(default_factory=list)


def read_objects(connection: duckdb.DuckDBPyConnection, selection: ObjectFilter, offset: int, order: str) -> ObjectPage:
    """Read a page of objects with their best crops.

    Args:
        connection: The published results.
        selection: Which objects.
        offset: How many objects to skip.
        order: "time", "newest" or "longest".
    """
    conditions, values = selection.conditions(connection)
    where = " AND ".join(conditions)
    by = {"time": "start_utc, start_s", "newest": "start_utc DESC, start_s", "longest": "duration_s DESC"}[order]
    counted = fetch_rows(connection, f"SELECT count(*) AS count FROM v_objects WHERE {where}", values)
    query = f"""
        SELECT {OBJECT_COLUMNS}, best_crop_frame_index, NULL AS score
        FROM v_objects WHERE {where} ORDER BY {by}, recording_id, track_id LIMIT {PAGE_SIZE} OFFSET $offset
    """
    objects = fetch_rows(connection, query, values | {"offset": offset})
    pictures = _read_pictures(connection, objects)
    for row in objects:
        frame_index = row.pop("best_crop_frame_index")
        keys = ((row["recording_id"], row["track_id"], frame_index), (row["recording_id"], None, frame_index))
        row["jpeg"] = next((pictures[key] for key in keys if key in pictures), None)
    return ObjectPage(counted[0]["count"], objects)


def _read_pictures(
    connection: duckdb.DuckDBPyConnection, objects: Sequence[Mapping[str, object]]
) -> dict[tuple[str, int | None, int], str]:
    """Read the best crops in one query, as base64, by recording, track and frame.

    A corrected track may have its crop under the number that the tracker gave: the key has None as its track if it is
    the only crop of its frame.
    """
    ids = sorted({str(row["recording_id"]) for row in objects})
    frames = sorted({str(row["best_crop_frame_index"]) for row in objects if row["best_crop_frame_index"] is not None})
    query = """
        SELECT recording_id, track_id, frame_index, jpeg FROM crops
        WHERE list_contains($ids, recording_id) AND list_contains($frames::INTEGER[], frame_index) AND jpeg IS NOT NULL
    """
    pictures: dict[tuple[str, int | None, int], str] = {}
    in_frame: dict[tuple[str, int], list[str]] = {}
    for row in fetch_rows(connection, query, {"ids": ids, "frames": frames}) if frames else ():
        text = base64.b64encode(row["jpeg"]).decode()
        pictures[row["recording_id"], row["track_id"], row["frame_index"]] = text
        in_frame.setdefault((row["recording_id"], row["frame_index"]), []).append(text)
    only: dict[tuple[str, int | None, int], str] = {
        (recording_id, None, frame): texts[0] for (recording_id, frame), texts in in_frame.items() if len(texts) == 1
    }
    return {**only, **pictures}
