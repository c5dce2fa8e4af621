"""Corrections as people state them, by the numbers of tracks: checked, tied to places, and stored."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from resources.corrections.correction_log import (
    Correction,
    append_corrections,
    hash_content,
    read_corrections,
)
from resources.corrections.recording_edits import RecordingEdits
from resources.corrections.track_editor import MismatchError
from resources.errors import PipelineError
from resources.schema.correction_tables import ACTIONS
from resources.schema.recording_tables import RECORDINGS
from resources.storage.delta_store import Store

_EDGES = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "accept": ("track_id",),
    "reject": ("track_id",),
    "relabel": ("track_id", "class_name"),
    "merge": ("track_id", "other_track_id"),
    "split": ("track_id", "time_s"),
    "swap": ("track_id", "other_track_id", "time_s"),
    "move": ("track_id", "time_s", *_EDGES),
    "attribute": ("track_id", "attribute", "value"),
    "check": ("start_s", "end_s"),
    "undo": ("undone_id",),
}
_ALWAYS = ("recording_id", "action", "made_by", "note")
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("track_id", "other_track_id"), int),
    **dict.fromkeys(("time_s", "start_s", "end_s", *_EDGES), float),
}
FIELDS = (*_ALWAYS, *dict.fromkeys(name for names in _NEEDED.values() for name in names))
"""What a person can state about a correction; all are columns of `corrections`."""


@dataclass(frozen=True)
class CorrectionRequest:
    """A correction as a person states it.

    Attributes:
        where: How messages name it, such as the row of a file.
        values: Values by the names of columns; those that are None or empty are left out.
        correction_id: Its id, if it may have been stored before; empty for a new one.
        options: How the person writes columns, where that is not their name.
    """

    where: str
    values: Mapping[str, Any]
    correction_id: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def list_names(self, columns: Sequence[str], joined_by: str) -> str:
        """Join the names of some columns as the person writes them."""
        return joined_by.join(dict.fromkeys(self.options.get(column, column) for column in columns))


def number_requests(requests: Sequence[CorrectionRequest]) -> list[CorrectionRequest]:
    """Give the rows of a file ids that depend on them and the rows before them.

    So a file can be read again, also with further rows at its end: rows that are stored already have known ids.
    """
    numbered, previous = [], ""
    for request in requests:
        previous = hash_content([previous, dict(request.values)])
        numbered.append(replace(request, correction_id=previous))
    return numbered


def store_corrections(store: Store, requests: Sequence[CorrectionRequest], made_by: str) -> list[Correction]:
    """Store corrections, all or none. Each sees the tracks as those before it leave them.

    Args:
        store: The tables.
        requests: The corrections, in order.
        made_by: Who makes them, where they do not say it themselves.

    Returns:
        The corrections that were stored; those with the id of a stored one are left out.

    Raises:
        PipelineError: One is incomplete, names what does not exist, or does not fit the tracks.
    """
    checked = [(request, _check(request, made_by)) for request in requests]
    resolver = _Resolver(store)
    new = []
    for request, correction in checked:
        if resolver.is_new(correction):
            try:
                new.append(resolver.resolve(correction))
            except MismatchError as error:
                raise PipelineError(f"{request.where}: {error}") from error
    return append_corrections(store, new)


def _check(request: CorrectionRequest, made_by: str) -> Correction:
    """Check that a request has what its action needs, and nothing else.

    Raises:
        PipelineError: It lacks something, has something else, or a value is of the wrong kind.
    """
    values = {name: value for name, value in request.values.items() if value is not None and value != ""}
    action = values.get("action")
    if action not in ACTIONS:
        raise PipelineError(f"{request.where}: the action {action!r} does not exist; there are: {', '.join(ACTIONS)}.")
    needed = _NEEDED[action]
    of_recording = () if action == "undo" else ("recording_id",)
    missing = [name for name in (*of_recording, *needed) if name not in values]
    if missing:
        raise PipelineError(f"{request.where}: {action} needs {request.list_names(missing, ' and ')}.")
    if unused := [name for name in values if name not in (*needed, *_ALWAYS)]:
        unused_names = request.list_names(unused, " and no ")
        raise PipelineError(f"{request.where}: {action} takes no {unused_names}: leave it out.")
    for name, kind in _KINDS.items():
        if name in values:
            values[name] = _number(request.where, name, values[name], kind)
    if action == "check" and values["start_s"] >= values["end_s"]:
        raise PipelineError(f"{request.where}: start_s must be less than end_s.")
    if action == "move" and not (values["x_min_px"] < values["x_max_px"] and values["y_min_px"] < values["y_max_px"]):
        raise PipelineError(f"{request.where}: the box has no area: its minima must be less than its maxima.")
    texts = {name: str(value) for name, value in values.items() if name not in _KINDS}
    defaults = {"made_by": made_by, "recording_id": "", "correction_id": request.correction_id}
    return Correction(**{**defaults, **values, **texts})


def _number(where: str, name: str, value: Any, kind: type) -> float | int:
    try:
        number = float(value)
        if number != number or abs(number) == float("inf") or (kind is int and number != int(number)):
            raise ValueError(value)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{where}: {name} is {value!r}, which is no {'whole ' * (kind is int)}number.") from error
    return int(number) if kind is int else number


@dataclass
class _Resolver:
    """Ties corrections to places of tracks, in the tracks that all corrections before them leave.

    Attributes:
        store: The tables.
        corrections: By recording, its corrections so far.
        edits: By recording, its tracks after these.
    """

    store: Store
    corrections: dict[str, list[Correction]] = field(init=False)
    edits: dict[str, RecordingEdits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corrections = {}
        for correction in read_corrections(self.store):
            self.corrections.setdefault(correction.recording_id, []).append(correction)
        self._known = {row.correction_id: row.recording_id for rows in self.corrections.values() for row in rows}
        self._recordings = self.store.read(RECORDINGS, columns=["recording_id"])["recording_id"].to_pylist()

    def is_new(self, correction: Correction) -> bool:
        """Whether the correction is not stored."""
        return not correction.correction_id or correction.correction_id not in self._known

    def resolve(self, correction: Correction) -> Correction:
        """Tie a correction to places.

        Raises:
            MismatchError: It names what does not exist, or does not fit the tracks.
        """
        if correction.action == "undo":
            if correction.undone_id not in self._known:
                raise MismatchError(f"no correction has the id {correction.undone_id!r}: v_corrections has all ids.")
            correction = replace(correction, recording_id=self._known[correction.undone_id])
        recording_id = correction.recording_id
        edits = self._open(recording_id)
        cut_s = correction.time_s if correction.action in ("split", "swap") else None
        if correction.track_id is not None:
            correction = replace(correction, track_places=self._places(edits, correction.track_id, cut_s))
        if correction.other_track_id is not None:
            if correction.other_track_id == correction.track_id:
                raise MismatchError(f"track_id and other_track_id are both {correction.track_id}.")
            other_places = self._places(edits, correction.other_track_id, cut_s)
            correction = replace(correction, other_track_places=other_places)
        edits.editor.edit(correction)
        self.corrections.setdefault(recording_id, []).append(correction)
        if correction.action == "undo":
            del self.edits[recording_id]  # the tracks without what was taken back
        return correction

    def _open(self, recording_id: str) -> RecordingEdits:
        if recording_id not in self.edits:
            if recording_id not in self._recordings:
                nearest = difflib.get_close_matches(recording_id, self._recordings, n=1)
                remedy = f"did you mean {nearest[0]}?" if nearest else "the table recordings has all ids."
                raise MismatchError(f"no recording has the id {recording_id!r}; {remedy}")
            edits = RecordingEdits.read(recording_id, self.store)
            edits.editor.apply(self.corrections.get(recording_id, []))
            self.edits[recording_id] = edits
        return self.edits[recording_id]

    def _places(self, edits: RecordingEdits, number: int, cut_s: float | None) -> Sequence[Mapping[str, float]]:
        if number not in edits.editor.tracks:
            known = edits.editor.tracks
            which = f"its tracks have the numbers from {min(known)} to {max(known)}" if known else "it has no tracks"
            raise MismatchError(f"the recording {edits.recording_id} has no track {number}; {which}.")
        return edits.editor.places(number, cut_s)
