"""<name>_crop_classes and <name>_track_classes: the answers of a crop model, and the vote of each track.

Every crop model of the settings is an asset of its own, which classifies the crops of a recording.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cv_assets.model_lease import lease_of_model
from cv_assets.stage_asset import ANALYSIS, StageAsset, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata
from cv_assets.waits import report_wait
from resources.config.crop_model_config import CropModelSettings
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Detector, Models
from resources.inference.engine_selection import Footage
from resources.inference.weights import detection_version
from resources.media.progress import ReportProgress
from resources.schema.table_registry import crop_model_tables
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from resources.votes import UNSURE, is_decided

_LOGIC = "crop classes 1"
_SAMPLE_CROPS = 48  # on which engines are measured
_KEY = ("recording_id", "track_id", "rank")


def answer_rows(
    crops: Sequence[Mapping[str, Any]], detector: Detector, top_k: int, progress: ReportProgress
) -> list[dict[str, Any]]:
    """Classify crops; a crop without a readable picture gets a row with the reason.

    Args:
        crops: Rows of `crops`.
        detector: The classifier.
        top_k: Number of classes per crop.
        progress: Takes the number of classified crops.

    Returns:
        Rows of `crop_classes`.
    """
    readable: list[Mapping[str, Any]] = []
    rows: list[dict[str, Any]] = []
    model = {"model_id": detector.model_id, "engine_name": detector.engine_name}

    def read_pictures() -> Iterator[np.ndarray]:
        """Decode the crops in order; one that cannot be decoded gets its row here."""
        for crop in crops:
            image = decode_jpeg(crop["jpeg"])
            if isinstance(image, str):
                key = {name: crop[name] for name in _KEY}
                rows.append({**key, "class_rank": 1, "class_name": None, "confidence": None, "error": image, **model})
                continue
            readable.append(crop)
            yield image

    for number, answers in enumerate(detector.detect(read_pictures())):
        for class_rank, (class_name, confidence) in enumerate(_best_classes(answers, detector, top_k), 1):
            answer = {"class_rank": class_rank, "class_name": class_name, "confidence": confidence, "error": None}
            rows.append({**{name: readable[number][name] for name in _KEY}, **answer, **model})
        progress(number + 1, len(crops))
    return rows


def decode_jpeg(jpeg: bytes | None) -> np.ndarray | str:
    """Decode a crop to uint8 BGR; a sentence if that is not possible."""
    import cv2

    if jpeg is None:
        return "The picture was deleted by retention (retention.crops_after_days)."
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    return "The picture is not a JPEG." if image is None else np.asarray(image)


def _best_classes(answers: Detections, detector: Detector, top_k: int) -> Iterator[tuple[str, float]]:
    for class_id, confidence in zip(answers.class_id[:top_k], answers.confidence[:top_k], strict=True):
        yield detector.class_names[int(class_id)], float(np.clip(confidence, 0, 1))


def vote_rows(rows: Sequence[Mapping[str, Any]], min_confidence: float) -> list[dict[str, Any]]:
    """Let the crops of each track vote on its class.

    Args:
        rows: Rows of `crop_classes`.
        min_confidence: Crops whose best class has a lower confidence do not vote.

    Returns:
        Rows of `track_classes`.
    """
    answers: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["class_rank"] == 1:
            answers[row["recording_id"], row["track_id"]].append(row)
    result = []
    for (recording_id, track_id), track_rows in sorted(answers.items()):
        votes = Counter(row["class_name"] for row in track_rows if (row["confidence"] or -1) >= min_confidence)
        class_name, vote_count = min(votes.items(), key=lambda item: (-item[1], item[0]), default=(UNSURE, 0))
        voter_count = votes.total()
        result.append(
            {
                "recording_id": recording_id,
                "track_id": track_id,
                "class_name": class_name if is_decided(np.array(vote_count), np.array(voter_count)) else UNSURE,
                "vote_count": vote_count,
                "voter_count": voter_count,
                "crop_count": len(track_rows),
            }
        )
    return result


def classify_recording(
    recording_id: str, store: Store, settings: CropModelSettings, models: Models, device: str, progress: ReportProgress
) -> dict[str, Metadata]:
    """Classify the crops of one recording and store the answers and votes.

    Raises:
        PipelineError: The weights cannot be used.
    """
    crops = store.read(CROPS, [recording_id], [*_KEY, "class_name", "jpeg"]).to_pylist()
    if settings.classes is not None:
        crops = [crop for crop in crops if crop["class_name"] in settings.classes]
    crops.sort(key=lambda crop: (crop["track_id"], crop["rank"]))

    def read_sample_images() -> list[np.ndarray]:
        images = (decode_jpeg(crop["jpeg"]) for crop in crops[:: max(1, len(crops) // _SAMPLE_CROPS)])
        return [image for image in images if not isinstance(image, str)]

    size_px = models.weights(settings.model_settings).image_size_px
    footage = Footage(len(crops), read_sample_images)
    detector = models.detector(settings.model_settings, size_px, size_px, device, footage)
    rows = answer_rows(crops, detector, settings.top_k, progress)
    detector.count_analysed_frames(len(crops))
    votes = vote_rows(rows, settings.min_confidence)
    crop_table, track_table = crop_model_tables(settings.name)
    store.replace(crop_table, [recording_id], pa.Table.from_pylist(rows, schema=crop_table.arrow_schema))
    store.replace(track_table, [recording_id], pa.Table.from_pylist(votes, schema=track_table.arrow_schema))
    error_count = sum(row["error"] is not None for row in rows)
    model = {"model_id": detector.model_id, "engine_name": detector.engine_name}
    return {
        crop_table.name: count_metadata(len(rows), crop_count=len(crops), crops_without_answer=error_count, **model),
        track_table.name: count_metadata(
            len(votes), **class_count_metadata("tracks", Counter(row["class_name"] for row in votes))
        ),
    }


def crop_model_stage(settings: CropModelSettings) -> StageAsset:
    """Declare the stage of one crop model.

    Args:
        settings: The model's settings when the code location is loaded; their name decides its tables.
    """
    tables = crop_model_tables(settings.name)

    def own_settings(settings_in_force: Settings) -> CropModelSettings:
        return next(model for model in settings_in_force.crop_models if model.name == settings.name)

    def version(settings_in_force: Settings) -> StageVersion:
        model = own_settings(settings_in_force)
        _, *hashes = detection_version(model.model_settings)
        section = model.model_copy(update={"device": "", **({"weights": ""} if hashes else {})})
        content = {f"crop_models.{model.name}.weights": f"content {str(hashes[0])[:8]}"} if hashes else {}
        return StageVersion.build(
            _LOGIC, {f"crop_models.{model.name}": section}, *map(str, hashes), explanation=content
        )

    @stage_asset(
        name=tables[0].name,
        group=ANALYSIS,
        tables=tables,
        deps=(CROPS.name,),
        version=version,
        kinds=("ultralytics", "openvino"),
        pool=GPU_POOL,
        lease=lease_of_model(tables[0].name, lambda settings_in_force: own_settings(settings_in_force).model_settings),
        resource_keys=("models",),
    )
    def classify(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
        """Classify the crops of each track, and let them vote on it; on a leased device."""
        models = run.context.resources.models
        show_wait = functools.partial(report_wait, run.context, tables[0].name, recording_id)
        with show_wait(lambda: models.step):
            models.weights(own_settings(run.settings).model_settings)
        return classify_recording(recording_id, run.store, own_settings(run.settings), models, run.device, progress)

    return classify
