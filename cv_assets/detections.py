"""detections: one row per box and frame (recording_id, frame_index, detection_index), best box first.

Weights of other tasks fill further tables: masks, keypoints, oriented_boxes or frame_classes. Every further model of
the settings is an asset of its own, declared by the same factory, with tables named after the model.
"""

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cv_assets.camera_settings import camera_regions
from cv_assets.detection_rows import rows_of_table
from cv_assets.model_lease import lease_of_model
from cv_assets.recording_inference import RecordingInference, prepare_inference
from cv_assets.stage_asset import ANALYSIS, StageAsset, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata, sheet_metadata
from cv_assets.waits import ShowWait, report_wait
from resources.config.detection_config import STORED_FROM_CONFIDENCE, DetectionSettings
from resources.config.settings import Settings, settings_version
from resources.config.stage_version import StageVersion
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.errors import RecordingError
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Models
from resources.inference.devices import device_name
from resources.inference.plain_networks import BUNDLED_NAME
from resources.inference.tiles import AnyDetector
from resources.inference.weights import detection_version, uses_fallback
from resources.media.progress import ReportProgress
from resources.previews.boxes_sheet import BoxesSheet
from resources.schema.columns import Table
from resources.schema.model_tables import MODEL_RUNS, MODELS
from resources.schema.recording_tables import FRAMES
from resources.schema.table_registry import crop_model_tables, model_tables
from resources.storage.checkpoints import Checkpoints
from resources.storage.delta_store import Store

_LOGIC = "detections 6"
_REUSED = "reused_frame_count"
_METADATA = ("engine_name", "model_id", "frame_count", "analysed_frame_count", "reused_frame_count")


@dataclass(frozen=True)
class _InferenceResult:
    """The detections of one recording as rows.

    Attributes:
        rows: Rows of each checkpoint, by table name, and its number of reused frames as a table of one row.
        resumed_at_frame: Number of analysed frames whose detections were read from checkpoints.
        elapsed_s: Duration of the inference.
        sheet: Some of the frames with their boxes.
    """

    rows: Mapping[str, Sequence[pa.Table]]
    resumed_at_frame: int
    elapsed_s: float
    sheet: BoxesSheet


def _infer(
    inference: RecordingInference, tables: Sequence[Table], checkpoints: Checkpoints, progress: ReportProgress
) -> _InferenceResult:
    """Run a model on a recording from its last checkpoint on, and write checkpoints.

    Raises:
        RecordingError: Not all frames of the normalized video decode, or it changed meanwhile.
    """
    number, detections = checkpoints.count(), list[Detections]()
    resumed_at_frame, started_s = number * inference.checkpoint_frames, time.monotonic()
    sheet = BoxesSheet(resumed_at_frame, inference.frames.num_rows)

    def checkpoint_rows() -> dict[str, pa.Table]:
        frames = inference.frames.slice(number * inference.checkpoint_frames, len(detections))
        rows = {
            table.name: rows_of_table(table, inference.recording_id, detections, frames, inference.detector)
            for table in tables
        }
        reused_count = sum(frame_detections.is_reused for frame_detections in detections)
        return rows | {_REUSED: pa.table({_REUSED: [reused_count]})}

    for frame_detections in inference.detect(resumed_at_frame, progress, sheet):
        if len(detections) == inference.checkpoint_frames:
            inference.video.check_unchanged()
            checkpoints.save(number, checkpoint_rows())
            number, detections = number + 1, []
        detections.append(frame_detections)
    analysed_count = number * inference.checkpoint_frames + len(detections)
    if analysed_count != inference.frames.num_rows:
        raise RecordingError(
            f"The normalized video is damaged: only {analysed_count} of {inference.frames.num_rows} frames decode; "
            "materialize normalized_video again."
        )
    elapsed_s = time.monotonic() - started_s
    last_rows = checkpoint_rows()
    rows = {name: [*checkpoints.read(name), last_rows[name]] for name in last_rows}
    return _InferenceResult(rows, resumed_at_frame, elapsed_s, sheet)


