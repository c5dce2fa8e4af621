"""Rows of recordings: what the header of the file claims, joined with what its content is."""

from collections.abc import Sequence
from typing import Any

from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.storage.delta_store import Store

RecordingRow = dict[str, Any]
"""The columns of `recordings` and `recording_contents`; those of the content are None before normalization."""


def read_recording_rows(
    store: Store, recording_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> dict[str, RecordingRow]:
    """Read the rows of probed recordings, by recording_id.

    Args:
        store: The tables.
        recording_ids: Recordings to read; None reads all.
        columns: Columns to read; None reads all.
    """
    content_names = _select(RECORDING_CONTENTS.arrow_schema.names, columns)
    rows = store.read(RECORDINGS, recording_ids, _select(RECORDINGS.arrow_schema.names, columns)).to_pylist()
    contents = store.read(RECORDING_CONTENTS, recording_ids, content_names).to_pylist() if content_names[1:] else []
    content_by_id = {row["recording_id"]: row for row in contents}
    empty = dict.fromkeys(content_names)
    return {row["recording_id"]: {**empty, **content_by_id.get(row["recording_id"], {}), **row} for row in rows}


def _select(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    others = [name for name in names if name != "recording_id"]
    return ["recording_id", *(name for name in others if columns is None or name in columns)]
