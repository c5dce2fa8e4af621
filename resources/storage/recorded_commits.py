"""The commits that attempts have recorded in stage_runs, and the results among them that the tables have lost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from resources.errors import PipelineError
from resources.schema.operations_tables import STAGE_RUNS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.own_tables import find_stored_table
from resources.storage.table_check import CheckedTable

# An attempt may also replace rows of another recording, as track links do. Results count only if their stage is not
# processed again anyway; the rows of a rejected recording are not used and may have been removed, except its header.
_NEWEST_SQL = """
WITH commits AS (
    SELECT stage, attempt, finished_at_utc, unnest(commits, recursive := true)
    FROM (SELECT * EXCLUDE (recording_id) FROM stage_runs)
), numbered AS (
    SELECT *, max(finished_at_utc) OVER (PARTITION BY table_name, delta_version) > finished_at_utc AS is_number_reused
    FROM commits
), newest AS (
    SELECT * FROM numbered QUALIFY row_number() OVER (
        PARTITION BY table_name, recording_id, stage ORDER BY finished_at_utc DESC, attempt DESC, delta_version DESC
    ) = 1
), states AS (
    SELECT recording_id, stage, status FROM stage_runs QUALIFY row_number() OVER (
        PARTITION BY recording_id, stage ORDER BY finished_at_utc DESC, attempt DESC
    ) = 1
)
SELECT table_name, recording_id, stage, delta_version, row_count, is_number_reused
FROM newest JOIN states USING (recording_id, stage)
WHERE status NOT IN ('failed', 'interrupted', 'quarantined') AND (
    table_name = 'recordings' OR recording_id NOT IN (SELECT recording_id FROM states WHERE status = 'rejected')
)
"""
_LOST_COMMITS_SQL = """
SELECT table_name, recording_id, stage FROM recorded JOIN tables USING (table_name)
WHERE is_number_reused OR delta_version > version ORDER BY ALL
"""
_OTHER_COUNTS_SQL = """
SELECT table_name, sum(recorded.row_count)::BIGINT AS recorded_count, any_value(tables.row_count) AS stored_count
FROM recorded JOIN tables USING (table_name) GROUP BY table_name HAVING recorded_count <> stored_count ORDER BY ALL
"""
_LOST_ROWS_SQL = """
WITH expected AS (
    SELECT recording_id, sum(row_count) AS row_count FROM recorded WHERE table_name = $table GROUP BY recording_id
), stored AS (
    SELECT recording_id, count(*) AS row_count FROM rows GROUP BY recording_id
), other AS (
    SELECT recording_id FROM expected LEFT JOIN stored USING (recording_id)
    WHERE expected.row_count <> coalesce(stored.row_count, 0)
)
SELECT table_name, recording_id, stage FROM recorded JOIN other USING (recording_id) WHERE table_name = $table
ORDER BY ALL
"""
_VERSIONS_SQL = """
SELECT commit.table_name AS table_name, max(commit.delta_version) AS version
FROM (SELECT unnest(commits) AS commit FROM stage_runs) GROUP BY table_name
"""
_UNRECORDED_SQL = """
WITH newest AS (
    SELECT recording_id, stage, commits FROM stage_runs WHERE data_version IS NOT NULL QUALIFY row_number() OVER (
        PARTITION BY recording_id, stage ORDER BY finished_at_utc DESC, attempt DESC
    ) = 1
)
SELECT recording_id, stage FROM newest WHERE commits IS NULL
"""
_COLUMNS = ("recording_id", "stage", "attempt", "status", "finished_at_utc", "data_version", "commits")


@dataclass(frozen=True, order=True)
class LostResult:
    """Results of a stage at a recording that a table lacks, or has from another attempt than the newest.

    Attributes:
        table_name: The table.
        recording_id: The recording.
        stage: The stage.
    """

    table_name: str
    recording_id: str
    stage: str


@dataclass(frozen=True)
class RecordedCommits:
    """The commits that attempts have recorded.

    Attributes:
        newest: By table, recording and stage, the newest commit and its number of rows.
        versions: The newest recorded commit of each table; it was on the disk before it was recorded.
        unrecorded: Columns `recording_id` and `stage` of the results that were stored by versions of the program that
            recorded no commits.
    """

    newest: pa.Table
    versions: Mapping[str, int]
    unrecorded: pa.Table

    @classmethod
    def read(cls, store: Store) -> "RecordedCommits":
        """Read the commits from the table stage_runs; there are none if it cannot be read."""
        try:
            rows = store.read(STAGE_RUNS, columns=_COLUMNS)
        except PipelineError:
            rows = STAGE_RUNS.empty.select(_COLUMNS)
        tables = {"stage_runs": rows}
        versions = select(_VERSIONS_SQL, tables)
        return cls(
            select(_NEWEST_SQL, tables),
            dict(zip(versions["table_name"].to_pylist(), versions["version"].to_pylist(), strict=True)),
            select(_UNRECORDED_SQL, tables),
        )

    def find_lost(self, store: Store, checked: Mapping[str, CheckedTable], *, is_idle: bool) -> list[LostResult]:
        """Find the results that the tables lack; contents are read only of tables whose number of rows is another.

        Args:
            store: The tables.
            checked: The tables without damage, by name; the others are not examined.
            is_idle: Whether no run is in progress: otherwise numbers of rows change and are not compared.
        """
        tables = {
            "recorded": self.newest,
            "tables": pa.table(
                {
                    "table_name": pa.array(list(checked), pa.string()),
                    "version": pa.array([table.version for table in checked.values()], pa.int64()),
                    "row_count": pa.array([table.row_count for table in checked.values()], pa.int64()),
                }
            ),
        }
        lost = set(_lost_results(select(_LOST_COMMITS_SQL, tables)))
        for row in select(_OTHER_COUNTS_SQL, tables).to_pylist() if is_idle else ():
            table = find_stored_table(store.tables_folder, row["table_name"])
            # Rows of which no attempt is recorded are older than these records.
            is_explained = self.unrecorded.num_rows > 0 and row["stored_count"] > row["recorded_count"]
            if table is not None and not is_explained:
                rows = store.scan(table, None)
                lost |= set(_lost_results(select(_LOST_ROWS_SQL, tables | {"rows": rows}, {"table": table.name})))
        return sorted(lost)

    def unrecorded_results(self, stages: Collection[str]) -> list[tuple[str, str]]:
        """Recording and stage of the results of some stages whose commits are not recorded."""
        pairs = zip(self.unrecorded["recording_id"].to_pylist(), self.unrecorded["stage"].to_pylist(), strict=True)
        return sorted({pair for pair in pairs if pair[1] in stages})


def _lost_results(rows: pa.Table) -> Sequence[LostResult]:
    return [LostResult(**row) for row in rows.to_pylist()]
