"""Checks of what crop models need besides weights: the package that reads text, and the files of probes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from resources.config.crop_model_config import CropModelSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference.linear_probe import read_probe
from resources.inference.text_reader import check_text_reader
from resources.own_stages.crop_callable import CropCallable


def find_crop_model_problems(settings: Settings) -> list[str]:
    """Find what is missing for crop models, the camera's clock and privacy copies, one sentence each."""
    reads_text = settings.camera_clock.read or "plate" in settings.privacy_copy.cover
    reads_text |= any(model.task == "text" for model in settings.crop_models)
    probes = [model for model in settings.crop_models if model.task == "probe"]
    checks: list[tuple[str, Callable[[], object]]] = [("", check_text_reader)] if reads_text else []
    checks += [(f"crop_models.{model.name}: ", partial(read_probe, Path(model.weights))) for model in probes]
    problems = []
    for key, check in checks:
        try:
            check()
        except PipelineError as error:
            problems.append(f"{key}{error}")
    return problems


def check_crop_model(model: CropModelSettings) -> None:
    """Check what a crop model without a network of ours needs.

    Raises:
        PipelineError: It is missing, so that no recording can be processed.
    """
    if model.task == "text":
        check_text_reader()
    elif model.task == "probe":
        read_probe(Path(model.weights))
    elif model.callable is not None:
        _ = CropCallable(model.name, model.callable).content_hash
