"""`python -m benchmarks.wall_clock`: how fast results.duckdb answers questions about wall-clock times.

Wall-clock times are not stored: the views compute them from time_s and the start of the recording. In a scratch folder,
detections of thousands of recordings are stored, compacted and published as the pipeline does it. Each query is then
measured with a warm file cache.
"""

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import duckdb
import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from benchmarks.report import Case, figure_case, max_case, print_table
from cli.options import end_process
from resources.config.settings import Settings
from resources.schema.columns import Table
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish

_CAMERA_COUNT = 8
_DURATION_S = 300.0
_RATE_FPS = 25.0
_COMMIT_COUNT = 400
_REPEATS = 7
_FIRST_START = datetime(2026, 3, 1, tzinfo=UTC)


def recording_ids(count: int, *, has_random_names: bool) -> list[str]:
    """Ids of recordings in the order in which they arrive: all cameras take turns.

    Args:
        count: Number of recordings.
        has_random_names: Whether the files have random names, instead of their camera and time as recorders name them.
    """
    ids = []
    for number in range(count):
        fingerprint = hashlib.blake2b(str(number).encode(), digest_size=4).hexdigest()
        name = f"{_camera(number)}_{_start(number):%Y-%m-%d_%H-%M-%S}"
        if has_random_names:
            name = hashlib.blake2b(f"name {number}".encode(), digest_size=8).hexdigest()
        ids.append(f"{name}-{fingerprint}")
    return ids


def _camera(number: int) -> str:
    return f"camera-{number % _CAMERA_COUNT}"


def _start(number: int) -> datetime:
    return _FIRST_START + timedelta(seconds=_DURATION_S * (number // _CAMERA_COUNT))


def store_detections(store: Store, ids: Sequence[str], row_count: int) -> None:
    """Store recordings and as many detections of each, in hundreds of commits.

    Args:
        store: The tables.
        ids: The recordings, in the order in which they arrive.
        row_count: Number of detections of all recordings.
    """
    headers = [
        {
            **dict.fromkeys(RECORDINGS.arrow_schema.names),
            **{"recording_id": recording_id, "camera": _camera(number), "source_path": recording_id},
            **{"fingerprint": recording_id, "size_bytes": 1, "mtime_utc": _start(number)},
            **{"created_at_utc": _start(number), "container_name": "matroska"},
        }
        for number, recording_id in enumerate(ids)
    ]
    content = {"duration_s_from_content": _DURATION_S, "frame_count": round(_DURATION_S * _RATE_FPS)}
    contents = [
        {**dict.fromkeys(RECORDING_CONTENTS.arrow_schema.names), "recording_id": recording_id, **content}
        for recording_id in ids
    ]
    rows_by_table: dict[Table, list[dict[str, object]]] = {RECORDINGS: headers, RECORDING_CONTENTS: contents}
    for table, rows in rows_by_table.items():
        store.replace(table, ids, pa.Table.from_pylist(rows, schema=table.arrow_schema))
    columns = _detection_columns(row_count // len(ids))
    for portion in np.array_split(np.array(ids), min(_COMMIT_COUNT, len(ids))):
        rows = pa.concat_tables(_detections(str(recording_id), columns) for recording_id in portion)
        write_deltalake(store.tables_folder / DETECTIONS.name, rows.combine_chunks(), mode="append")


def _detection_columns(count: int) -> dict[str, pa.Array]:
    """The columns of a recording's detections, except for its id."""
    rng = np.random.default_rng(0)
    frame_index = np.sort(rng.integers(0, round(_DURATION_S * _RATE_FPS), count)).astype(np.int32)
    frame_start = np.searchsorted(frame_index, frame_index)
    values = {
        "frame_index": frame_index,
        "detection_index": (np.arange(count) - frame_start).astype(np.int32),
        "source_frame_index": frame_index,
        "time_s": frame_index / _RATE_FPS,
        "class_name": np.where(rng.random(count) < 0.5, "person", "car"),
        "model_id": np.full(count, "drawn"),
        "engine_name": np.full(count, "drawn"),
        "confidence": rng.random(count),
        **{f"{edge}_px": rng.uniform(0, 1000, count) for edge in ("x_min", "y_min", "x_max", "y_max")},
    }
    return {
        column.name: pa.array(values.get(column.name, np.zeros(count))).cast(column.type)
        for column in DETECTIONS.stored_columns[1:]
    }


def _detections(recording_id: str, columns: dict[str, pa.Array]) -> pa.Table:
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(columns["time_s"]), np.int32)), [recording_id])
    rows = pa.table({"recording_id": ids.cast(pa.string()), **columns})
    return rows.select(DETECTIONS.arrow_schema.names).cast(DETECTIONS.arrow_schema)


