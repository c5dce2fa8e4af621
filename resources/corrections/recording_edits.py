"""The tracks of one recording with corrections applied, and the rows that differ from those of the tracker."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.corrections.correction_log import Correction
from resources.corrections.track_editor import CorrectionResult, EditedTrack, TrackEditor
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS, CORRECTION_RESULTS
from resources.schema.model_tables import DETECTIONS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.votes import UNSURE

_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")

_TRACKS_SQL = """
WITH centred AS (SELECT *, (x_min_px + x_max_px) / 2 AS x_px, (y_min_px + y_max_px) / 2 AS y_px FROM boxes),
stepped AS (
    SELECT *, coalesce(sqrt((x_px - lag(x_px) OVER path) ** 2 + (y_px - lag(y_px) OVER path) ** 2), 0) AS step_px
    FROM centred WINDOW path AS (PARTITION BY track_id ORDER BY frame_index)
)
SELECT any_value(recording_id) AS recording_id, track_id, any_value(class_id) AS class_id,
    any_value(class_name) AS class_name, min(time_s) AS start_s, max(time_s) + 1 / $rate AS end_s,
    max(time_s) + 1 / $rate - min(time_s) AS duration_s, min(frame_index) AS first_frame_index,
    max(frame_index) AS last_frame_index, greatest(count(confidence), 1)::INTEGER AS box_count,
    coalesce(avg(confidence), 0) AS mean_confidence, sum(step_px) AS path_px,
    sum(step_px) / greatest(max(time_s) - min(time_s), 1 / $rate) AS mean_speed_px_s,
    arg_min(x_px, frame_index) AS first_x_px, arg_min(y_px, frame_index) AS first_y_px,
    arg_max(x_px, frame_index) AS last_x_px, arg_max(y_px, frame_index) AS last_y_px
