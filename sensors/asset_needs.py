"""What assets need besides their inputs: weights, probes, callables, and the package that reads text."""

from collections.abc import Callable
from functools import partial

from cv_assets.asset_graph import AssetGraph
from cv_assets.detections import models_by_asset
from resources.clips.sightings import PLATE
from resources.errors import PipelineError
from resources.inference.crop_model_check import check_crop_model
from resources.inference.text_reader import check_text_reader
from resources.inference.weights import check_weights
from resources.schema.camera_clock_tables import CAMERA_CLOCKS
from resources.schema.privacy_tables import PRIVACY_COPIES
from resources.schema.table_registry import crop_model_tables


def find_unmet_needs(graph: AssetGraph) -> dict[str, str]:
    """Find what is missing for which no recording can be processed: a sentence by the first asset of each stage."""
    settings = graph.settings
    checks: dict[str, Callable[[], object]] = {
        name: partial(check_weights, model, settings.watched_folders)
        for name, model in models_by_asset(settings).items()
    }
    for crop_model in settings.crop_models:
        name = crop_model_tables(crop_model.name, crop_model.task)[0].name
        checks.setdefault(name, partial(check_crop_model, crop_model))
    if settings.camera_clock.read:
        checks[CAMERA_CLOCKS.name] = check_text_reader
    if PLATE in settings.privacy_copy.cover:
        checks[PRIVACY_COPIES.name] = check_text_reader
    unmet = {}
    for name, check in checks.items():
        try:
            check()
        except PipelineError as error:
            unmet[name] = str(error)
    return unmet
