"""Tracks of drawn crowds that are damaged at random, and the corrections that undo the damage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from demo.crowd import Crowd
from resources.corrections.correction_log import Correction
from resources.corrections.recording_edits import RecordingEdits, measure_tracks
from resources.schema.track_tables import TRACK_BOXES, TRACKS

CLASSES = ("person", "car", "bus")
_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


def box_rows(
    recording_id: str,
    label: np.ndarray,
    frame_index: np.ndarray,
    xyxy: np.ndarray,
    classes: np.ndarray,
    rate_fps: float,
) -> pa.Table:
    """Build rows of `track_boxes`, sorted by track and frame; classes are numbers in `CLASSES`, of shape (n,)."""
    order = np.lexsort((frame_index, label))
    values: dict[str, Any] = {
        "recording_id": pa.repeat(recording_id, len(label)),
        "track_id": label[order],
        "frame_index": frame_index[order],
        "time_s": frame_index[order] / rate_fps,
        "detection_index": np.zeros(len(label), np.int32),
        "is_interpolated": np.zeros(len(label), bool),
        "class_id": classes[order],
        "class_name": pa.array(np.array(CLASSES)[classes[order]], pa.string()),
        "confidence": np.full(len(label), 0.8),
        **dict(zip(_CORNERS, xyxy[order].T, strict=True)),
        "link_confidence": pa.nulls(len(label), pa.float64()),
    }
    return pa.table({name: values[name] for name in TRACK_BOXES.arrow_schema.names}).cast(TRACK_BOXES.arrow_schema)


def track_rows(boxes: pa.Table, rate_fps: float) -> pa.Table:
    """Build the rows of `tracks` of some boxes."""
    rows = measure_tracks(boxes, rate_fps)
    for name, values in (("link_confidence", None), ("is_doubtful", False), ("class_share", 1.0)):
        rows = rows.append_column(name, pa.array([values] * rows.num_rows, TRACKS.arrow_schema.field(name).type))
    return rows.select(TRACKS.arrow_schema.names).cast(TRACKS.arrow_schema)


Undo = Callable[[RecordingEdits], Correction]
"""Builds the correction that undoes one damage, for tracks in which all later damage is undone."""


@dataclass
class DamagedTracks:
    """The true tracks of a crowd, damaged step by step.

    Args:
        recording_id: The recording.
        crowd: The crowd; each of its objects gets a class at random.
        rng: Random generator.

    Attributes:
        undos: What undoes the damage so far, the last damage first.
    """

    recording_id: str
    crowd: Crowd
    rng: np.random.Generator
    undos: list[Undo] = field(default_factory=list)

    def __post_init__(self) -> None:
        truth = self.crowd.truth
        self.rate_fps = self.crowd.settings.rate_fps
        self.frame, self.label = truth[:, 0].astype(np.int32), truth[:, 1].astype(np.int32)
        self.xyxy = truth[:, 2:6].copy()
        self.classes = self.rng.integers(0, len(CLASSES), self.label.max() + 1).astype(np.int32)[self.label]
        self.true_boxes = self.boxes()
        self._damages = [self._split, self._merge, self._swap, self._relabel, self._add, self._move]

    def boxes(self) -> pa.Table:
        """Rows of `track_boxes` after the damage so far."""
        return box_rows(self.recording_id, self.label, self.frame, self.xyxy, self.classes, self.rate_fps)

    def damage(self, count: int) -> None:
        """Damage the tracks some times, each time in a way that is drawn at random."""
        while count:
            damage = self._damages[self.rng.integers(len(self._damages))]
            undo = damage()
            if undo is not None:
                self.undos.insert(0, undo)
                count -= 1

    def _row_of(self, edits: RecordingEdits, row: int) -> int:
        """The row of the editor that has a box of these tracks."""
        order = np.lexsort((self.frame, self.label))
        return int(np.flatnonzero(order == row)[0])

    def _draw_track(self) -> tuple[int, np.ndarray]:
        label = int(self.rng.choice(np.unique(self.label)))
        rows = np.flatnonzero(self.label == label)
        return label, rows[np.argsort(self.frame[rows])]

    def _correction(self, edits: RecordingEdits, action: str, row: int, **values: Any) -> Correction:
        number = int(edits.editor.track_of_row[self._row_of(edits, row)])
        places = edits.editor.places(number, values.get("time_s"))
        return Correction(self.recording_id, action, "test", track_id=number, track_places=places, **values)

    def _other(self, edits: RecordingEdits, row: int, cut_s: float | None = None) -> dict[str, Any]:
        number = int(edits.editor.track_of_row[self._row_of(edits, row)])
        return {"other_track_id": number, "other_track_places": edits.editor.places(number, cut_s)}

    def _split(self) -> Undo | None:
        _, rows = self._draw_track()
        if len(rows) < 20:
            return None
        cut = int(self.rng.integers(5, len(rows) - 5))
        self.label[rows[cut:]] = self.label.max() + 1
        first, other = rows[0], rows[cut]
        return lambda edits: self._correction(edits, "merge", first, **self._other(edits, other))

    def _merge(self) -> Undo | None:
        (label, rows), (_, other) = self._draw_track(), self._draw_track()
        if self.frame[rows[-1]] >= self.frame[other[0]] or self.classes[rows[0]] != self.classes[other[0]]:
            return None
        self.label[other] = label
        time_s = float(self.frame[other[0]] / self.rate_fps)
        return lambda edits: self._correction(edits, "split", rows[0], time_s=time_s)

    def _swap(self) -> Undo | None:
        (label, rows), (other_label, other) = self._draw_track(), self._draw_track()
        first = max(self.frame[rows[0]], self.frame[other[0]]) + 5
        last = min(self.frame[rows[-1]], self.frame[other[-1]]) - 5
        if label == other_label or first >= last or self.classes[rows[0]] != self.classes[other[0]]:
            return None
        frame = int(self.rng.integers(first, last))
        self.label[rows[self.frame[rows] >= frame]] = other_label
        self.label[other[self.frame[other] >= frame]] = label
        time_s = frame / self.rate_fps
        return lambda edits: self._correction(
            edits, "swap", rows[0], **self._other(edits, other[0], time_s), time_s=time_s
        )

    def _relabel(self) -> Undo | None:
        _, rows = self._draw_track()
        before = int(self.classes[rows[0]])
        self.classes[rows] = (before + 1) % len(CLASSES)
        return lambda edits: self._correction(edits, "relabel", rows[0], class_name=CLASSES[before])

    def _add(self) -> Undo | None:
        """Add a track of nothing, beside an object."""
        _, rows = self._draw_track()
        count, number = len(self.frame), int(self.label.max() + 1)
        size = self.xyxy[rows, 2:] - self.xyxy[rows, :2]
        self.frame = np.append(self.frame, self.frame[rows])
        self.label = np.append(self.label, np.full(len(rows), number, np.int32))
        self.xyxy = np.append(self.xyxy, self.xyxy[rows] + np.tile(0.7 * size, 2), axis=0)
        self.classes = np.append(self.classes, self.classes[rows])
        return lambda edits: self._correction(edits, "reject", count)

    def _move(self) -> Undo | None:
        _, rows = self._draw_track()
        row = int(rows[self.rng.integers(len(rows))])
        before = self.xyxy[row].copy()
        self.xyxy[row] += 300
        values = dict(zip(_CORNERS, before.tolist(), strict=True))
        time_s = float(self.frame[row] / self.rate_fps)
        return lambda edits: self._correction(edits, "move", row, time_s=time_s, **values)
