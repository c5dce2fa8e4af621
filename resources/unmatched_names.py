"""Names in the settings that match no camera and no class: a misspelt one would silently have no effect."""

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path

from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference.weights import check_weights, find_weights
from resources.schema.recording_tables import SOURCE_FILES
from resources.storage.delta_store import Store
from resources.watched_files import camera_of, list_watched_files

_MAX_LISTED_NAMES = 12
_ALL_OTHERS = "*"


def find_unmatched_names(settings: Settings) -> list[str]:
    """Find the names of cameras and classes in the settings that match nothing, one sentence each.

    Cameras are those of the watched folders and of the recordings in the tables, classes those of the weights. Nothing
    is reported while no camera is known, nor for weights that are not on this machine or cannot be read, which other
    checks report.

    Args:
        settings: The settings in force.
    """
    return [*_unmatched_cameras(settings), *_unmatched_classes(settings)]


def _unmatched_cameras(settings: Settings) -> Iterator[str]:
    known_cameras = _known_cameras(settings)
    if not known_cameras:
        return
    for key, names in _camera_names(settings):
        for name in names:
            if name not in known_cameras and name != _ALL_OTHERS:
                yield f"{key}: the camera {name!r} has no recording; {_hint(name, known_cameras)}"


def _known_cameras(settings: Settings) -> set[str]:
    """Names of the cameras that have a file or a recording; empty for those directly in a watched folder."""
    rows = Store(settings.data_folder).read(SOURCE_FILES, columns=["camera", "recording_id"]).to_pylist()
    cameras = {row["camera"] or "" for row in rows if row["recording_id"]}
    try:
        files = list_watched_files(settings).files
    except PipelineError:
        return cameras  # the watched folder does not exist yet, or its disk is not mounted
    return cameras | {camera_of(path, settings.watched_folders) or "" for path in files}


def _camera_names(settings: Settings) -> Iterator[tuple[str, Collection[str]]]:
    """All settings that name cameras; yields key and names."""
    yield "cameras", settings.cameras
    yield "detections.regions", settings.detections.regions
    for model in settings.models:
        yield f"models.{model.name}.regions", model.regions
    yield "notifications.no_data_after_h", settings.notifications.no_data_after_h


def _unmatched_classes(settings: Settings) -> Iterator[str]:
    models: list[tuple[str, DetectionSettings]] = [("detections", settings.detections)]
    models += [(f"models.{model.name}", model) for model in settings.models]
    if any(model.classes for model in settings.crop_models):
        known_classes = _known_classes(settings.detections, settings)
        track_classes = {settings.rename_classes.get(name, name) for name in known_classes}
        for crop_model in settings.crop_models:
            for name in crop_model.classes or ():
                if track_classes and name not in track_classes:
                    key = f"crop_models.{crop_model.name}.classes"
                    yield f"{key}: no track has the class {name!r}; {_hint(name, track_classes)}"
    for key, model in models:
        known_classes = _known_classes(model, settings) if model.class_names else set()
        for name in model.class_names or ():
            if known_classes and name not in known_classes:
                weights = Path(model.weights).name
                yield f"{key}.class_names: {weights} has no class {name!r}; {_hint(name, known_classes)}"


def _known_classes(model: DetectionSettings, settings: Settings) -> set[str]:
    """Names of the classes of a model; empty if its weights are not on this machine or cannot be read."""
    if find_weights(model) is None:
        return set()  # they are downloaded by the first run
    # Imported here: without classes in the settings no network is read. The description is cached by the first use.
    from resources.inference.detector import Models

    try:
        check_weights(model, settings.watched_folders)
        return set(Models(watched_folders=settings.watched_folders).weights(model).class_names.values())
    except PipelineError:
        return set()  # reported by the check of the weights


def _hint(name: str, known_names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name.lower(), [known.lower() for known in known_names], n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {next(known for known in known_names if known.lower() == nearest[0])!r}?"
    listed = sorted(known_names)
    more = f" and {len(listed) - _MAX_LISTED_NAMES} more" if len(listed) > _MAX_LISTED_NAMES else ""
    return f"known: {', '.join(map(repr, listed[:_MAX_LISTED_NAMES]))}{more}."
