"""Quarantine of recordings whose every attempt crashed."""

import pyarrow as pa

from cv_assets.asset_graph import AssetGraph
from cv_assets.recordings import file_columns
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from sensors.recording_states import RecordingStates


def quarantine_crashed(store: Store, states: RecordingStates, graph: AssetGraph) -> list[str]:
    """Quarantine recordings whose every attempt crashed: the row in `recordings` states the stage and the remedy.

    A run that crashed could not store an error itself. The column `status` of a quarantined recording is `failed`.

    Args:
        store: The tables.
        states: The states of all recordings.
        graph: The asset graph; its settings limit the attempts.

    Returns:
        The recordings that were quarantined now.
    """
    quarantined, max_attempts = [], graph.settings.batches.max_attempts
    for state in states.states:
        has_failed = state.failed and state.attempt_count >= max_attempts and state.is_done(max_attempts)
        if not has_failed or state.status in ("failed", "rejected"):
            continue
        stage = next(stage for stage, last in graph.last_of_stage.items() if last in state.failed)
        times = f"{state.attempt_count} times" if state.attempt_count > 1 else "once"
        values = {
            "status": "failed",
            "error": f"The recording is quarantined: its run crashed {times} in the stage {stage} (killed, out of "
            "memory, or a crash in native code). Materialize it to try again; the run's log is in the UI.",
            "failed_stage": stage,
        }
        if state.status is not None:
            store.update(RECORDINGS, state.recording_id, values)
        else:
            source = next(iter(SourceIndex(store).load([state.recording_id]).values()))
            row = file_columns(source) | values
            store.replace(RECORDINGS, [state.recording_id], pa.Table.from_pylist([row], RECORDINGS.arrow_schema))
        quarantined.append(state.recording_id)
    return quarantined
