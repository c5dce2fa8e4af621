"""scenes: one row per scene (recording_id, scene_index); stretches: one row per black, frozen or blurred stretch.

Both are computed from the measures in `frames` alone, so a changed threshold costs no decoding.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from cv_assets.media_status import NO_NORMALIZED_VIDEO
from cv_assets.stage_asset import INGEST, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.media_config import SceneSettings
from resources.config.stage_version import StageVersion
from resources.errors import RecordingError
from resources.media.progress import ReportProgress
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, SCENES, STRETCHES
from resources.storage.delta_store import Store

_MEASURES = ("frame_index", "time_s", "brightness", "sharpness", "motion", "scene_score", "black_share")


def scene_rows(recording_id: str, frames: pa.Table, frame_s: float, settings: SceneSettings) -> pa.Table:
    """Build the rows of `scenes`: a scene starts at the first frame and at each cut.

    Args:
        recording_id: The recording.
        frames: Its rows of `frames`, ascending by frame_index.
        frame_s: Duration of the last frame.
        settings: The score from which a frame is a cut, and the shortest scene.
    """
    measures = {name: frames[name].to_numpy() for name in _MEASURES}
    time_s, score = measures["time_s"], measures["scene_score"]
    firsts = _first_frames(time_s, score, settings)
    lasts = [first - 1 for first in firsts[1:]] + [len(time_s) - 1] * bool(firsts)
    means = {
        f"mean_{name}": [
            float(measures[name][first : last + 1].mean()) for first, last in zip(firsts, lasts, strict=True)
        ]
        for name in ("brightness", "sharpness", "motion")
    }
    start_s, end_s = time_s[firsts], _frame_ends_s(time_s, frame_s)[lasts]
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, len(firsts)),
            "scene_index": np.arange(len(firsts), dtype=np.int32),
            "first_frame_index": measures["frame_index"][firsts].astype(np.int32),
            "last_frame_index": measures["frame_index"][lasts].astype(np.int32),
            "start_s": start_s,
            "end_s": end_s,
            "duration_s": end_s - start_s,
            "cut_score": score[firsts],
            **means,
        },
        schema=SCENES.arrow_schema,
    )


def _first_frames(time_s: np.ndarray, score: np.ndarray, settings: SceneSettings) -> list[int]:
    """Positions of the first frames of scenes; a cut too soon after another starts no scene, as in a flash."""
    firsts: list[int] = [0] if len(time_s) else []
    for position in np.flatnonzero(score >= settings.cut_score):
        if position and time_s[position] - time_s[firsts[-1]] >= settings.min_scene_s:
            firsts.append(int(position))
    return firsts


def _frame_ends_s(time_s: np.ndarray, frame_s: float) -> np.ndarray:
    """End of each frame: the time of the next one."""
    return np.append(time_s[1:], time_s[-1] + frame_s) if len(time_s) else time_s


def stretch_rows(recording_id: str, frames: pa.Table, frame_s: float, settings: SceneSettings) -> pa.Table:
    """Build the rows of `stretches`; a black stretch counts neither as frozen nor as blurred.

    Args:
        recording_id: The recording.
        frames: Its rows of `frames`, ascending by frame_index.
        frame_s: Duration of the last frame.
        settings: Limits from which a frame is black, frozen or blurred, and the shortest stretch.
    """
    is_black = frames["black_share"].to_numpy() >= settings.black_share
    is_frozen = (frames["motion"].to_numpy() <= settings.frozen_below) & ~is_black
    is_frozen[:1] = False  # the first frame has no predecessor that it could repeat
    is_blurred = (frames["sharpness"].to_numpy() < settings.blurred_below) & ~is_black
    frame_index, time_s = frames["frame_index"].to_numpy(), frames["time_s"].to_numpy()
    ends_s = _frame_ends_s(time_s, frame_s)
    rows = []
    for kind, is_of_kind in (("black", is_black), ("frozen", is_frozen), ("blurred", is_blurred)):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], is_of_kind, [False])).astype(np.int8)))
        for first, after in edges.reshape(-1, 2):
            # A frozen stretch begins with the frame that the following ones repeat.
            first = first - 1 if kind == "frozen" else first
            start_s, end_s = float(time_s[first]), float(ends_s[after - 1])
            if end_s - start_s >= settings.min_stretch_s:
                rows.append(
                    {
                        "recording_id": recording_id,
                        "kind": kind,
                        "first_frame_index": int(frame_index[first]),
                        "last_frame_index": int(frame_index[after - 1]),
                        "start_s": start_s,
                        "end_s": end_s,
                        "duration_s": end_s - start_s,
                    }
                )
    return pa.Table.from_pylist(rows, schema=STRETCHES.arrow_schema)


def find_scenes(recording_id: str, store: Store, settings: SceneSettings) -> dict[str, Metadata]:
    """Find the scenes and stretches of one recording and store them.

    Raises:
        RecordingError: The recording has no normalized video.
    """
    rate = store.read(RECORDING_CONTENTS, [recording_id], ["rate_fps"]).to_pylist()
    frames = store.read(FRAMES, [recording_id], list(_MEASURES)).sort_by("frame_index")
    if not rate or not rate[0]["rate_fps"] or not frames.num_rows:
        raise RecordingError(NO_NORMALIZED_VIDEO)
    frame_s = 1 / rate[0]["rate_fps"]
    scenes = scene_rows(recording_id, frames, frame_s, settings)
    stretches = stretch_rows(recording_id, frames, frame_s, settings)
    store.replace(SCENES, [recording_id], scenes)
    store.replace(STRETCHES, [recording_id], stretches)
    stretches_s = {f"{kind}_s": 0.0 for kind in ("black", "frozen", "blurred")}
    for stretch in stretches.to_pylist():
        stretches_s[f"{stretch['kind']}_s"] += stretch["duration_s"]
    mean_duration_s = float(scenes["duration_s"].to_numpy().mean())
    return {
        SCENES.name: count_metadata(scenes.num_rows, mean_duration_s=mean_duration_s),
        STRETCHES.name: count_metadata(
            stretches.num_rows, **{name: round(seconds, 3) for name, seconds in stretches_s.items()}
        ),
    }


@stage_asset(
    group=INGEST,
    tables=(SCENES, STRETCHES),
    deps=(FRAMES.name,),
    version=lambda settings: StageVersion.build("scenes 1", {"scenes": settings.scenes}),
)
def scenes(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Find scenes and black, frozen or blurred stretches from the stored measures of the frames."""
    return find_scenes(recording_id, run.store, run.settings.scenes)
