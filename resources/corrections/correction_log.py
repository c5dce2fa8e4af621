"""The table corrections: rows are only added, each in a commit that is on the disk before the caller goes on."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from resources.schema.correction_tables import CORRECTIONS
from resources.storage.delta_store import Store
from resources.storage.locks import exclusive_lock

Place = Mapping[str, float]
"""A box of a track at a time: time_s, x_min_px, y_min_px, x_max_px, y_max_px."""
_ID_BYTES = 8


@dataclass(frozen=True)
class Correction:
    """One correction; every field is a column of `corrections`."""

    recording_id: str
    action: str
    made_by: str
    made_at_utc: datetime | None = None
    correction_id: str = ""
    track_id: int | None = None
    other_track_id: int | None = None
    track_places: Sequence[Place] | None = field(default=None, repr=False)
    other_track_places: Sequence[Place] | None = field(default=None, repr=False)
    time_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    class_name: str | None = None
    attribute: str | None = None
    value: str | None = None
    x_min_px: float | None = None
    y_min_px: float | None = None
    x_max_px: float | None = None
    y_max_px: float | None = None
    undone_id: str | None = None
    note: str | None = None


def read_corrections(store: Store, recording_ids: Sequence[str] | None = None) -> list[Correction]:
    """Read the corrections of some recordings, or of all, in the order in which they are applied."""
    rows = [Correction(**row) for row in store.read(CORRECTIONS, recording_ids).to_pylist()]
    by_id = {(row.recording_id, row.correction_id): row for row in sorted(rows, key=_order, reverse=True)}
    return sorted(by_id.values(), key=_order)


def _order(correction: Correction) -> tuple[datetime, str]:
    return correction.made_at_utc or datetime.max.replace(tzinfo=UTC), correction.correction_id


def undone_ids(corrections: Sequence[Correction]) -> set[str]:
    """Ids of the corrections that are taken back by an undo that is not taken back itself.

    Args:
        corrections: In the order in which they are applied.
    """
    undone: set[str] = set()
    for correction in reversed(corrections):
        if correction.action == "undo" and correction.undone_id and correction.correction_id not in undone:
            undone.add(correction.undone_id)
    return undone


def corrections_versions(store: Store, recording_ids: Iterable[str]) -> dict[str, str]:
    """A text per recording that changes with each added correction; empty without corrections."""
    ids_by_recording: dict[str, set[str]] = {recording_id: set() for recording_id in recording_ids}
    rows = store.read(CORRECTIONS, columns=["recording_id", "correction_id"])
    ids = zip(rows["recording_id"].to_pylist(), rows["correction_id"].to_pylist(), strict=True)
    for recording_id, correction_id in ids:
        if recording_id in ids_by_recording:
            ids_by_recording[recording_id].add(correction_id)
    return {
        recording_id: f"{len(ids)} corrections, {hash_content(sorted(ids))}" if ids else ""
        for recording_id, ids in ids_by_recording.items()
    }


def append_corrections(store: Store, corrections: Sequence[Correction]) -> list[Correction]:
    """Add corrections in one commit, and wait until the disk has them.

    Other processes may add corrections at the same time.

    Args:
        store: The tables.
        corrections: The corrections without times, in the order in which they are applied. One whose id is stored
            already is left out; one without an id gets one.

    Returns:
        The corrections that were added, with ids and times.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible.
    """
    with exclusive_lock(store.data_folder, "corrections"):
        stored = read_corrections(store, sorted({correction.recording_id for correction in corrections}))
        known = {correction.correction_id for correction in stored}
        # The order of a recording's corrections is that of their times, even where the clock of this machine is behind.
        newest = max((row.made_at_utc for row in stored if row.made_at_utc), default=datetime.min.replace(tzinfo=UTC))
        added: list[Correction] = []
        for correction in corrections:
            if correction.correction_id not in known:
                newest = max(datetime.now(UTC), newest + timedelta(microseconds=1))
                correction_id = correction.correction_id or uuid.uuid4().hex[: 2 * _ID_BYTES]
                added.append(replace(correction, correction_id=correction_id, made_at_utc=newest))
        if added:
            store.append(CORRECTIONS, pa.Table.from_pylist([asdict(row) for row in added], CORRECTIONS.arrow_schema))
    store.sync()
    return added


def hash_content(content: object) -> str:
    """Hash of JSON values, of the form of an id."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()