def detect_recording(
    recording_id: str,
    store: Store,
    settings: DetectionSettings,
    tables: Sequence[Table],
    models: Models,
    device: str,
    progress: ReportProgress,
    checkpoint_s: float = 60.0,
    show_wait: ShowWait = nullcontext,
) -> dict[str, Metadata]:
    """Run a model on one normalized video and store its detections.

    While the model runs, checkpoints are written: after a kill, only the part since the last checkpoint runs again.

    Args:
        recording_id: The recording.
        store: The tables.
        settings: The model.
        tables: The tables that the model fills; the first has the name of the asset.
        models: Loads the model.
        device: The leased device.
        progress: Takes the number of analysed frames, and a preview whenever one is due.
        checkpoint_s: Duration of video per checkpoint.
        show_wait: Shows people that the loading of the model is waited for.

    Raises:
        RecordingError: The recording has no normalized video, or not all of its frames decode.
        PipelineError: The weights cannot be used.
    """
    with show_wait(lambda: models.step):
        inference = prepare_inference(recording_id, store, settings, models, device, checkpoint_s)
    detector, asset_name = inference.detector, tables[0].name
    folder = store.data_folder / "unfinished" / asset_name / recording_id
    columns = [",".join(table.arrow_schema.names) for table in tables]  # of an older version, checkpoints may lack some
    version = settings_version(_LOGIC, inference.version, *detection_version(settings), *columns)
    checkpoints = Checkpoints(folder, version)
    with inference.video.reading():
        result = _infer(inference, tables, checkpoints, progress)
    for table in tables:
        store.replace(table, [recording_id], result.rows[table.name])
    model_run = {
        "recording_id": recording_id,
        "asset_name": asset_name,
        "model_id": detector.model_id,
        "engine_name": detector.engine_name,
        "device_name": device_name(device),
        "frame_count": inference.frame_count,
        "analysed_frame_count": inference.frames.num_rows,
        "reused_frame_count": sum(rows[_REUSED][0].as_py() for rows in result.rows[_REUSED]),
        "elapsed_s": result.elapsed_s,
    }
    model_run_rows = pa.Table.from_pylist([model_run], MODEL_RUNS.arrow_schema)
    store.replace(MODEL_RUNS, [recording_id], model_run_rows, only={"asset_name": asset_name})
    _store_measurements(detector, device, store)
    class_table = tables[-1] if detector.task == "classify" else tables[0]
    inferred_count = inference.frames.num_rows - result.resumed_at_frame
    detector.count_analysed_frames(inferred_count)
    metadata = {
        **{name: model_run[name] for name in _METADATA},
        "resumed_at_frame": result.resumed_at_frame,
        "model_load_count": models.load_count,
        "inference_fps": inferred_count / max(result.elapsed_s, 1e-3),
        **class_count_metadata("boxes", _count_classes(result.rows[class_table.name])),
    }
    row_counts = {table.name: sum(rows.num_rows for rows in result.rows[table.name]) for table in tables}
    checkpoints.remove()
    counts = {name: count_metadata(row_count, **metadata) for name, row_count in row_counts.items()}
    if rendered := result.sheet.render():
        sheet, count = rendered
        caption = f"{count} of {inference.frames.num_rows} analysed frames, with their boxes"
        counts[asset_name] = {**counts[asset_name], "contact_sheet": sheet_metadata(sheet, caption)}
    return counts


def _count_classes(rows_of_checkpoints: Sequence[pa.Table]) -> Counter[str]:
    """Number of rows by class."""
    counts: Counter[str] = Counter()
    for rows in rows_of_checkpoints:
        counts.update({pair["values"]: pair["counts"] for pair in rows["class_name"].value_counts().to_pylist()})
    return counts


def _store_measurements(detector: AnyDetector, device: str, store: Store) -> None:
    """Store in `models` the measurements of engine selection, once."""
    if not detector.measurements:
        return
    name = device_name(device)
    rows = [
        {
            "model_id": detector.model_id,
            "device_name": name,
            "task": detector.task,
            "is_used": measurement.engine_name == detector.engine_name,
            **{column: value for column, value in asdict(measurement).items() if column != "precision"},
        }
        for measurement in detector.measurements
    ]
    stored = {(row["model_id"], row["engine_name"], row["device_name"]): row for row in store.read(MODELS).to_pylist()}
    for row in rows:
        if stored.get((row["model_id"], row["engine_name"], name)) != row:
            key = {column: str(row[column]) for column in MODELS.key}
            store.replace(MODELS, [], pa.Table.from_pylist([row], MODELS.arrow_schema), only=key)


def models_by_asset(settings: Settings) -> dict[str, DetectionSettings]:
    """Settings of every model by the first asset that it writes."""
    further = {model_tables(model.task, model.name)[0].name: model for model in settings.models}
    of_crops = {
        crop_model_tables(model.name, model.task)[0].name: model.model_settings
        for model in settings.crop_models
        if model.model_settings is not None
    }
    return {model_tables(settings.detections.task, None)[0].name: settings.detections, **further, **of_crops}


def _model_version(settings: DetectionSettings, key: str) -> StageVersion:
    """Build the version of a model's stage; `key` is the name of its section of the settings."""
    section, *hashes = detection_version(settings)
    assert isinstance(section, DetectionSettings)
    values: dict[str, Any] = {}
    if hashes:
        name = BUNDLED_NAME if uses_fallback(settings) else Path(settings.weights).name
        values[f"{key}.weights"] = f"{name} (content {str(hashes[0])[:8]})"
    if settings.inference_settings is not settings and section.min_confidence == STORED_FROM_CONFIDENCE:
        values[f"{key}.min_confidence"] = f"{STORED_FROM_CONFIDENCE} or more"  # the same boxes are stored
    return StageVersion.build(_LOGIC, {key: section}, *map(str, hashes), explanation=values)


def model_stage(settings: DetectionSettings, name: str | None = None) -> StageAsset:
    """Declare the stage of one model with the tables that its task fills.

    Args:
        settings: The model's settings when the code location is loaded; they decide its tables.
        name: Name of a further model; None means the detector.
    """
    tables = model_tables(settings.task, name)

    def own_settings(settings: Settings) -> DetectionSettings:
        return settings.detections if name is None else next(m for m in settings.models if m.name == name)

    @stage_asset(
        name=tables[0].name,
        group=ANALYSIS,
        tables=tables,
        deps=("normalized_video", FRAMES.name, camera_regions(name).name),
        version=lambda settings: _model_version(own_settings(settings), f"models.{name}" if name else "detections"),
        kinds=("ultralytics", "openvino"),
        pool=GPU_POOL,
        lease=lease_of_model(tables[0].name, own_settings),
        resource_keys=("models",),
    )
    def detect(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
        """Run the model on each frame, on a leased device."""
        return detect_recording(
            recording_id,
            run.store,
            own_settings(run.settings),
            tables,
            run.context.resources.models,
            run.device,
            progress,
            run.settings.batches.checkpoint_s,
            functools.partial(report_wait, run.context, tables[0].name, recording_id),
        )

    return detect
