"""All declared tables by name, and the tables of further models."""

from dataclasses import replace

from resources.schema.audit_tables import AUDIT_ANSWERS
from resources.schema.camera_clock_tables import CAMERA_CLOCKS
from resources.schema.columns import Table
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS, CORRECTION_RESULTS, CORRECTIONS
from resources.schema.crop_tables import TABLES_BY_TASK as CROP_TABLES_BY_TASK
from resources.schema.model_tables import (
    DETECTIONS,
    FRAME_CLASSES,
    KEYPOINTS,
    MASKS,
    MODEL_RUNS,
    MODELS,
    ORIENTED_BOXES,
)
from resources.schema.operations_tables import KEPT_RECORDINGS, NOTIFICATIONS, STAGE_RUNS
from resources.schema.privacy_tables import PRIVACY_COPIES
from resources.schema.recording_tables import (
    FILE_HASHES,
    FRAMES,
    RECORDING_CLOCKS,
    RECORDING_CONTENTS,
    RECORDINGS,
    SCENES,
    SOURCE_FILES,
    STRETCHES,
)
from resources.schema.summary_tables import CLASS_MINUTES, CLASS_PRESENCE, HEATMAP_CELLS, SUMMARIES
from resources.schema.track_tables import CROPS, STILL_TRACKS, TRACK_BOXES, TRACK_LINKS, TRACKS
from resources.schema.zone_tables import (
    GROUND_TRACKS,
    LINE_MINUTES,
    LINE_TRIPS,
    ORIGIN_DESTINATIONS,
    ZONE_EVENTS,
    ZONE_MINUTES,
    ZONE_PRESENCE,
    ZONE_SECONDS,
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        SOURCE_FILES,
        FILE_HASHES,
        RECORDINGS,
        RECORDING_CONTENTS,
        RECORDING_CLOCKS,
        FRAMES,
        SCENES,
        STRETCHES,
        CAMERA_CLOCKS,
        DETECTIONS,
        MASKS,
        KEYPOINTS,
        ORIENTED_BOXES,
        FRAME_CLASSES,
        MODEL_RUNS,
        MODELS,
        TRACKS,
        TRACK_BOXES,
        STILL_TRACKS,
        CORRECTIONS,
        CORRECTED_TRACKS,
        CORRECTED_BOXES,
        CORRECTION_RESULTS,
        AUDIT_ANSWERS,
        TRACK_LINKS,
        CROPS,
        PRIVACY_COPIES,
        ZONE_EVENTS,
        ZONE_SECONDS,
        ZONE_PRESENCE,
        LINE_TRIPS,
        GROUND_TRACKS,
        SUMMARIES,
        CLASS_MINUTES,
        HEATMAP_CELLS,
        CLASS_PRESENCE,
        ZONE_MINUTES,
        LINE_MINUTES,
        ORIGIN_DESTINATIONS,
        STAGE_RUNS,
        NOTIFICATIONS,
        KEPT_RECORDINGS,
    )
}

_TABLES_BY_TASK: dict[str, tuple[Table, ...]] = {
    "detect": (DETECTIONS,),
    "segment": (DETECTIONS, MASKS),
    "pose": (DETECTIONS, KEYPOINTS),
    "obb": (DETECTIONS, ORIENTED_BOXES),
    "classify": (FRAME_CLASSES,),
}


def model_tables(task: str, model_name: str | None = None) -> tuple[Table, ...]:
    """The tables that a model writes.

    Args:
        task: Task of the model, as in Ultralytics.
        model_name: Name of a further model, which prefixes the names of its tables; None means the detector, which
            writes detections for every task, because tracks are computed from them.
    """
    if model_name is None:
        return tuple(dict.fromkeys((DETECTIONS, *_TABLES_BY_TASK[task])))
    return tuple(_table_of_model(table, model_name) for table in _TABLES_BY_TASK[task])


def crop_model_tables(model_name: str, task: str = "classify") -> tuple[Table, ...]:
    """The tables that a crop model writes: the answers for each crop and, if they vote, the vote of each track.

    Args:
        model_name: Name of the crop model.
        task: Its task.
    """
    return tuple(_table_of_model(table, model_name) for table in CROP_TABLES_BY_TASK[task])


def find_table(name: str) -> Table | None:
    """The declaration of a table, including the tables of further models; None if no table has this name."""
    if name in TABLES:
        return TABLES[name]
    of_crops = (table for tables in CROP_TABLES_BY_TASK.values() for table in tables)
    for table in (DETECTIONS, MASKS, KEYPOINTS, ORIENTED_BOXES, FRAME_CLASSES, *of_crops):
        if name.endswith(f"_{table.name}"):
            return _table_of_model(table, name.removesuffix(f"_{table.name}"))
    return None


def _table_of_model(table: Table, model_name: str) -> Table:
    meaning_of_row = table.grain.partition(".")[0]
    return replace(table, name=f"{model_name}_{table.name}", grain=f"{meaning_of_row}, of the model {model_name}.")