def wall_clock_cases(data_folder: Path, ids: Sequence[str], names: str) -> Iterator[Case]:
    """Milliseconds of the queries, the median of several.

    Args:
        data_folder: The data folder with published results.
        ids: The recordings, in the order in which they arrive.
        names: How the files are named, for the names of the cases.
    """
    number = len(ids) // 2
    first_utc = _start(number).replace(minute=0)
    interval = f"'{first_utc:%Y-%m-%d %H:%M}', '{first_utc + timedelta(hours=1):%Y-%m-%d %H:%M}'"
    hour = f"TIMESTAMPTZ '{first_utc}'"
    times = f"captured_at_utc >= {hour} AND captured_at_utc < {hour} + INTERVAL 1 HOUR"
    measures = "SELECT class_name, count(*), min(captured_at_utc), avg(x_min_px) FROM"
    with open_results(data_folder) as results:
        window = f"recording_id = '{ids[number]}' AND time_s >= 60 AND time_s < 70"
        window_ms = _median_ms(results, f"{measures} detections WHERE {window} GROUP BY class_name")
        yield max_case(f"{names}: 10 s of a recording by time_s", window_ms, "ms", 100.0)
        between = f"detections_between('{_camera(number)}', {interval})"
        between_ms = _median_ms(results, f"{measures} {between} GROUP BY class_name")
        yield max_case(f"{names}: an hour of a camera by detections_between", between_ms, "ms", 300.0)
        filter_ms = _median_ms(results, f"{measures} detections WHERE {times} GROUP BY class_name")
        yield figure_case(f"{names}: an hour of all cameras by captured_at_utc, ms", filter_ms)


def _median_ms(results: duckdb.DuckDBPyConnection, query: str) -> float:
    elapsed_ms = []
    for _ in range(_REPEATS):
        started_s = time.perf_counter()
        rows = results.execute(query).fetchall()
        elapsed_ms.append((time.perf_counter() - started_s) * 1000)
    if not rows:
        raise RuntimeError(f"The query has no rows: {query}")
    return statistics.median(elapsed_ms[1:])  # the first reads the files into the cache


@click.command()
@click.option("--rows", "row_count", default=100_000_000, show_default=True, help="Number of detections.")
@click.option("--recordings", "recording_count", default=4000, show_default=True, help="Number of recordings.")
def main(row_count: int, recording_count: int) -> None:
    """Print the table; exit 1 where a figure misses its goal."""
    cases = []
    for names, has_random_names in (("camera and time", False), ("random names", True)):
        with tempfile.TemporaryDirectory(prefix="cv-assets-wall-clock-") as folder:
            store, ids = Store(Path(folder)), recording_ids(recording_count, has_random_names=has_random_names)
            started_s = time.monotonic()
            store_detections(store, ids, row_count)
            click.echo(f"{names}: stored {row_count} rows in {time.monotonic() - started_s:.0f} s.")
            for _ in range(2):  # the first publication compacts the table, the second publishes the compacted files
                started_s = time.monotonic()
                publish(store, Settings())
                file_count = len(store.files(DETECTIONS))
                click.echo(f"Published in {time.monotonic() - started_s:.1f} s; now in {file_count} files.")
            for case in wall_clock_cases(store.data_folder, ids, names):
                cases.append(case)
                click.echo(f"{case.case}: {case.ours:.0f} ms")
    print_table(cases)
    # With random names the ids of a camera's hour are spread over all files, so its figures have no goal.
    end_process(0 if all(case.met for case in cases if case.case.startswith("camera")) else 1)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
