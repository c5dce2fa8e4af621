"""The bundled embedding, loaded as the pipeline loads it."""

from resources.config.crop_model_config import CropModelSettings
from resources.inference.detector import Detector, Models


def load_embedding() -> Detector:
    """Load the bundled embedding."""
    settings = CropModelSettings(name="look", weights="mobilenet").model_settings
    assert settings is not None
    return Models().detector(settings, 224, 224, "cpu", accepts_any_size=True)
