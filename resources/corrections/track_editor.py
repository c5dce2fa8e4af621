"""Applies corrections to the tracks of one recording: which box belongs to which track, of which class, and where."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from resources.corrections.correction_log import Correction, undone_ids
from resources.corrections.track_places import Places, TrackFinder, sample_places

_MAX_TIME_ERROR_S = 0.15
_MAX_LONGER_S = 1.0  # a track that lasts longer than what was rejected, on either side, has something else there


@dataclass(frozen=True)
class CorrectionResult:
    """Whether a correction fits the tracks.

    Attributes:
        correction: The correction.
        state: As in the table correction_results.
        reason: Why it does not fit; None if it does.
        track_ids: Numbers of the tracks that it is about, after it.
    """

    correction: Correction
    state: str
    reason: str | None = None
    track_ids: tuple[int, ...] = ()


class MismatchError(Exception):
    """A correction does not fit the tracks; the message is the reason."""


@dataclass
class EditedTrack:
    """What corrections have made of one track.

    Attributes:
        rows: Its rows among the boxes, in order of time.
        parts: Numbers of the tracks of the tracker whose boxes it has, that which gives its class first.
        class_name: Its new class; None if it keeps that of its first part.
        is_accepted: Whether a person has confirmed it.
        is_changed: Whether it differs from the track of the tracker with its number.
        is_recut: Whether its boxes are others, or elsewhere.
    """

    rows: np.ndarray
    parts: tuple[int, ...]
    class_name: str | None = None
    is_accepted: bool = False
    is_changed: bool = False
    is_recut: bool = False


@dataclass
class TrackEditor:
    """The tracks of one recording while corrections are applied.

    Attributes:
        track_id: Numbers by the tracker, shape (n,), sorted by track and time.
        time_s: Shape (n,).
        frame_index: Shape (n,).
        confidence: NaN for interpolated boxes, shape (n,).
        xyxy: px, shape (n, 4); moved boxes are changed.
        tracks: The tracks by number.
        is_moved: Whether a person has moved the box, shape (n,).
    """

    track_id: np.ndarray
    time_s: np.ndarray
    frame_index: np.ndarray
    confidence: np.ndarray
    xyxy: np.ndarray
    tracks: dict[int, EditedTrack] = field(init=False)
    is_moved: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.track_of_row = self.track_id.copy()
        self.is_moved = np.zeros(len(self.track_id), bool)
        self.xyxy = self.xyxy.copy()
        numbers, first = np.unique(self.track_id, return_index=True)
        parts = np.split(np.arange(len(self.track_id)), first[1:]) if len(numbers) else []
        self.tracks = {
            number: EditedTrack(rows, (number,)) for number, rows in zip(numbers.tolist(), parts, strict=True)
        }
        self._next_number = max(self.tracks, default=0) + 1
        self._finder = TrackFinder(self.time_s, self.xyxy, self.track_of_row)

    def apply(self, corrections: Sequence[Correction]) -> list[CorrectionResult]:
        """Apply corrections in their order; those that do not fit change nothing.

        Args:
            corrections: All corrections of the recording, in the order in which they were made.
        """
        undone = undone_ids(corrections)
        return [
            CorrectionResult(correction, "undone")
            if correction.correction_id in undone
            else self._apply_one(correction)
            for correction in corrections
        ]

    def _apply_one(self, correction: Correction) -> CorrectionResult:
        try:
            return CorrectionResult(correction, "applied", None, tuple(self.edit(correction)))
        except MismatchError as error:
            return CorrectionResult(correction, "no_match", str(error))

    def edit(self, correction: Correction) -> list[int]:
        """Apply one correction.

        Returns:
            Numbers of the tracks that it is about, after it.

        Raises:
            MismatchError: It does not fit the tracks; nothing was changed.
        """
        match correction.action:
            case "merge":
                return self._merge(correction)
            case "split":
                return self._split(correction)
            case "swap":
                return self._swap(correction)
            case "move":
                return self._move(correction)
            case "check" | "undo":
                return []
        may_be_longer = correction.action in ("reject", "attribute")
        places = Places.of(correction.track_places)
        numbers = self._find_all(places, correction.track_id, may_be_longer=may_be_longer)
        for number in numbers:
            track = self.tracks[number]
            if correction.action == "reject":
                self._remove(self._cut_out(number, places))
            elif correction.action == "relabel":
                track.class_name, track.is_changed = correction.class_name, True
            elif correction.action == "accept":
                track.is_accepted = True
        return [number for number in numbers if number in self.tracks]

    def places(self, number: int, cut_s: float | None = None) -> list[dict[str, float]]:
        """Places by which a track is found again, where it was detected if possible; see `sample_places`."""
        rows = self.tracks[number].rows
        detected = rows[np.isfinite(self.confidence[rows])]
        sides = [True] if cut_s is None else np.unique(self.time_s[detected] >= cut_s - 1e-6).tolist()
        if len(detected) and len(sides) == (1 if cut_s is None else 2):
            rows = detected
        return [dict(place) for place in sample_places(self.time_s[rows], self.xyxy[rows], cut_s)]

    def _span_s(self, number: int) -> tuple[float, float]:
        rows = self.tracks[number].rows
        return float(self.time_s[rows[0]]), float(self.time_s[rows[-1]])

    def _find_all(self, places: Places, preferred: int | None, *, may_be_longer: bool = False) -> tuple[int, ...]:
        found = self._finder.find_all(places, preferred, self._span_s, may_be_longer=may_be_longer)
        if found.problem:
            raise MismatchError(found.problem)
        return found.track_ids

    def _find_sides(
        self, places: Places, preferred: int | None, time_s: float
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Find the tracks at places before and after a time, those nearest to it first."""
        if not len(places.before(time_s).time_s) or not len(places.since(time_s).time_s):
            raise MismatchError(f"The track has boxes only on one side of {time_s:g} s.")
        before = self._find_all(places.before(time_s), preferred, may_be_longer=True)
        after = self._find_all(places.since(time_s), preferred, may_be_longer=True)
        return (
            tuple(sorted(before, key=lambda number: -self._span_s(number)[1])),
            tuple(sorted(after, key=lambda number: self._span_s(number)[0])),
        )

    def _merge(self, correction: Correction) -> list[int]:
        numbers = dict.fromkeys(
            number
            for places, preferred in (
                (correction.track_places, correction.track_id),
                (correction.other_track_places, correction.other_track_id),
            )
            for number in self._find_all(Places.of(places), preferred, may_be_longer=True)
        )
        return [self._join(sorted(numbers, key=lambda number: (self._span_s(number)[0], number)))]

    def _split(self, correction: Correction) -> list[int]:
        time_s = correction.time_s or 0.0
        before, after = self._find_sides(Places.of(correction.track_places), correction.track_id, time_s)
        both = [number for number in before if number in after]
        self._check_cut(both, time_s)
        return [before[0], *(self._cut(number, time_s) for number in both)] if both else [before[0], after[0]]

    def _swap(self, correction: Correction) -> list[int]:
        time_s = correction.time_s or 0.0
        sides = [
            self._find_sides(Places.of(places), number, time_s)
            for places, number in (
                (correction.track_places, correction.track_id),
                (correction.other_track_places, correction.other_track_id),
            )
        ]
        heads, tails = [before[0] for before, _ in sides], [after[0] for _, after in reversed(sides)]
        if heads[0] == heads[1] or tails[0] == tails[1]:
            raise MismatchError(f"Both objects have one track before or after {time_s:g} s.")
        if heads != tails:
            both = [number for number in heads if number in tails]
            self._check_cut(both, time_s)
            new_numbers = {number: self._cut(number, time_s) for number in both}
            tails = [new_numbers.get(number, number) for number in tails]
            return [self._join([head, tail]) for head, tail in zip(heads, tails, strict=True)]
        return heads

    def _move(self, correction: Correction) -> list[int]:
        time_s = correction.time_s or 0.0
        numbers = self._find_all(Places.of(correction.track_places), correction.track_id, may_be_longer=True)
        rows = np.concatenate([self.tracks[number].rows for number in numbers])
        row = rows[np.abs(self.time_s[rows] - time_s).argmin()]
        number = int(self.track_of_row[row])
        track = self.tracks[number]
        if abs(self.time_s[row] - time_s) > _MAX_TIME_ERROR_S:
            raise MismatchError(f"The track has no box at {time_s:g} s.")
        self.xyxy[row] = [correction.x_min_px, correction.y_min_px, correction.x_max_px, correction.y_max_px]
        self.is_moved[row] = track.is_changed = track.is_recut = True
        return [number]

    def _remove(self, number: int) -> None:
        self.track_of_row[self.tracks[number].rows] = 0
        del self.tracks[number]

    def _cut_out(self, number: int, places: Places) -> int:
        """Cut off what a track has long before and after some places; returns the number of the part between."""
        first_s, last_s = float(places.time_s[0]), float(places.time_s[-1])
        if self._span_s(number)[1] > last_s + _MAX_LONGER_S:
            self._cut(number, last_s + _MAX_TIME_ERROR_S)
        if self._span_s(number)[0] < first_s - _MAX_LONGER_S:
            return self._cut(number, first_s - _MAX_TIME_ERROR_S)
        return number

    def _check_cut(self, numbers: Sequence[int], time_s: float) -> None:
        for number in numbers:
            first_s, last_s = self._span_s(number)
            if not first_s < time_s - 1e-6 <= last_s:
                raise MismatchError(f"The track has boxes only on one side of {time_s:g} s.")

    def _cut(self, number: int, time_s: float) -> int:
        """Cut a track in two; returns the number of the new track, which begins at the time."""
        track = self.tracks[number]
        is_head = self.time_s[track.rows] < time_s - 1e-6
        new_number = self._next_number
        self._next_number += 1
        self.tracks[new_number] = EditedTrack(
            track.rows[~is_head], track.parts, track.class_name, is_changed=True, is_recut=True
        )
        track.rows, track.is_accepted, track.is_changed, track.is_recut = track.rows[is_head], False, True, True
        self.track_of_row[self.tracks[new_number].rows] = new_number
        return new_number

    def _join(self, numbers: Sequence[int]) -> int:
        """Join tracks; returns the number of the first, which they have then."""
        first = numbers[0]
        tracks = [self.tracks[number] for number in numbers]
        if len(tracks) == 1:
            return first
        rows = np.concatenate([track.rows for track in tracks])
        # In a frame with boxes of several of them, the most confident one stays; interpolated ones have no confidence.
        order = np.lexsort((-np.nan_to_num(self.confidence[rows], nan=-1.0), self.frame_index[rows]))
        rows = rows[order]
        is_best = np.diff(self.frame_index[rows], prepend=-1) != 0
        self.track_of_row[rows[~is_best]] = 0
        rows = rows[is_best]
        self.track_of_row[rows] = first
        by_size = sorted(tracks, key=lambda track: -len(track.rows))
        self.tracks[first] = EditedTrack(
            rows,
            tuple(dict.fromkeys(part for track in by_size for part in track.parts)),
            next((track.class_name for track in by_size if track.class_name), None),
            is_changed=True,
            is_recut=True,
        )
        for number in numbers[1:]:
            del self.tracks[number]
        return first
