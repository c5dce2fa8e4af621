"""scenes: one row per scene (recording_id, scene_index); stretches: one row per black, frozen or blurred stretch.

Both are made from the measures in `frames` alone, so another threshold costs no decoding.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    INGEST,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    table_asset,
    table_checks,
)
from resources.errors import RecordingError
from resources.schema import FRAMES, RECORDINGS, SCENES, STRETCHES
from resources.settings import SceneSettings, Settings, current_settings, settings_version
from resources.storage import Store

STAGE = Stage("scenes", (SCENES, STRETCHES))
_CODE_VERSION = settings_version("scenes 1", current_settings().scenes)
_MEASURES = ("frame_index", "time_s", "brightness", "sharpness", "motion", "scene_score", "black_share")


def scene_rows(recording_id: str, frames: pa.Table, frame_s: float, settings: SceneSettings) -> pa.Table:
    """The rows of `scenes`.

    Args:
        recording_id: The recording.
        frames: Its rows of `frames`, ascending.
        frame_s: Duration of the last frame.
        settings: Where cuts are.
    """
    measured = {name: frames[name].to_numpy() for name in _MEASURES}
    time_s, score = measured["time_s"], measured["scene_score"]
    firsts: list[int] = [0] if len(time_s) else []
    for index in np.flatnonzero(score >= settings.cut_score):
        if index and time_s[index] - time_s[firsts[-1]] >= settings.min_scene_s:
            firsts.append(int(index))
    lasts = [first - 1 for first in firsts[1:]] + [len(time_s) - 1] * bool(firsts)
    ends_s = np.append(time_s, time_s[-1] + frame_s) if firsts else time_s
    means = {
        f"mean_{name}": [float(measured[name][a : b + 1].mean()) for a, b in zip(firsts, lasts, strict=True)]
        for name in ("brightness", "sharpness", "motion")
    }
    start_s, end_s = time_s[firsts], ends_s[[last + 1 for last in lasts]]
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, len(firsts)),
            "scene_index": np.arange(len(firsts), dtype=np.int32),
            "first_frame_index": measured["frame_index"][firsts].astype(np.int32),
            "last_frame_index": measured["frame_index"][lasts].astype(np.int32),
            "start_s": start_s,
            "end_s": end_s,
            "duration_s": end_s - start_s,
            "cut_score": score[firsts],
            **means,
        },
        schema=SCENES.arrow_schema,
    )


def stretch_rows(recording_id: str, frames: pa.Table, frame_s: float, settings: SceneSettings) -> pa.Table:
    """The rows of `stretches`; a black stretch is told once, not also as frozen and blurred.

    Args:
        recording_id: The recording.
        frames: Its rows of `frames`, ascending.
        frame_s: Duration of the last frame.
        settings: What counts as black, frozen and blurred, and for how long.
    """
    is_black = frames["black_share"].to_numpy() >= settings.black_share
    is_frozen = (frames["motion"].to_numpy() <= settings.frozen_below) & ~is_black
    is_frozen[:1] = False  # nothing comes before the first frame that it could repeat
    is_blurred = (frames["sharpness"].to_numpy() < settings.blurred_below) & ~is_black
    index, time_s = frames["frame_index"].to_numpy(), frames["time_s"].to_numpy()
    ends_s = np.append(time_s, time_s[-1] + frame_s) if len(time_s) else time_s
    rows = []
    for kind, is_so in (("black", is_black), ("frozen", is_frozen), ("blurred", is_blurred)):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], is_so, [False])).astype(np.int8)))
        for first, after in edges.reshape(-1, 2):
            # A frozen stretch begins with the frame that the others repeat.
            first = first - 1 if kind == "frozen" else first
            start_s, end_s = float(time_s[first]), float(ends_s[after])
            if end_s - start_s >= settings.min_stretch_s:
                rows.append(
                    {
                        "recording_id": recording_id,
                        "kind": kind,
                        "first_frame_index": int(index[first]),
                        "last_frame_index": int(index[after - 1]),
                        "start_s": start_s,
                        "end_s": end_s,
                        "duration_s": end_s - start_s,
                    }
                )
    return pa.Table.from_pylist(rows, schema=STRETCHES.arrow_schema)


def find_scenes(recording_id: str, store: Store, settings: SceneSettings) -> dict[str, Metadata]:
    """Write the scenes and stretches of one recording.

    Raises:
        RecordingError: It has not been normalized yet.
    """
    rate = store.read(RECORDINGS, [recording_id], ["rate_fps"]).to_pylist()
    frames = store.read(FRAMES, [recording_id], list(_MEASURES)).sort_by("frame_index")
    if not rate or not rate[0]["rate_fps"] or not frames.num_rows:
        raise RecordingError("It has not been normalized yet: materialize normalized_video first.")
    made = {
        SCENES: scene_rows(recording_id, frames, 1 / rate[0]["rate_fps"], settings),
        STRETCHES: stretch_rows(recording_id, frames, 1 / rate[0]["rate_fps"], settings),
    }
    for table, rows in made.items():
        store.replace(table, [recording_id], rows)
    length_s = {kind: 0.0 for kind in ("black", "frozen", "blurred")}
    for stretch in made[STRETCHES].to_pylist():
        length_s[stretch["kind"]] += stretch["duration_s"]
    return {
        SCENES.name: count_metadata(
            made[SCENES].num_rows, mean_duration_s=float(made[SCENES]["duration_s"].to_numpy().mean())
        ),
        STRETCHES.name: count_metadata(
            made[STRETCHES].num_rows, **{f"{kind}_s": round(seconds, 3) for kind, seconds in length_s.items()}
        ),
    }


@multi_asset(
    specs=[
        table_asset(table, group=INGEST, code_version=_CODE_VERSION, deps=[FRAMES.name])
        for table in (SCENES, STRETCHES)
    ],
    check_specs=table_checks(SCENES, STRETCHES),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def scenes(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Find cuts, and black, frozen and blurred stretches."""
    yield from STAGE.each_recording(context, store, lambda r, _: find_scenes(r, store, settings.scenes))