FROM stepped GROUP BY track_id ORDER BY track_id
"""


def measure_tracks(boxes: pa.Table, rate_fps: float) -> pa.Table:
    """Compute the columns of `tracks` that follow from the boxes of tracks.

    Args:
        boxes: Rows of `track_boxes`.
        rate_fps: Frames per second: the last frame of a track lasts 1 / rate_fps.
    """
    return select(_TRACKS_SQL, {"boxes": boxes}, {"rate": rate_fps})


class RecordingEdits:
    """The tracks of one recording while corrections are applied.

    Args:
        recording_id: The recording.
        tracks: Its rows of `tracks` by the tracker.
        boxes: Its rows of `track_boxes` by the tracker, in any order.

    Attributes:
        editor: The tracks as corrected.
    """

    def __init__(self, recording_id: str, tracks: pa.Table, boxes: pa.Table) -> None:
        self.recording_id = recording_id
        self._tracks = {row["track_id"]: row for row in tracks.to_pylist()}
        order = np.lexsort((boxes["frame_index"].to_numpy(), boxes["track_id"].to_numpy()))
        is_sorted = bool((np.diff(order) == 1).all())
        self._boxes = (boxes if is_sorted else boxes.take(pa.array(order))).combine_chunks()
        track_id, time_s, frame_index, confidence, *edges = (
            self._boxes[name].to_numpy() for name in ("track_id", "time_s", "frame_index", "confidence", *_CORNERS)
        )
        self.editor = TrackEditor(track_id, time_s, frame_index, confidence, np.stack(edges, axis=1))

    @classmethod
    def read(cls, recording_id: str, store: Store) -> "RecordingEdits":
        """Read the tracks of a recording as the tracker gave them."""
        tracks, boxes = (store.read(table, [recording_id]) for table in (TRACKS, TRACK_BOXES))
        return cls(recording_id, tracks, boxes)

    def class_name(self, number: int) -> str:
        """Class of a track as corrected."""
        return self._class_of(self.editor.tracks[number])

    def _class_of(self, track: EditedTrack) -> str:
        if track.class_name is not None:
            return track.class_name
        names = [self._tracks[part]["class_name"] for part in track.parts]
        return next((name for name in names if name != UNSURE), UNSURE)

    def rows(self, rate_fps: float, store: Store) -> tuple[pa.Table, pa.Table]:
        """Build the rows of `corrected_tracks` and `corrected_boxes`.

        Args:
            rate_fps: Frames per second: the last frame of a track lasts 1 / rate_fps.
            store: The tables, for the numbers of classes.
        """
        editor = self.editor
        touched = {number: track for number, track in editor.tracks.items() if track.is_changed or track.is_accepted}
        classes = self._classes(touched, store)
        boxes = self._box_rows(touched, classes)
        recut = pa.array([number for number, track in touched.items() if track.is_recut], pa.int32())
        measured = measure_tracks(boxes.filter(pc.is_in(boxes["track_id"], recut)), rate_fps)
        measures = {row["track_id"]: row for row in measured.to_pylist()}
        rows = [
            self._track_row(number, track, classes[number], measures.get(number)) for number, track in touched.items()
        ]
        rows += [row | {"state": "removed"} for number, row in self._tracks.items() if number not in editor.tracks]
        return pa.Table.from_pylist(rows, CORRECTED_TRACKS.arrow_schema), boxes

    def _box_rows(self, touched: dict[int, EditedTrack], classes: dict[int, tuple[int, str]]) -> pa.Table:
        editor = self.editor
        counts = [len(track.rows) for track in touched.values()]
        rows = np.concatenate([np.empty(0, int), *(track.rows for track in touched.values())])
        number = np.repeat(np.array(list(touched), np.int32), counts)
        boxes = self._boxes.take(pa.array(rows))
        class_names = pa.array([classes[track][1] for track in touched], pa.string())
        position = np.repeat(np.arange(len(touched)), counts)
        class_name = class_names.take(pa.array(position))
        is_moved = editor.is_moved[rows]
        is_other_class = pc.not_equal(class_name, boxes["class_name"]).to_numpy(zero_copy_only=False)
        values: dict[str, Any] = {
            **{name: boxes[name] for name in boxes.column_names},
            "track_id": number,
            "tracker_track_id": boxes["track_id"],
            "class_id": np.repeat(np.array([classes[track][0] for track in touched], np.int32), counts),
            "class_name": class_name,
            "is_interpolated": boxes["is_interpolated"].to_numpy() & ~is_moved,
            "is_corrected": is_moved | is_other_class | (number != boxes["track_id"].to_numpy()),
            **dict(zip(_CORNERS, editor.xyxy[rows].T, strict=True)),
        }
        names = CORRECTED_BOXES.arrow_schema.names
        return pa.table({name: values[name] for name in names}).cast(CORRECTED_BOXES.arrow_schema)

    def _track_row(
        self, number: int, track: EditedTrack, class_of_track: tuple[int, str], measures: dict[str, Any] | None
    ) -> dict[str, Any]:
        parts = [self._tracks[part] for part in track.parts]
        links = [part["link_confidence"] for part in parts if part["link_confidence"] is not None]
        row = (measures or parts[0]) | {"track_id": number}
        class_id, class_name = class_of_track
        return row | {
            "class_id": class_id,
            "class_name": class_name,
            "link_confidence": min(links, default=None),
            "is_doubtful": not track.is_accepted and any(part["is_doubtful"] for part in parts),
            "class_share": parts[0]["class_share"] if len(parts) == 1 and track.class_name is None else None,
            "state": "changed" if track.is_changed else "accepted",
        }

    def _classes(self, touched: dict[int, EditedTrack], store: Store) -> dict[int, tuple[int, str]]:
        """Number and name of the class of each touched track; a class that the model lacks gets the next number."""
        names = {number: self._class_of(track) for number, track in touched.items()}
        ids = {row["class_name"]: row["class_id"] for row in self._tracks.values() if row["class_name"] != UNSURE}
        if not {*names.values()} - {UNSURE} <= ids.keys():
            ids = self._detected_classes(store) | ids
        for name in sorted({*names.values()} - {UNSURE}):
            ids.setdefault(name, max(ids.values(), default=-1) + 1)
        return {
            number: (self._tracks[touched[number].parts[0]]["class_id"] if name == UNSURE else ids[name], name)
            for number, name in names.items()
        }

    def _detected_classes(self, store: Store) -> dict[str, int]:
        rows = store.read(DETECTIONS, [self.recording_id], ["class_id", "class_name"])
        pairs = rows.group_by(["class_name", "class_id"]).aggregate([]).sort_by("class_id").to_pylist()
        return {row["class_name"]: row["class_id"] for row in pairs}


def result_rows(recording_id: str, results: Iterable[CorrectionResult]) -> pa.Table:
    """Build the rows of `correction_results`."""
    rows = [
        {
            "recording_id": recording_id,
            "correction_id": result.correction.correction_id,
            "state": result.state,
            "reason": result.reason,
            "track_ids": list(result.track_ids),
        }
        for result in results
    ]
    return pa.Table.from_pylist(rows, CORRECTION_RESULTS.arrow_schema)


def correct_recording(
    recording_id: str, store: Store, corrections: Sequence[Correction], rate_fps: float
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Apply the corrections of a recording.

    Returns:
        Rows of `corrected_tracks`, `corrected_boxes` and `correction_results`.
    """
    edits = RecordingEdits.read(recording_id, store)
    results = edits.editor.apply(corrections)
    return *edits.rows(rate_fps, store), result_rows(recording_id, results)
