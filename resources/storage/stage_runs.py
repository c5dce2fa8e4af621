"""The table stage_runs: the state of every recording, as the newest row per recording and stage.

The table is append-only, so that several workers never conflict. The batch loop appends a row when an attempt ends; the
run planner appends rows for runs that died. Queued and running attempts have no row: Dagster's run records list them.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from resources.schema.operations_tables import STAGE_RUNS
from resources.storage.arrow_sql import select
from resources.storage.commit_recorder import Commit
from resources.storage.delta_store import Store

_NEWEST_SQL = """
SELECT {columns} FROM stage_runs {where}
QUALIFY row_number() OVER (PARTITION BY recording_id, stage ORDER BY finished_at_utc DESC, attempt DESC) = 1
"""


@dataclass(frozen=True)
class StageRun:
    """One attempt of a stage at a recording; every field is a column of `stage_runs`."""

    recording_id: str
    stage: str
    attempt: int
    status: str
    run_id: str
    finished_at_utc: datetime
    requested_by: str
    error: str | None = None
    data_version: str | None = None
    code_version: str | None = None
    input_versions: str | None = None
    started_at_utc: datetime | None = None
    elapsed_s: float | None = None
    worker: str | None = None
    worker_run: int | None = None
    model_load_count: int | None = None
    commits: Sequence[Commit] | None = None


def append_stage_runs(store: Store, rows: Sequence[StageRun]) -> None:
    """Append attempts that have ended, in one commit, once the disk has their results.

    A power cut may therefore lose results without a row, which are computed again, but no results with a row.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible.
    """
    if rows:
        store.sync()
        store.append(STAGE_RUNS, pa.Table.from_pylist([asdict(row) for row in rows], STAGE_RUNS.arrow_schema))
        store.sync()


def newest_stage_runs(
    store: Store,
    recording_ids: Sequence[str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    only_materialized: bool = False,
) -> pa.Table:
    """Read the newest row of every recording and stage.

    Args:
        store: The tables.
        recording_ids: Recordings to read; None reads all.
        columns: Columns to read; None reads all.
        only_materialized: Whether attempts that stored no results are ignored, so that the row is the one of the
            results in the tables.
    """
    names = list(columns or STAGE_RUNS.arrow_schema.names)
    used = dict.fromkeys([*names, "recording_id", "stage", "finished_at_utc", "attempt", "data_version"])
    where = "WHERE data_version IS NOT NULL" if only_materialized else ""
    rows = store.read(STAGE_RUNS, recording_ids, list(used))
    return select(_NEWEST_SQL.format(columns=", ".join(names), where=where), {"stage_runs": rows})


def encode_input_versions(versions: Mapping[str, str]) -> str:
    """Encode the data versions of inputs, by asset name, for the column `input_versions`."""
    return json.dumps(dict(sorted(versions.items())))


def decode_input_versions(text: str | None) -> dict[str, str]:
    """Decode the column `input_versions`; empty if it is NULL."""
    versions: dict[str, str] = json.loads(text) if text else {}
    return versions


def later_than(previous: datetime | None) -> datetime:
    """The current time, or a moment after `previous` where this machine's clock is behind: the newest row must win."""
    now = datetime.now(UTC)
    return now if previous is None or now > previous else previous + timedelta(microseconds=1)


def worker_name() -> str:
    """Machine and process, for the column `worker` of a run that no worker executes."""
    return f"{socket.gethostname()}:{os.getpid()}"
