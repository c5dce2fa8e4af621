"""summaries: one row per recording; class_minutes: one row per recording, class and minute in which it occurs.

Further tables: heatmap_cells, one row per recording, class and cell of the frame; class_presence, one row per
recording, class and interval with a constant number of objects: results.duckdb computes the hours of the wall clock
from it.
"""

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from dagster import MetadataValue

from cv_assets.detection_filter import DetectionFilter
from cv_assets.media_status import NO_NORMALIZED_VIDEO
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata
from cv_assets.still_tracks import without_left_out
from resources.config.settings import Settings
from resources.corrections.corrected_rows import read_track_boxes, read_tracks
from resources.errors import RecordingError
from resources.media.progress import ReportProgress
from resources.previews.image_encoding import embed_in_markdown
from resources.previews.timeline_chart import TIMELINE_BINS, peak_counts_by_class, timeline_chart
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS
from resources.schema.model_tables import DETECTIONS, MODEL_RUNS
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.summary_tables import CLASS_MINUTES, CLASS_PRESENCE, HEATMAP_CELLS, SUMMARIES
from resources.schema.track_tables import STILL_TRACKS, TRACK_BOXES, TRACKS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store

_SUMMARY_SQL = """
WITH at_once AS (SELECT frame_index, count(*) AS objects FROM track_boxes GROUP BY frame_index)
SELECT recordings.recording_id, camera, duration_s_from_content AS duration_s, frame_count,
    (SELECT count(*) FROM detections) AS detection_count,
    (SELECT count(*) FROM tracks)::INTEGER AS track_count,
    coalesce((SELECT max(objects) FROM at_once), 0)::INTEGER AS max_at_once,
    (SELECT coalesce(sum(objects), 0) FROM at_once) / frame_count AS mean_at_once,
    (SELECT any_value(model_id) FROM model_runs) AS model_id,
    (SELECT any_value(engine_name) FROM model_runs) AS engine_name,
    (SELECT any_value(analysed_frame_count) FROM model_runs) AS analysed_frame_count,
    (SELECT any_value(reused_frame_count) FROM model_runs) AS reused_frame_count
FROM recordings JOIN recording_contents USING (recording_id)
"""

_CLASS_MINUTE_SQL = """
WITH minute_frames AS (
    SELECT floor(time_s / 60)::INTEGER AS minute_index, count(*) AS frames FROM frames GROUP BY 1
),
at_once AS (
    SELECT class_name, floor(time_s / 60)::INTEGER AS minute_index, frame_index, count(*) AS objects
    FROM track_boxes GROUP BY ALL
),
peaks AS (
    SELECT class_name, minute_index, max(objects) AS max_at_once, sum(objects) AS boxes FROM at_once GROUP BY ALL
),
track_counts AS (
    SELECT class_name, floor(time_s / 60)::INTEGER AS minute_index, count(DISTINCT track_id) AS track_count
    FROM track_boxes GROUP BY ALL
),
started AS (
    SELECT class_name, floor(start_s / 60)::INTEGER AS minute_index, count(*) AS new_track_count
    FROM tracks GROUP BY ALL
)
SELECT (SELECT recording_id FROM recordings) AS recording_id, class_name, minute_index,
    track_count::INTEGER AS track_count, coalesce(new_track_count, 0)::INTEGER AS new_track_count,
    max_at_once::INTEGER AS max_at_once, boxes / frames AS mean_at_once
FROM track_counts JOIN peaks USING (class_name, minute_index) JOIN minute_frames USING (minute_index)
    LEFT JOIN started USING (class_name, minute_index)
ORDER BY class_name, minute_index
"""


_HEATMAP_SQL = """
WITH frame AS (SELECT recording_id, rate_fps, width_px, width_px / 32 AS cell_px, height_px FROM recording_contents),
cells AS (
    SELECT class_name, track_id,
        floor(least(greatest(y_max_px, 0), height_px - 1) / cell_px) AS row_index,
        floor(least(greatest((x_min_px + x_max_px) / 2, 0), width_px - 1) / cell_px) AS column_index
    FROM track_boxes, frame
)
SELECT (SELECT recording_id FROM frame) AS recording_id, class_name, row_index::INTEGER AS row_index,
    column_index::INTEGER AS column_index, count(DISTINCT track_id)::INTEGER AS track_count,
    count(*) / (SELECT rate_fps FROM frame) AS object_s
FROM cells GROUP BY class_name, row_index, column_index ORDER BY class_name, row_index, column_index
"""

