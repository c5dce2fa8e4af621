"""Where the results of a recording come from: file, packets, model, stages and versions."""

import duckdb

from serve.pages.result_rows import Row, fetch_rows

_LEDGER = (
    ("packet_count", "Packets read"),
    ("discarded_count", "Excluded by the edit list"),
    ("corrupt_count", "Did not decode"),
    ("hidden_count", "Without a frame of their own"),
    ("extra_count", "Further frames of a packet"),
    ("damaged_count", "Decoded with errors"),
    ("frame_count_from_content", "Frames decoded"),
    ("decimated_count", "Dropped to keep the frame rate"),
    ("out_of_range_count", "Outside the time range of the settings"),
    ("duplicated_count", "Repeated to keep the frame rate"),
    ("frame_count", "Frames of the normalized video"),
)

# Not the view recordings, which computes the status of all recordings. One whose file was never read has NULLs alone.
_FILE_SQL = """
    SELECT * REPLACE (epoch_ms(started_at_utc) AS started_at_utc, epoch_ms(mtime_utc) AS mtime_utc,
        epoch_ms(created_at_utc) AS created_at_utc)
    FROM (SELECT $id::VARCHAR AS recording_id) LEFT JOIN recording_headers USING (recording_id)
        LEFT JOIN recording_contents USING (recording_id)
        LEFT JOIN (SELECT * EXCLUDE (camera) FROM recording_clocks) USING (recording_id)
"""
_STAGES_SQL = """
    SELECT stage, status, error, attempt, elapsed_s, epoch_ms(finished_at_utc) AS finished_at_utc, worker, requested_by,
        code_version, data_version, run_id
    FROM stage_runs WHERE recording_id = $id
    QUALIFY row_number() OVER (PARTITION BY stage ORDER BY finished_at_utc DESC, attempt DESC) = 1
    ORDER BY finished_at_utc
"""
_MODELS_SQL = """
    SELECT asset_name, model_id, engine_name, device_name, analysed_frame_count, reused_frame_count, elapsed_s
    FROM model_runs WHERE recording_id = $id ORDER BY asset_name
"""


def read_provenance(connection: duckdb.DuckDBPyConnection, recording_id: str) -> Row:
    """Read the file, the packet ledger, the models and the newest attempt of each stage of a recording.

    Returns:
        "file" (columns of `recordings`), "ledger" (label and count), "models" and "stages".
    """
    file = fetch_rows(
        connection,
        _FILE_SQL,
        {"id": recording_id},
    )[0]
    return {
        "file": file,
        "ledger": [(label, file[name]) for name, label in _LEDGER if file[name] is not None],
        "models": fetch_rows(connection, _MODELS_SQL, {"id": recording_id}),
        "stages": fetch_rows(connection, _STAGES_SQL, {"id": recording_id}),
    }
