"""`python -m benchmarks.corrections`: how long a recording of one hour is counted again after corrections.

In a scratch folder, a recording with drawn tracks is stored as the pipeline does it, and corrected at random. The
stages that follow then run as in a run, without Dagster and without a model.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from benchmarks.report import Case, figure_case, max_case, print_table
from cli.options import end_process
from cv_assets.corrected_tracks import correct_tracks
from cv_assets.summaries import summarize_recording
from cv_assets.track_links import link_recording
from cv_assets.zone_events import find_zone_events
from cv_assets.zone_summaries import summarize_recording_zones
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.corrections.correction_requests import CorrectionRequest, store_corrections
from resources.corrections.recording_edits import measure_tracks
from resources.schema.columns import Table
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTION_RESULTS
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store

_RECORDING, _CAMERA = "hour", "gate"
_DURATION_S, _RATE_FPS = 3600.0, 25.0
_TRACK_BOXES = 250
_WIDTH_PX, _HEIGHT_PX = 1280, 720
_SETTINGS = CameraSettings.model_validate(
    {
        "lines": [
            {"name": "left", "points": [[0.3, 1], [0.3, 0]]},
            {"name": "right", "points": [[0.7, 1], [0.7, 0]]},
        ],
        "zones": [{"name": "middle", "points": [[0.3, 0], [0.7, 0], [0.7, 1], [0.3, 1]]}],
    }
)


def store_recording(store: Store, box_count: int, rng: np.random.Generator) -> None:
    """Store a recording of an hour whose objects cross the frame, each for ten seconds."""
    track_count = box_count // _TRACK_BOXES
    frame_count = round(_DURATION_S * _RATE_FPS)
    track_id = np.repeat(np.arange(1, track_count + 1, dtype=np.int32), _TRACK_BOXES)
    first = np.sort(rng.integers(0, frame_count - _TRACK_BOXES, track_count))
    frame = (np.repeat(first, _TRACK_BOXES) + np.tile(np.arange(_TRACK_BOXES), track_count)).astype(np.int32)
    share = np.tile(np.linspace(0, 1, _TRACK_BOXES), track_count)
    is_leftwards = np.repeat(rng.random(track_count) < 0.5, _TRACK_BOXES)
    x_px = _WIDTH_PX * np.where(is_leftwards, 1 - share, share)
    y_px = np.repeat(rng.uniform(200, 700, track_count), _TRACK_BOXES)
    values: dict[str, Any] = {
        "recording_id": pa.repeat(_RECORDING, len(frame)),
        "track_id": track_id,
        "frame_index": frame,
        "time_s": frame / _RATE_FPS,
        "detection_index": np.arange(len(frame), dtype=np.int32),
        "source_frame_index": frame,
        "class_name": pa.array(np.repeat(rng.choice(["person", "car"], track_count), _TRACK_BOXES), pa.string()),
        "class_id": np.zeros(len(frame), np.int32),
        "confidence": np.full(len(frame), 0.8),
        "x_min_px": x_px - 30,
        "x_max_px": x_px + 30,
        "y_min_px": y_px - 120,
        "y_max_px": y_px,
        **{name: np.zeros(len(frame), bool) for name in ("is_interpolated", "is_reused")},
        **{name: pa.repeat("drawn", len(frame)) for name in ("model_id", "engine_name")},
        "link_confidence": pa.nulls(len(frame), pa.float64()),
    }
    boxes = _rows(TRACK_BOXES, values)
    tracks = measure_tracks(boxes, _RATE_FPS).to_pydict()
    tracks |= {"link_confidence": [None] * track_count, "is_doubtful": [False] * track_count}
    _store(store, TRACK_BOXES, boxes)
    _store(store, TRACKS, _rows(TRACKS, tracks | {"class_share": [1.0] * track_count}))
    _store(store, DETECTIONS, _rows(DETECTIONS, values))
    header: dict[str, Any] = {
        "recording_id": _RECORDING,
        "camera": _CAMERA,
        "source_path": "hour.mp4",
        "fingerprint": "hour",
    }
    header |= {"size_bytes": 1, "mtime_utc": datetime(2026, 3, 1, tzinfo=UTC), "container_name": "matroska"}
    content: dict[str, Any] = {
        "recording_id": _RECORDING,
        "duration_s_from_content": _DURATION_S,
        "frame_count": frame_count,
    }
    content |= {"rate_fps": _RATE_FPS, "rate_fps_num": 25, "rate_fps_den": 1}
    content |= {"width_px": _WIDTH_PX, "height_px": _HEIGHT_PX, "video_path": "hour.mp4", "normalized_by": "remux"}
    for table, row in ((RECORDINGS, header), (RECORDING_CONTENTS, content)):
        _store(store, table, pa.Table.from_pylist([dict.fromkeys(table.arrow_schema.names) | row], table.arrow_schema))
    index = np.arange(frame_count, dtype=np.int32)
    times = {"recording_id": pa.repeat(_RECORDING, frame_count), "frame_index": index, "time_s": index / _RATE_FPS}
    zeros = {
        field.name: pa.array(np.zeros(frame_count)).cast(field.type)
        for field in FRAMES.arrow_schema
        if field.name not in times
    }
    _store(store, FRAMES, _rows(FRAMES, zeros | times))


def _rows(table: Table, values: dict[str, Any]) -> pa.Table:
    return pa.table({name: values[name] for name in table.arrow_schema.names}).cast(table.arrow_schema)


def _store(store: Store, table: Table, rows: pa.Table) -> None:
    store.replace(table, [_RECORDING], rows)


def random_requests(count: int, track_count: int, rng: np.random.Generator) -> list[CorrectionRequest]:
    """Corrections of different tracks, drawn at random."""
    tracks = rng.choice(np.arange(1, track_count + 1), 2 * count, replace=False).tolist()
    requests = []
    for number in range(count):
        values: dict[str, Any] = {"recording_id": _RECORDING, "track_id": tracks.pop()}
        values["action"] = ("reject", "relabel", "merge", "accept")[number % 4]
        values |= {"class_name": "bus"} if values["action"] == "relabel" else {}
        values |= {"other_track_id": tracks.pop()} if values["action"] == "merge" else {}
        requests.append(CorrectionRequest(f"edit {number}", values))
    return requests


def correction_cases(box_count: int = 500_000, correction_count: int = 200) -> Iterator[Case]:
    """Seconds of each stage after corrections, and of all of them; and what the corrections take on the disk."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="cv-assets-corrections-") as folder:
        store = Store(Path(folder))
        settings = Settings(data_folder=Path(folder), cameras={_CAMERA: _SETTINGS})
        store_recording(store, box_count, rng)
        requests = random_requests(correction_count, box_count // _TRACK_BOXES, rng)
        yield figure_case(
            f"store {correction_count} corrections, s",
            _seconds(lambda: store_corrections(store, requests, "benchmark")),
        )
        total_s, started_cpu_s = 0.0, time.process_time()
        stages: dict[str, Callable[[], object]] = {
            "corrected_tracks": lambda: correct_tracks(_RECORDING, store),
            "track_links": lambda: link_recording(_RECORDING, store, settings),
            "zone_events": lambda: find_zone_events(_RECORDING, store, settings),
            "summaries": lambda: summarize_recording(_RECORDING, store, settings),
            "zone_summaries": lambda: summarize_recording_zones(_RECORDING, store),
        }
        for name, run_stage in stages.items():
            elapsed_s = _seconds(run_stage)
            total_s += elapsed_s
            yield figure_case(f"{name} of 1 h, {box_count} boxes, s", elapsed_s)
        yield max_case(f"count 1 h with {box_count} boxes again", total_s, "s", 5.0)
        yield figure_case("of which computing, on all cores, s", time.process_time() - started_cpu_s)
        states = store.read(CORRECTION_RESULTS)["state"].to_pylist()
        yield figure_case("corrections applied, share", states.count("applied") / len(states))
        yield figure_case("boxes stored again, share", store.row_count(CORRECTED_BOXES) / box_count)


def _seconds(action: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


@click.command()
@click.option("--boxes", "box_count", default=500_000, show_default=True, help="Number of boxes in the hour.")
@click.option("--corrections", "correction_count", default=200, show_default=True, help="Number of corrections.")
def main(box_count: int, correction_count: int) -> None:
    """Print the table; exit 1 where a figure misses its goal."""
    cases = list(correction_cases(box_count, correction_count))
    print_table(cases)
    end_process(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