# A gap in the source ends an interval: its duration is that of its frames. Without a gap, frames are less than twice
# the duration of a frame apart, also at a variable rate.
_PRESENCE_SQL = """
WITH counts AS (
    SELECT class_name, frame_index, any_value(time_s) AS time_s, count(*)::INTEGER AS object_count
    FROM track_boxes GROUP BY class_name, frame_index
),
frame AS (SELECT recording_id, 1 / rate_fps AS frame_s FROM recording_contents),
marked AS (
    SELECT *, coalesce(
        object_count <> lag(object_count) OVER in_order OR frame_index <> lag(frame_index) OVER in_order + 1
        OR time_s - lag(time_s) OVER in_order > 2 * frame_s, true)::INTEGER AS is_first
    FROM counts, frame WINDOW in_order AS (PARTITION BY class_name ORDER BY frame_index)
),
numbered AS (SELECT *, sum(is_first) OVER (PARTITION BY class_name ORDER BY frame_index) AS interval_number FROM marked)
SELECT any_value(recording_id) AS recording_id, class_name, min(time_s) AS start_s,
    max(time_s) + any_value(frame_s) AS end_s, any_value(object_count) AS object_count
FROM numbered GROUP BY class_name, interval_number ORDER BY class_name, start_s
"""

_QUERIES = {
    SUMMARIES: _SUMMARY_SQL,
    CLASS_MINUTES: _CLASS_MINUTE_SQL,
    HEATMAP_CELLS: _HEATMAP_SQL,
    CLASS_PRESENCE: _PRESENCE_SQL,
}
TABLES = tuple(_QUERIES)
_METADATA = (
    "duration_s",
    "frame_count",
    "detection_count",
    "track_count",
    "max_at_once",
    "mean_at_once",
    "engine_name",
)


def summarize(inputs: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Aggregate the stored rows of one recording, by table name.

    Args:
        inputs: The recording's rows of recordings, recording_contents, frames, tracks and track_boxes, its rows of
            detections that count, and the detector's row of model_runs, by table name.
    """
    return {table.name: select(query, inputs) for table, query in _QUERIES.items()}


def summarize_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Summarize one recording from its stored rows, and store the summaries.

    Raises:
        RecordingError: The recording has no normalized video.
    """
    columns_by_table = {
        RECORDINGS: ["recording_id", "camera"],
        RECORDING_CONTENTS: [
            "recording_id", "duration_s_from_content", "frame_count", "rate_fps", "width_px", "height_px",
        ],
        FRAMES: ["frame_index", "time_s"],
        DETECTIONS: ["class_name", "confidence"],
        MODEL_RUNS: ["asset_name", "model_id", "engine_name", "analysed_frame_count", "reused_frame_count"],
        TRACKS: ["track_id", "class_name", "start_s"],
        TRACK_BOXES: ["track_id", "class_name", "frame_index", "time_s", "x_min_px", "x_max_px", "y_max_px"],
    }  # fmt: skip
    as_corrected = {TRACKS: read_tracks, TRACK_BOXES: read_track_boxes}
    inputs = {
        table.name: as_corrected[table](store, [recording_id], names)
        if table in as_corrected
        else store.read(table, [recording_id], names)
        for table, names in columns_by_table.items()
    }
    for table in as_corrected:
        inputs[table.name] = without_left_out(inputs[table.name], recording_id, store)
    if inputs[RECORDING_CONTENTS.name]["frame_count"].to_pylist() in ([], [None]):
        raise RecordingError(NO_NORMALIZED_VIDEO)
    model_runs = inputs[MODEL_RUNS.name]
    inputs[MODEL_RUNS.name] = model_runs.filter(pc.equal(model_runs["asset_name"], DETECTIONS.name))
    inputs[DETECTIONS.name] = DetectionFilter.of_detector(settings).select(inputs[DETECTIONS.name])
    rows_by_table = summarize(inputs)
    for table in TABLES:
        store.replace(table, [recording_id], rows_by_table[table.name])
    summary = rows_by_table[SUMMARIES.name].to_pylist()[0]
    metadata = {
        **{name: summary[name] for name in _METADATA},
        **class_count_metadata("tracks", Counter(inputs[TRACKS.name]["class_name"].to_pylist())),
        "timeline": _timeline(inputs[TRACK_BOXES.name], summary["duration_s"]),
    }
    counts = {name: count_metadata(rows.num_rows) for name, rows in rows_by_table.items()}
    return counts | {SUMMARIES.name: count_metadata(1, **metadata)}


def _timeline(track_boxes: pa.Table, duration_s: float) -> MetadataValue:
    """Chart of the number of objects of each class over the recording."""
    chart = timeline_chart(peak_counts_by_class(track_boxes, duration_s, TIMELINE_BINS), {}, duration_s)
    return MetadataValue.md(embed_in_markdown(chart, "objects per class at a time, over the recording"))


@stage_asset(
    group=ANALYSIS,
    tables=TABLES,
    deps=(DETECTIONS.name, CORRECTED_TRACKS.name, CORRECTED_BOXES.name, STILL_TRACKS.name, FRAMES.name),
    version=lambda settings: DetectionFilter.of_detector(settings).stage_version("summaries 5"),
    kinds=("duckdb",),
)
def summaries(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Summarize each recording: totals, minutes, intervals of presence and a heatmap."""
    return summarize_recording(recording_id, run.store, run.settings)
