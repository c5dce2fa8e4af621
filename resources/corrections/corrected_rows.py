"""Rows of tracks and their boxes as corrected: those of the tracker, with the few that corrections have changed."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from resources.schema.columns import Table
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store


def read_tracks(store: Store, recording_ids: Sequence[str] | None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read tracks as corrected; see `Store.read`."""
    return _read(store, TRACKS, CORRECTED_TRACKS, recording_ids, columns)


def read_track_boxes(
    store: Store, recording_ids: Sequence[str] | None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read the boxes of tracks as corrected; see `Store.read`."""
    return _read(store, TRACK_BOXES, CORRECTED_BOXES, recording_ids, columns)


def _read(
    store: Store,
    table: Table,
    corrected_table: Table,
    recording_ids: Sequence[str] | None,
    columns: Sequence[str] | None,
) -> pa.Table:
    names = list(columns or table.arrow_schema.names)
    corrected = store.read(CORRECTED_TRACKS, recording_ids, ["recording_id", "track_id", "state"])
    if not corrected.num_rows:
        return store.read(table, recording_ids, names)
    rows = store.read(table, recording_ids, list(dict.fromkeys([*names, "recording_id", "track_id"])))
    for recording_id in corrected["recording_id"].unique().to_pylist():
        of_recording = corrected.filter(pc.equal(corrected["recording_id"], recording_id))
        is_replaced = pc.and_(
            pc.equal(rows["recording_id"], recording_id),
            pc.is_in(rows["track_id"], of_recording["track_id"].combine_chunks()),
        )
        rows = rows.filter(pc.invert(is_replaced))
    further = ["state"] if corrected_table is CORRECTED_TRACKS else []
    changed = store.read(corrected_table, recording_ids, [*names, *further])
    if further:
        changed = changed.filter(pc.not_equal(changed["state"], "removed"))
    return pa.concat_tables([rows.select(names), changed.select(names)])
