"""privacy_copies: one row per recording whose video has a copy on which classes, faces and plates are unreadable.

The copies are the only files in their folder. A copy on which the audit still finds a box, face or plate of the
original is not kept: the stage fails, and names the first of them.
"""

import time
import uuid
from collections.abc import Mapping
from fractions import Fraction

import pyarrow as pa

from cv_assets.media_status import find_normalized_video, read_normalized_row
from cv_assets.model_lease import lease_of_model
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.clips.privacy_copy import CopyAudit, describe_visible, write_privacy_copy
from resources.clips.sightings import FACE, PLATE
from resources.clips.stored_boxes import read_privacy_plan
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.errors import RecordingError
from resources.inference.detector import Models
from resources.inference.text_reader import check_text_reader, text_reader_id
from resources.media.progress import ReportProgress
from resources.privacy_copy_file import privacy_copy_path
from resources.schema.correction_tables import CORRECTED_BOXES
from resources.schema.model_tables import DETECTIONS
from resources.schema.privacy_tables import PRIVACY_COPIES
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.delta_store import Store

_FACE_MODEL_ID = "centerface"
_COUNTS = (
    *("frame_count", "box_count", "visible_box_count", "face_count", "visible_face_count"),
    *("text_count", "visible_text_count", "rounds"),
)


def copy_recording(
    recording_id: str, store: Store, settings: Settings, models: Models, progress: ReportProgress
) -> dict[str, Metadata]:
    """Write the privacy copy of one recording, and store its audit.

    Raises:
        RecordingError: The recording has no normalized video, or the copy still shows what must be covered.
        PipelineError: The detector has no class of a name, or the package that reads text is not installed.
    """
    cover = settings.privacy_copy.cover
    if PLATE in cover:
        check_text_reader()
    # A class that the detector does not have, such as a misspelled one, would be visible on every copy.
    own_names = {FACE, PLATE, *settings.rename_classes.values()}
    models.check_class_names(settings.detections, {"privacy_copy.cover": [c for c in cover if c not in own_names]})
    row = read_normalized_row(recording_id, store)
    plan = read_privacy_plan(store, recording_id, cover, settings.rename_classes)
    target = privacy_copy_path(store.data_folder, recording_id)
    target.parent.mkdir(exist_ok=True)
    if target.exists():  # of other settings or results: it must not be taken for the new one, nor its audit
        store.replace(PRIVACY_COPIES, [recording_id], PRIVACY_COPIES.empty)
        target.unlink()
    # Not in the folder of the copies: what is not audited yet must not leave the machine.
    partial = store.media_folder / recording_id / f".{uuid.uuid4().hex}.partial.mp4"
    partial.parent.mkdir(parents=True, exist_ok=True)
    rate_fps, started_s = Fraction(row["rate_fps_num"], row["rate_fps_den"]), time.monotonic()
    size_px = (row["width_px"], row["height_px"])
    try:
        with find_normalized_video(row, store.data_folder).reading() as video:
            audit = write_privacy_copy(video, rate_fps, row["frame_count"], size_px, partial, plan, models, progress)
        if audit.visible_count:
            store.replace(PRIVACY_COPIES, [recording_id], PRIVACY_COPIES.empty)
            raise RecordingError(f"The privacy copy is not kept: {describe_visible(audit, float(rate_fps))}.")
        store.check_fence()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    result = {
        "recording_id": recording_id,
        "covered": ", ".join(cover),
        "copy_path": str(target.relative_to(store.data_folder)),
        **audit_columns(audit),
        "elapsed_s": time.monotonic() - started_s,
        "model_id": ", ".join(_models(cover)),
    }
    store.replace(PRIVACY_COPIES, [recording_id], pa.Table.from_pylist([result], schema=PRIVACY_COPIES.arrow_schema))
    counts = {name: result[name] for name in _COUNTS}
    return {PRIVACY_COPIES.name: count_metadata(1, **counts, still_seen_count=len(audit.still_seen))}


def audit_columns(audit: CopyAudit) -> dict[str, object]:
    """Columns of `privacy_copies` that the audit gives."""
    corners = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
    still_seen = [
        {
            "kind": sighting.kind,
            "frame_index": sighting.frame_index,
            "text": sighting.text,
            "confidence": sighting.confidence,
            **dict(zip(corners, sighting.xyxy, strict=True)),
        }
        for sighting in audit.still_seen
    ]
    return {**{name: getattr(audit, name) for name in _COUNTS}, "still_seen": still_seen}


def _models(cover: tuple[str, ...]) -> list[str]:
    """Names of the models that search what is covered."""
    names = {FACE: _FACE_MODEL_ID, PLATE: text_reader_id()}
    return [name for kind, name in names.items() if kind in cover]


@stage_asset(
    group=ANALYSIS,
    tables=(PRIVACY_COPIES,),
    deps=("normalized_video", DETECTIONS.name, TRACK_BOXES.name, CORRECTED_BOXES.name),
    version=lambda settings: StageVersion.build(
        "privacy copies 1", {"privacy_copy": settings.privacy_copy}, *_models(settings.privacy_copy.cover)
    ),
    kinds=("openvino", "mp4"),
    pool=GPU_POOL,
    # Faces are found and texts are read on the CPU, with all of its cores.
    lease=lease_of_model(PRIVACY_COPIES.name, lambda _: DetectionSettings(device="cpu")),
    resource_keys=("models",),
)
def privacy_copies(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
    """Copy the video of each recording with people, faces or plates covered, and audit the copy."""
    return copy_recording(recording_id, run.store, run.settings, run.context.resources.models, progress)
