"""summaries: one row per recording; class_minutes: one per recording, class and minute in which it was seen.

With them heatmap_cells (where the class was) and recording_hours (when, by the clock on the wall).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, MetadataValue, ResourceParam, multi_asset

from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    class_counts,
    count_metadata,
    table_asset,
    table_checks,
)
from cv_assets.wall_clock import WALL_CLOCK
from resources.arrow_sql import select
from resources.errors import RecordingError
from resources.pictures import TIMELINE_BINS, as_markdown, presence, timeline
from resources.schema import (
    CLASS_MINUTES,
    DETECTIONS,
    FRAMES,
    HEATMAP_CELLS,
    MODEL_RUNS,
    RECORDING_HOURS,
    RECORDINGS,
    SUMMARIES,
    TRACK_BOXES,
    TRACKS,
)
from resources.settings import settings_version
from resources.storage import Store
from resources.wall_clock import with_times

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
FROM recordings
"""

_CLASS_MINUTE_SQL = """
WITH minute_frames AS (
    SELECT floor(time_s / 60)::INTEGER AS minute_index, count(*) AS frames FROM frames GROUP BY 1
),
at_once AS (
    SELECT class_name, floor(time_s / 60)::INTEGER AS minute_index, frame_index, count(*) AS objects
    FROM track_boxes GROUP BY ALL
),
busy AS (
    SELECT class_name, minute_index, max(objects) AS max_at_once, sum(objects) AS boxes FROM at_once GROUP BY ALL
),
seen AS (
    SELECT class_name, floor(time_s / 60)::INTEGER AS minute_index, count(DISTINCT track_id) AS track_count
    FROM track_boxes GROUP BY ALL
),
started AS (
    SELECT class_name, floor(start_s / 60)::INTEGER AS minute_index, count(*) AS new_track_count
    FROM tracks GROUP BY ALL
)
SELECT (SELECT recording_id FROM recordings) AS recording_id, class_name, minute_index,
    track_count::INTEGER AS track_count, coalesce(new_track_count, 0)::INTEGER AS new_track_count,
    max_at_once::INTEGER AS max_at_once, boxes / frames AS mean_at_once,
    (SELECT started_at_utc FROM recordings) + to_seconds(60 * minute_index) AS minute_start_utc
FROM seen JOIN busy USING (class_name, minute_index) JOIN minute_frames USING (minute_index)
    LEFT JOIN started USING (class_name, minute_index)
ORDER BY class_name, minute_index
"""


_HEATMAP_SQL = """
WITH picture AS (SELECT recording_id, rate_fps, width_px, width_px / 32 AS cell_px, height_px FROM recordings),
places AS (
    SELECT class_name, track_id,
        floor(least(greatest(y_max_px, 0), height_px - 1) / cell_px) AS row_index,
        floor(least(greatest((x_min_px + x_max_px) / 2, 0), width_px - 1) / cell_px) AS column_index
    FROM track_boxes, picture
)
SELECT (SELECT recording_id FROM picture) AS recording_id, class_name, row_index::INTEGER AS row_index,
    column_index::INTEGER AS column_index, count(DISTINCT track_id)::INTEGER AS track_count,
    count(*) / (SELECT rate_fps FROM picture) AS object_s
FROM places GROUP BY class_name, row_index, column_index ORDER BY class_name, row_index, column_index
"""

_HOURS_SQL = """
WITH boxes AS (
    SELECT class_name, track_id, frame_index, to_timestamp(floor(epoch(captured_at_utc) / 3600) * 3600) AS hour_utc
    FROM track_boxes WHERE captured_at_utc IS NOT NULL
),
at_once AS (
    SELECT class_name, hour_utc, frame_index, count(*) AS objects FROM boxes GROUP BY class_name, hour_utc, frame_index
),
busy AS (
    SELECT class_name, hour_utc, max(objects) AS max_at_once, sum(objects) AS boxes
    FROM at_once GROUP BY class_name, hour_utc
),
first_seen AS (SELECT class_name, track_id, min(hour_utc) AS hour_utc FROM boxes GROUP BY class_name, track_id),
started AS (
    SELECT class_name, hour_utc, count(*) AS new_track_count FROM first_seen GROUP BY class_name, hour_utc
)
SELECT recording_id, camera, hour_utc, class_name, coalesce(new_track_count, 0)::INTEGER AS new_track_count,
    max_at_once::INTEGER AS max_at_once, boxes / rate_fps AS object_s
FROM busy LEFT JOIN started USING (class_name, hour_utc), recordings ORDER BY hour_utc, class_name
"""

