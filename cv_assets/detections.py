"""detections: one row per box per frame (recording_id, frame_index, detection_index), best box first."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
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
from resources.device_lease import device_lease
from resources.errors import RecordingError
from resources.inference import Boxes, Detector, Models, available_devices, detection_version
from resources.media.normalizing import Progress
from resources.media.reading import read_frames
from resources.run_coordinator import GPU_POOL
from resources.schema import DETECTIONS, FRAMES, RECORDINGS
from resources.settings import Settings, current_settings, settings_version
from resources.storage import Store

STAGE = Stage("detections", (DETECTIONS,))


def detection_rows(recording_id: str, found: list[Boxes], frames: pa.Table, detector: Detector) -> pa.Table:
    """The rows of `detections`.

    Args:
        recording_id: The recording.
        found: The boxes of each frame, in the order of frame_index.
        frames: The recording's rows of `frames`, sorted by frame_index, as many as `found`.
        detector: Whose boxes these are.
    """
    counts = np.array([len(boxes) for boxes in found], np.int64)
    frame_index = np.repeat(np.arange(len(found), dtype=np.int32), counts)
    first_row = np.repeat(np.cumsum(counts) - counts, counts)
    xyxy = np.concatenate([boxes.xyxy for boxes in found] or [np.empty((0, 4))]).astype(np.float64)
    class_id = np.concatenate([boxes.class_id for boxes in found] or [np.empty(0)]).astype(np.int32)
    total = len(frame_index)
    of_frame = frames.take(pa.array(frame_index))
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, total),
            "frame_index": frame_index,
            "detection_index": (np.arange(total) - first_row).astype(np.int32),
            "source_frame_index": of_frame["source_frame_index"],
            "time_s": of_frame["time_s"],
            "captured_at_utc": of_frame["captured_at_utc"],
            "class_id": class_id,
            "class_name": pa.array([detector.class_names[int(c)] for c in class_id], pa.string()),
            "confidence": np.concatenate([b.confidence for b in found] or [np.empty(0)]).astype(np.float64),
            **{f"{edge}_px": xyxy[:, i] for i, edge in enumerate(("x_min", "y_min", "x_max", "y_max"))},
            "model_id": pa.repeat(detector.model_id, total),
            "engine_name": pa.repeat(detector.engine_name, total),
        }
    )


def detect_recording(
    recording_id: str, store: Store, settings: Settings, models: Models, device: str, progress: Progress
) -> dict[str, Metadata]:
    """Run the detector over one normalized video and store its boxes.

    Raises:
        RecordingError: The recording has no normalized video yet.
        PipelineError: The weights cannot be used.
    """
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    if row is None or row["video_path"] is None or row["status"] == "rejected":
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    frames = store.read(FRAMES, [recording_id], ["frame_index", "source_frame_index", "time_s", "captured_at_utc"])
    frames = frames.sort_by("frame_index")
    detector = models.detector(settings.detections, row["width_px"], row["height_px"], device)
    found: list[Boxes] = []
    with closing(read_frames(store.data_folder / row["video_path"])) as pictures:
        for boxes in detector.detect(picture for _, picture in pictures):
            found.append(boxes)
            progress(len(found), frames.num_rows)
    if len(found) != frames.num_rows:
        raise RecordingError(
            f"Its normalized video holds {len(found)} frames and its frames table {frames.num_rows}: "
            "materialize normalized_video again."
        )
    rows = detection_rows(recording_id, found, frames, detector)
    store.replace(DETECTIONS, [recording_id], rows)
    per_class = Counter(rows["class_name"].to_pylist())
    return {
        DETECTIONS.name: count_metadata(
            rows.num_rows,
            frame_count=len(found),
            engine_name=detector.engine_name,
            model_id=detector.model_id,
            boxes_per_class=dict(per_class.most_common()),
        )
    }


@multi_asset(
    specs=[
        table_asset(
            DETECTIONS,
            group=ANALYSIS,
            code_version=settings_version("detections 1", *detection_version(current_settings().detections)),
            deps=["normalized_video", FRAMES.name],
            kinds=("ultralytics", "openvino"),
        )
    ],
    check_specs=table_checks(DETECTIONS),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
    pool=GPU_POOL,
)
def detections(
    context: AssetExecutionContext,
    store: ResourceParam[Store],
    settings: ResourceParam[Settings],
    models: ResourceParam[Models],
) -> Iterator[Any]:
    """Find objects in each frame, on a leased device."""
    devices = available_devices(settings.detections)
    with device_lease(devices, lambda: context.log.info(f"Waiting for one of {devices}")) as device:
        yield from STAGE.each_recording(
            context, store, lambda r, told: detect_recording(r, store, settings, models, device, told)
        )
