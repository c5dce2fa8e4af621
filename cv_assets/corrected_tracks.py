"""corrected_tracks: one row per track that corrections have accepted, changed or removed (recording_id, track_id).

Further tables: corrected_boxes, the boxes of these tracks; correction_results, whether each correction fits the tracks.
They have only what differs from `tracks` and `track_boxes`: without corrections nothing. What counts tracks reads both
through `resources/corrections/corrected_rows.py`, and `tracks` and `track_boxes` of results.duckdb are views of both.
"""

from collections import Counter
from collections.abc import Mapping

from cv_assets.corrections import CORRECTIONS_ASSET
from cv_assets.media_status import read_normalized_row
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.stage_version import StageVersion
from resources.corrections.correction_log import read_corrections
from resources.corrections.recording_edits import correct_recording
from resources.media.progress import ReportProgress
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS, CORRECTION_RESULTS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store

TABLES = (CORRECTED_TRACKS, CORRECTED_BOXES, CORRECTION_RESULTS)


def correct_tracks(recording_id: str, store: Store) -> dict[str, Metadata]:
    """Apply the corrections of one recording, and store what they change.

    Raises:
        RecordingError: The recording has no normalized video and therefore no tracks.
    """
    corrections = read_corrections(store, [recording_id])
    rows_by_table = {table.name: table.empty for table in TABLES}
    states = Counter[str]()
    if corrections:
        rate_fps = read_normalized_row(recording_id, store)["rate_fps"]
        rows = correct_recording(recording_id, store, corrections, rate_fps)
        rows_by_table = {table.name: part for table, part in zip(TABLES, rows, strict=True)}
        states.update(rows_by_table[CORRECTION_RESULTS.name]["state"].to_pylist())
    for table in TABLES:
        # Without corrections there is nothing to store, and no commit to wait for.
        if corrections or store.scan(table, [recording_id]).count_rows():
            store.replace(table, [recording_id], rows_by_table[table.name])
    metadata: dict[str, Metadata] = {
        CORRECTION_RESULTS.name: {f"{state}_count": states[state] for state in sorted(states)}
    }
    return {name: count_metadata(rows.num_rows, **metadata.get(name, {})) for name, rows in rows_by_table.items()}


@stage_asset(
    group=ANALYSIS,
    tables=TABLES,
    deps=(TRACKS.name, TRACK_BOXES.name, CORRECTIONS_ASSET.name),
    version=lambda _: StageVersion.build("corrected_tracks 1"),
    kinds=("numpy",),
)
def corrected_tracks(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Apply the corrections of people to the tracks of each recording."""
    return correct_tracks(recording_id, run.store)
