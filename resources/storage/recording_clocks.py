"""The table recording_clocks: computed from the rows of recordings and the settings whenever either has changed."""

import pyarrow as pa
import pyarrow.compute as pc

from resources.config.settings import Settings
from resources.schema.recording_tables import RECORDING_CLOCKS
from resources.start_times import CLOCK_COLUMNS, recording_start
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows


def update_recording_clocks(store: Store, settings: Settings) -> bool:
    """Compute the start of every recording, and store those that differ from the stored ones.

    Args:
        store: The tables.
        settings: Clocks of the cameras, and patterns of file names that contain the time.

    Returns:
        Whether any start has changed.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible.
    """
    rows = read_recording_rows(store, columns=CLOCK_COLUMNS)
    starts = {
        recording_id: (*start, settings.camera(row["camera"]).time_zone or settings.ingest.time_zone)
        for recording_id, row in rows.items()
        if (start := recording_start(row, settings))
    }
    stored = {
        row["recording_id"]: (row["started_at_utc"], row["started_at_source"], row["time_zone"])
        for row in store.read(RECORDING_CLOCKS).to_pylist()
    }
    changed = sorted(name for name in {*starts, *stored} if starts.get(name) != stored.get(name))
    if not changed:
        return False
    columns = ("started_at_utc", "started_at_source", "time_zone")
    clocks = [
        {"recording_id": name, **dict(zip(columns, starts[name], strict=True))} for name in changed if name in starts
    ]
    store.replace(RECORDING_CLOCKS, changed, pa.Table.from_pylist(clocks, RECORDING_CLOCKS.arrow_schema))
    return True


def guessed_clocks_sentence(store: Store) -> str | None:
    """Say how many recordings have a guessed start and how to set it; None if every recording has a time of its own."""
    sources = store.read(RECORDING_CLOCKS, columns=["started_at_source"])["started_at_source"]
    guessed_count = pc.sum(pc.equal(sources, "mtime")).as_py() or 0
    if not guessed_count:
        return None
    return (
        f"Clock times of {guessed_count} of {len(sources)} recordings are a guess, from the time at which the file was "
        "last changed: put the start into the file's name, as in gate_2026-01-31_12-00-00.mp4, or set "
        "ingest.captured_at_patterns for your names."
    )
