"""The assets of crop models: every crop model of the settings answers for the crops of a recording."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cv_assets.crop_boxes import box_rows
from cv_assets.crop_classes import box_vote_rows, callable_rows, class_rows, colour_rows, probe_rows, vote_rows
from cv_assets.crop_embeddings import embedding_rows
from cv_assets.crop_reading import decode_jpeg, read_crops
from cv_assets.crop_texts import text_rows, text_vote_rows
from cv_assets.model_lease import lease_of_model
from cv_assets.stage_asset import ANALYSIS, StageAsset, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata
from cv_assets.waits import report_wait
from resources.config.crop_model_config import COLOURS, RAPIDOCR, CropModelSettings
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.errors import PipelineError
from resources.inference.detector import Detector, Models
from resources.inference.engine_selection import Footage
from resources.inference.linear_probe import probe_id, read_probe
from resources.inference.text_reader import text_reader_id
from resources.inference.weights import detection_version
from resources.media.progress import ReportProgress
from resources.own_stages.crop_callable import CropCallable, hash_callable
from resources.schema.table_registry import crop_model_tables
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store

_LOGIC = {
    "classify": "crop classes 1",
    "detect": "crop boxes 1",
    "embed": "crop embeddings 1",
    "text": "crop texts 1",
    "probe": "crop probe 1",
}
_KINDS = {COLOURS: "opencv", "callable": "python"}  # of crop models without a network
_SAMPLE_CROPS = 48  # on which engines are measured
_Rows = Sequence[dict[str, Any]]


def answer_recording(
    recording_id: str,
    store: Store,
    settings: CropModelSettings,
    padding: float,
    models: Models,
    device: str,
    progress: ReportProgress,
) -> dict[str, Metadata]:
    """Compute the answers for the crops of one recording, and store them with the votes of its tracks.

    Args:
        recording_id: The recording.
        store: The tables.
        settings: The crop model.
        padding: Margin with which the crops were cut.
        models: Loads the network.
        device: The leased device; empty for crop models without a network of ours.
        progress: Takes the number of answered crops.

    Raises:
        PipelineError: The weights cannot be used.
        RecordingError: The model fails with every crop.
    """
    crops = read_crops(recording_id, store, settings.classes)
    answers, votes = _answer(crops, recording_id, store, settings, padding, models, device, progress)
    tables = crop_model_tables(settings.name, settings.task)
    for table, rows in zip(tables, (answers, votes), strict=False):
        store.replace(table, [recording_id], pa.Table.from_pylist(list(rows), schema=table.arrow_schema))
    model = {name: answers[0][name] for name in ("model_id", "engine_name")} if answers else {}
    error_count = sum(row["error"] is not None for row in answers)
    metadata = {
        tables[0].name: count_metadata(len(answers), crop_count=len(crops), crops_without_answer=error_count, **model)
    }
    if len(tables) > 1:
        results = Counter(str(row.get("class_name", row.get("text"))) for row in votes)
        counts = class_count_metadata("tracks", results) if settings.task != "text" else {}
        metadata[tables[1].name] = count_metadata(len(votes), **counts)
    return metadata


def _answer(
    crops: Sequence[Mapping[str, Any]],
    recording_id: str,
    store: Store,
    settings: CropModelSettings,
    padding: float,
    models: Models,
    device: str,
    progress: ReportProgress,
) -> tuple[_Rows, _Rows]:
    """Compute the rows of a crop model's tables: the answers, and the votes if it has any."""
    answers: _Rows
    if settings.task == "text":
        answers = text_rows(crops, padding, progress)
        return answers, text_vote_rows(answers, settings.min_confidence)
    if settings.callable is not None:
        answers = callable_rows(crops, CropCallable(settings.name, settings.callable), settings.top_k, progress)
        return answers, vote_rows(answers, settings.min_confidence)
    if settings.weights == COLOURS:
        answers = colour_rows(crops, padding, settings.top_k, progress)
        return answers, vote_rows(answers, settings.min_confidence)
    if settings.task == "probe":
        answers = _apply_probe(crops, recording_id, store, settings)
        return answers, vote_rows(answers, settings.min_confidence)
    assert settings.model_settings is not None
    detector = _load(crops, settings.model_settings, models, device)
    if settings.task == "embed":
        return embedding_rows(crops, detector, padding, progress), ()
    if settings.task == "detect":
        answers = box_rows(crops, detector, padding, progress)
        return answers, box_vote_rows(answers, settings.min_confidence)
    answers = class_rows(crops, detector, settings.top_k, progress)
    detector.count_analysed_frames(len(crops))
    return answers, vote_rows(answers, settings.min_confidence)


