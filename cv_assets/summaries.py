"""summaries: one row per recording; class_minutes: one per recording, class and minute in which it was seen."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    recordings_partitions,
    table_asset,
    table_checks,
)
from resources.arrow_sql import select
from resources.errors import RecordingError
from resources.schema import CLASS_MINUTES, DETECTIONS, FRAMES, MODEL_RUNS, RECORDINGS, SUMMARIES, TRACK_BOXES, TRACKS
from resources.settings import settings_version
from resources.storage import Store

STAGE = Stage("summaries", (SUMMARIES, CLASS_MINUTES))

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
    max_at_once::INTEGER AS max_at_once, boxes / frames AS mean_at_once
FROM seen JOIN busy USING (class_name, minute_index) JOIN minute_frames USING (minute_index)
    LEFT JOIN started USING (class_name, minute_index)
ORDER BY class_name, minute_index
"""


def summarize(inputs: dict[str, pa.Table]) -> tuple[pa.Table, pa.Table]:
    """Rows of `summaries` and `class_minutes` of one recording.

    Args:
        inputs: The recording's rows of recordings, frames, detections, tracks and track_boxes, and the detector's row
            of model_runs, by table name.
    """
    return select(_SUMMARY_SQL, inputs), select(_CLASS_MINUTE_SQL, inputs)


def summarize_recording(recording_id: str, store: Store) -> dict[str, Metadata]:
    """Sum up one recording from its stored rows.

    Raises:
        RecordingError: The recording has no normalized video yet.
    """
    columns = {
        RECORDINGS: ["recording_id", "camera", "duration_s_from_content", "frame_count"],
        FRAMES: ["frame_index", "time_s"],
        DETECTIONS: ["frame_index"],
        MODEL_RUNS: ["asset_name", "model_id", "engine_name", "analysed_frame_count", "reused_frame_count"],
        TRACKS: ["track_id", "class_name", "start_s"],
        TRACK_BOXES: ["track_id", "class_name", "frame_index", "time_s"],
    }
    inputs = {table.name: store.read(table, [recording_id], names) for table, names in columns.items()}
    runs = inputs[MODEL_RUNS.name]
    inputs[MODEL_RUNS.name] = runs.filter(pc.equal(runs["asset_name"], DETECTIONS.name))
    if inputs["recordings"]["frame_count"].to_pylist() in ([], [None]):
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    summary, class_minutes = summarize(inputs)
    store.replace(SUMMARIES, [recording_id], summary)
    store.replace(CLASS_MINUTES, [recording_id], class_minutes)
    shown = summary.to_pylist()[0]
    numbers = {name: shown[name] for name in ("duration_s", "frame_count", "detection_count", "track_count")}
    return {
        SUMMARIES.name: count_metadata(1, **numbers),
        CLASS_MINUTES.name: count_metadata(class_minutes.num_rows),
    }


@multi_asset(
    specs=[
        table_asset(
            table,
            group=ANALYSIS,
            code_version=settings_version("summaries 2"),
            deps=[DETECTIONS.name, TRACKS.name, TRACK_BOXES.name, FRAMES.name],
            kinds=("duckdb",),
        )
        for table in (SUMMARIES, CLASS_MINUTES)
    ],
    check_specs=table_checks(SUMMARIES, CLASS_MINUTES),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def summaries(context: AssetExecutionContext, store: ResourceParam[Store]) -> Iterator[Any]:
    """Sum up each recording."""
    yield from STAGE.each_recording(context, store, lambda r, _: summarize_recording(r, store))
