"""zone_minutes, line_minutes, origin_destinations: events at zones and lines, aggregated per recording.

Grain: one row per zone and minute; per line, direction, class and minute; per class, first and last line of its tracks.
"""

from collections.abc import Mapping

import pyarrow as pa

from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.stage_version import StageVersion
from resources.media.progress import ReportProgress
from resources.schema.zone_tables import LINE_MINUTES, ORIGIN_DESTINATIONS, ZONE_EVENTS, ZONE_MINUTES, ZONE_SECONDS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store

# An exit at the end of the last frame, or in a gap of the source, may be in a minute without a frame.
_ZONE_MINUTE_SQL = """
WITH inside AS (
    SELECT recording_id, zone_name, second_index // 60 AS minute_index, avg(mean_occupancy) AS mean_occupancy,
        max(max_occupancy) AS max_occupancy, avg(mean_queue) AS mean_queue, max(max_queue) AS max_queue
    FROM zone_seconds GROUP BY recording_id, zone_name, minute_index
),
transitions AS (
    SELECT recording_id, zone_name, floor(time_s / 60)::INTEGER AS minute_index,
        count(*) FILTER (WHERE event = 'enter') AS enters, count(*) FILTER (WHERE event = 'exit') AS exits,
        quantile_cont(dwell_s, 0.5) AS dwell_p50_s, quantile_cont(dwell_s, 0.9) AS dwell_p90_s
    FROM zone_events WHERE zone_name IS NOT NULL GROUP BY recording_id, zone_name, minute_index
)
SELECT recording_id, zone_name, minute_index, coalesce(mean_occupancy, 0) AS mean_occupancy,
    coalesce(max_occupancy, 0) AS max_occupancy, coalesce(mean_queue, 0) AS mean_queue,
    coalesce(max_queue, 0) AS max_queue, coalesce(enters, 0)::INTEGER AS enter_count,
    coalesce(exits, 0)::INTEGER AS exit_count, dwell_p50_s, dwell_p90_s
FROM inside FULL JOIN transitions USING (recording_id, zone_name, minute_index)
ORDER BY zone_name, minute_index
"""

_LINE_MINUTE_SQL = """
SELECT recording_id, line_name, event AS direction, class_name, floor(time_s / 60)::INTEGER AS minute_index,
    count(*)::INTEGER AS crossing_count
FROM zone_events WHERE line_name IS NOT NULL
GROUP BY recording_id, line_name, event, class_name, floor(time_s / 60)::INTEGER
ORDER BY line_name, direction, class_name, minute_index
"""

_ORIGIN_DESTINATION_SQL = """
WITH trips AS (
    SELECT recording_id, class_name, track_id, arg_min(line_name, event_index) AS origin_line,
        arg_max(line_name, event_index) AS destination_line, max(time_s) - min(time_s) AS travel_s
    FROM zone_events WHERE line_name IS NOT NULL GROUP BY recording_id, class_name, track_id
)
SELECT recording_id, class_name, origin_line, destination_line, count(*)::INTEGER AS track_count,
    median(travel_s) AS median_travel_s
FROM trips GROUP BY recording_id, class_name, origin_line, destination_line ORDER BY origin_line, destination_line
"""

_QUERIES = {
    ZONE_MINUTES: _ZONE_MINUTE_SQL,
    LINE_MINUTES: _LINE_MINUTE_SQL,
    ORIGIN_DESTINATIONS: _ORIGIN_DESTINATION_SQL,
}
TABLES = tuple(_QUERIES)


def summarize_zones(inputs: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Aggregate the events of one recording by table name.

    Args:
        inputs: The recording's rows of zone_events and zone_seconds, by table name.
    """
    return {table.name: select(query, inputs) for table, query in _QUERIES.items()}


def summarize_recording_zones(recording_id: str, store: Store) -> dict[str, Metadata]:
    """Aggregate one recording's events at zones and lines, and store the rows."""
    inputs = {table.name: store.read(table, [recording_id]) for table in (ZONE_EVENTS, ZONE_SECONDS)}
    rows_by_table = summarize_zones(inputs)
    for table in TABLES:
        store.replace(table, [recording_id], rows_by_table[table.name])
    return {name: count_metadata(rows.num_rows) for name, rows in rows_by_table.items()}


@stage_asset(
    group=ANALYSIS,
    tables=TABLES,
    deps=(ZONE_EVENTS.name, ZONE_SECONDS.name),
    version=lambda _: StageVersion.build("zone_summaries 3"),
    kinds=("duckdb",),
)
def zone_summaries(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Aggregate the events at the zones and lines of each recording."""
    return summarize_recording_zones(recording_id, run.store)
