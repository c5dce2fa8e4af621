"""zone_minutes, line_minutes, origin_destinations: what happened at zones and lines, summed up per recording."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    table_asset,
    table_checks,
)
from resources.arrow_sql import select
from resources.schema import (
    LINE_MINUTES,
    ORIGIN_DESTINATIONS,
    RECORDINGS,
    ZONE_EVENTS,
    ZONE_MINUTES,
    ZONE_SECONDS,
)
from resources.settings import settings_version
from resources.storage import Store

_ZONE_MINUTE_SQL = """
WITH inside AS (
    SELECT recording_id, zone_name, second_index // 60 AS minute_index, avg(mean_occupancy) AS mean_occupancy,
        max(max_occupancy) AS max_occupancy, avg(mean_queue) AS mean_queue, max(max_queue) AS max_queue
    FROM zone_seconds GROUP BY recording_id, zone_name, minute_index
),
moves AS (
    SELECT zone_name, floor(time_s / 60)::INTEGER AS minute_index, count(*) FILTER (WHERE event = 'enter') AS enters,
        count(*) FILTER (WHERE event = 'exit') AS exits, quantile_cont(dwell_s, 0.5) AS dwell_p50_s,
        quantile_cont(dwell_s, 0.9) AS dwell_p90_s
    FROM zone_events WHERE zone_name IS NOT NULL GROUP BY zone_name, minute_index
)
SELECT inside.*, started_at_utc + to_seconds(60 * minute_index) AS minute_start_utc,
    coalesce(enters, 0)::INTEGER AS enter_count, coalesce(exits, 0)::INTEGER AS exit_count, dwell_p50_s, dwell_p90_s
FROM inside LEFT JOIN moves USING (zone_name, minute_index) JOIN recordings USING (recording_id)
ORDER BY zone_name, minute_index
"""

_LINE_MINUTE_SQL = """
SELECT recording_id, line_name, event AS direction, class_name, floor(time_s / 60)::INTEGER AS minute_index,
    any_value(started_at_utc) + to_seconds(60 * floor(time_s / 60)::INTEGER) AS minute_start_utc,
    count(*)::INTEGER AS crossing_count
FROM zone_events JOIN recordings USING (recording_id) WHERE line_name IS NOT NULL
GROUP BY recording_id, line_name, event, class_name, floor(time_s / 60)::INTEGER
ORDER BY line_name, direction, class_name, minute_index
"""

_ORIGIN_DESTINATION_SQL = """
WITH ways AS (
    SELECT recording_id, class_name, track_id, arg_min(line_name, event_index) AS origin_line,
        arg_max(line_name, event_index) AS destination_line, max(time_s) - min(time_s) AS travel_s
    FROM zone_events WHERE line_name IS NOT NULL GROUP BY recording_id, class_name, track_id
)
SELECT recording_id, class_name, origin_line, destination_line, count(*)::INTEGER AS track_count,
    median(travel_s) AS median_travel_s
FROM ways GROUP BY recording_id, class_name, origin_line, destination_line ORDER BY origin_line, destination_line
"""

_QUERIES = {
    ZONE_MINUTES: _ZONE_MINUTE_SQL,
    LINE_MINUTES: _LINE_MINUTE_SQL,
    ORIGIN_DESTINATIONS: _ORIGIN_DESTINATION_SQL,
}
STAGE = Stage("zone_summaries", tuple(_QUERIES))


def summarize_zones(inputs: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The stage's rows of one recording, by table name.

    Args:
        inputs: The recording's rows of recordings, zone_events and zone_seconds, by table name.
    """
    return {table.name: select(query, inputs) for table, query in _QUERIES.items()}


def summarize_recording_zones(recording_id: str, store: Store) -> dict[str, Metadata]:
    """Sum up one recording's zones and lines from its stored rows."""
    inputs = {table.name: store.read(table, [recording_id]) for table in (RECORDINGS, ZONE_EVENTS, ZONE_SECONDS)}
    found = summarize_zones(inputs)
    for table in STAGE.tables:
        store.replace(table, [recording_id], found[table.name])
    return {name: count_metadata(rows.num_rows) for name, rows in found.items()}


@multi_asset(
    specs=[
        table_asset(
            table,
            group=ANALYSIS,
            code_version=settings_version("zone_summaries 1"),
            deps=[ZONE_EVENTS.name, ZONE_SECONDS.name],
            kinds=("duckdb",),
        )
        for table in STAGE.tables
    ],
    check_specs=table_checks(*STAGE.tables),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def zone_summaries(context: AssetExecutionContext, store: ResourceParam[Store]) -> Iterator[Any]:
    """Sum up each recording's zones and lines."""
    yield from STAGE.each_recording(context, store, lambda r, _: summarize_recording_zones(r, store))
