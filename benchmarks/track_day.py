"""Memory and time of tracking a recording of a day: `python -m benchmarks.track_day` takes some 20 minutes.

A drawn crowd with about 8 boxes a frame is repeated until the recording has 2 million frames.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from benchmarks.report import Case, describe_machine, max_case, print_table
from cli.options import end_process
from cv_assets.tracks import track_recording
from demo.crowd import CrowdSettings, simulate_crowd
from resources.config.settings import Settings
from resources.schema.columns import Table
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.storage.delta_store import Store

_FRAME_COUNT = 2_000_000
_RATE_FPS = 25.0
_CROWD = CrowdSettings(duration_s=200, rate_fps=_RATE_FPS, person_count=120, has_occlusion=False)


def store_day(store: Store, frame_count: int) -> int:
    """Store the detections and frames of one recording; returns the number of boxes."""
    rows = simulate_crowd(7, _CROWD).detections("day")
    crowd_frames = round(_CROWD.duration_s * _RATE_FPS)
    parts = []
    for first_frame in range(0, frame_count, crowd_frames):
        frame_index = rows["frame_index"].to_numpy() + first_frame
        part = rows
        for name in ("frame_index", "source_frame_index", "time_s"):
            values = frame_index / _RATE_FPS if name == "time_s" else frame_index.astype(np.int32)
            part = part.set_column(rows.column_names.index(name), rows.schema.field(name), pa.array(values))
        parts.append(part.filter(pa.array(frame_index < frame_count)))
    store.replace(DETECTIONS, ["day"], parts)
    index = np.arange(frame_count, dtype=np.int32)
    _store_rows(store, FRAMES, frame_count, {"frame_index": index, "time_s": index / _RATE_FPS})
    _store_rows(store, RECORDINGS, 1, {"source_path": ["day"], "fingerprint": ["day"], "size_bytes": [1],
                                       "mtime_utc": [datetime(2026, 3, 1, tzinfo=UTC)]})  # fmt: skip
    _store_rows(store, RECORDING_CONTENTS, 1, {"rate_fps": [_RATE_FPS], "frame_count": [frame_count],
                                               "width_px": [1280], "height_px": [720]})  # fmt: skip
    return sum(part.num_rows for part in parts)


def _store_rows(store: Store, table: Table, count: int, values: dict[str, Any]) -> None:
    values = {"recording_id": pa.repeat("day", count), **values}
    columns = {
        column.name: values.get(
            column.name, pa.nulls(count, column.type) if column.nullable else pa.array(np.zeros(count))
        )
        for column in table.stored_columns
    }
    store.replace(table, ["day"], pa.table(columns))


def track_day(data_folder: Path) -> None:
    """Track the stored recording; prints seconds and the largest memory of the process in MB."""
    started_s = time.perf_counter()
    track_recording("day", Store(data_folder), Settings())
    used_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    click.echo(f"{time.perf_counter() - started_s:.1f} {used_mb:.0f}")


def day_cases(frame_count: int = _FRAME_COUNT) -> Iterator[Case]:
    """Memory and time, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        box_count = store_day(Store(Path(folder)), frame_count)
        command = [sys.executable, "-m", "benchmarks.track_day", folder]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    name = f"tracking {frame_count:,} frames with {box_count / frame_count:.1f} boxes each"
    yield max_case(f"{name}: memory", float(output[-1]) / 1000, "GB", 1.0)
    yield max_case(f"{name}: time", 1000 * float(output[-2]) / frame_count, "ms/frame", 1.5)


if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir():
        track_day(Path(sys.argv[1]))
    else:
        click.echo(f"Measuring on {describe_machine()}")
        print_table(list(day_cases(*map(int, sys.argv[1:]))))
    end_process(0)