def _load(crops: Sequence[Mapping[str, Any]], settings: DetectionSettings, models: Models, device: str) -> Detector:
    def read_sample_images() -> list[np.ndarray]:
        images = (decode_jpeg(crop["jpeg"]) for crop in crops[:: max(1, len(crops) // _SAMPLE_CROPS)])
        return [image for image in images if not isinstance(image, str)]

    model = models.weights(settings)
    size_px = settings.image_size_px or model.image_size_px
    width_px, height_px = model.input_width_px or size_px, model.input_height_px or size_px
    footage = Footage(len(crops), read_sample_images)
    return models.detector(settings, width_px, height_px, device, footage, accepts_any_size=True)


def _apply_probe(
    crops: Sequence[Mapping[str, Any]], recording_id: str, store: Store, settings: CropModelSettings
) -> _Rows:
    """Classify the stored embeddings of some crops.

    Raises:
        PipelineError: The probe cannot be read.
    """
    file = Path(settings.weights)
    probe = read_probe(file)
    (table,) = crop_model_tables(str(settings.embeddings), "embed")
    selected = {(crop["track_id"], crop["rank"]) for crop in crops}
    embeddings = store.read(table, [recording_id]).to_pylist()
    chosen = sorted(
        (row for row in embeddings if (row["track_id"], row["rank"]) in selected),
        key=lambda row: (row["track_id"], row["rank"]),
    )
    return probe_rows(chosen, probe, settings.top_k, probe_id(file))


def crop_model_stage(settings: CropModelSettings) -> StageAsset:
    """Declare the stage of one crop model.

    Args:
        settings: The model's settings when the code location is loaded; their name and task decide its tables.
    """
    tables = crop_model_tables(settings.name, settings.task)
    deps = [CROPS.name]
    if settings.embeddings is not None:
        deps.append(crop_model_tables(settings.embeddings, "embed")[0].name)

    def own_settings(settings_in_force: Settings) -> CropModelSettings:
        return next(model for model in settings_in_force.crop_models if model.name == settings.name)

    def leased_model(settings_in_force: Settings) -> DetectionSettings:
        # Text is read by OpenVINO on the CPU, with all of its cores.
        return own_settings(settings_in_force).model_settings or DetectionSettings(device="cpu")

    uses_device = settings.model_settings is not None or settings.weights == RAPIDOCR

    @stage_asset(
        name=tables[0].name,
        group=ANALYSIS,
        tables=tables,
        deps=deps,
        version=lambda settings_in_force: _build_version(own_settings(settings_in_force)),
        kinds=("openvino" if uses_device else _KINDS.get(settings.weights or "callable", "numpy"),),
        pool=GPU_POOL if uses_device else None,
        lease=lease_of_model(tables[0].name, leased_model) if uses_device else None,
        resource_keys=("models",),
    )
    def answer(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
        """Answer for the crops of each track, and let them vote on it."""
        models, model = run.context.resources.models, own_settings(run.settings)
        if model.model_settings is not None:
            show_wait = functools.partial(report_wait, run.context, tables[0].name, recording_id)
            with show_wait(lambda: models.step):
                models.weights(model.model_settings)
        padding = run.settings.crops.padding
        return answer_recording(recording_id, run.store, model, padding, models, run.device, progress)

    return answer


def _build_version(model: CropModelSettings) -> StageVersion:
    key, explanation = f"crop_models.{model.name}", dict[str, str]()
    section, hashes = model.model_copy(update={"device": ""}), list[str]()
    if model.model_settings is not None:
        hashes = [str(content_hash) for content_hash in detection_version(model.model_settings)[1:]]
    elif model.weights == RAPIDOCR:
        hashes = [text_reader_id()]
    elif model.task == "probe":
        hashes = _probe_hashes(Path(model.weights))
    elif model.callable is not None:
        hashes = [hash_callable(model.callable)]
        explanation = {f"{key}.callable": f"{model.callable} (content {hashes[0][:8] or 'unknown'})"}
    if hashes and not model.is_built_in and model.callable is None:
        section = section.model_copy(update={"weights": ""})
        explanation = {f"{key}.weights": f"content {hashes[0][-8:] if model.task == 'probe' else hashes[0][:8]}"}
    return StageVersion.build(_LOGIC[model.task], {key: section}, *hashes, explanation=explanation)


def _probe_hashes(file: Path) -> list[str]:
    """The name and hash of a probe; empty if it cannot be read, which the run of its stage reports."""
    try:
        return [probe_id(file)]
    except PipelineError:
        return []