_QUERIES = {
    SUMMARIES: _SUMMARY_SQL,
    CLASS_MINUTES: _CLASS_MINUTE_SQL,
    HEATMAP_CELLS: _HEATMAP_SQL,
    RECORDING_HOURS: _HOURS_SQL,
}
STAGE = Stage("summaries", tuple(_QUERIES))


def summarize(inputs: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The stage's rows of one recording, by table name.

    Args:
        inputs: The recording's rows of recordings, frames, detections, tracks and track_boxes, and the detector's row
            of model_runs, by table name.
    """
    return {table.name: select(query, inputs) for table, query in _QUERIES.items()}


def summarize_recording(recording_id: str, store: Store) -> dict[str, Metadata]:
    """Sum up one recording from its stored rows.

    Raises:
        RecordingError: The recording has no normalized video yet.
    """
    columns = {
        RECORDINGS: [
            "recording_id", "camera", "started_at_utc", "duration_s_from_content", "frame_count", "rate_fps",
            "width_px", "height_px",
        ],
        FRAMES: ["frame_index", "time_s"],
        DETECTIONS: ["frame_index"],
        MODEL_RUNS: ["asset_name", "model_id", "engine_name", "analysed_frame_count", "reused_frame_count"],
        TRACKS: ["track_id", "class_name", "start_s"],
        TRACK_BOXES: [
            "track_id", "class_name", "frame_index", "time_s", "captured_at_utc", "x_min_px", "x_max_px", "y_max_px",
        ],
    }  # fmt: skip
    inputs = {table.name: store.read(table, [recording_id], names) for table, names in columns.items()}
    if inputs[RECORDINGS.name]["frame_count"].to_pylist() in ([], [None]):
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    started_at_utc = inputs[RECORDINGS.name]["started_at_utc"][0].as_py()
    inputs[TRACK_BOXES.name] = with_times(inputs[TRACK_BOXES.name], started_at_utc)
    runs = inputs[MODEL_RUNS.name]
    inputs[MODEL_RUNS.name] = runs.filter(pc.equal(runs["asset_name"], DETECTIONS.name))
    found = summarize(inputs)
    for table in STAGE.tables:
        store.replace(table, [recording_id], found[table.name])
    shown = found[SUMMARIES.name].to_pylist()[0]
    names = ("duration_s", "frame_count", "detection_count", "track_count", "max_at_once", "mean_at_once")
    told = {name: shown[name] for name in (*names, "engine_name")}
    per_class = class_counts("tracks", Counter(inputs[TRACKS.name]["class_name"].to_pylist()))
    lanes = presence(inputs[TRACK_BOXES.name], shown["duration_s"], TIMELINE_BINS)
    drawn = as_markdown(timeline(lanes, {}, shown["duration_s"]), "objects of each class at once, over the recording")
    counts = {name: count_metadata(rows.num_rows) for name, rows in found.items()}
    return counts | {SUMMARIES.name: count_metadata(1, **told, **per_class, timeline=MetadataValue.md(drawn))}


@multi_asset(
    specs=[
        table_asset(
            table,
            group=ANALYSIS,
            code_version=settings_version("summaries 2"),
            deps=[
                *(DETECTIONS.name, TRACKS.name, TRACK_BOXES.name, FRAMES.name),
                *((WALL_CLOCK,) if table is RECORDING_HOURS else ()),
            ],
            kinds=("duckdb",),
        )
        for table in STAGE.tables
    ],
    check_specs=table_checks(*STAGE.tables),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def summaries(context: AssetExecutionContext, store: ResourceParam[Store]) -> Iterator[Any]:
    """Sum up each recording."""
    yield from STAGE.each_recording(context, store, lambda r, _: summarize_recording(r, store))
