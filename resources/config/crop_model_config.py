"""Settings of crop models, which classify the crops of tracks."""

from pydantic import Field

from resources.config.detection_config import DetectionSettings
from resources.config.section import Section


class CropModelSettings(Section):
    """A classifier of crops, such as the type of a car: an asset with tables of its own."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,29}$", description="Prefix of the names of its tables, such as colour_crop_classes."
    )
    weights: str = Field(min_length=1, description="An Ultralytics classifier (task classify); as for detections.")
    classes: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=10_000, description="Classify only tracks of these classes; null: all."
    )
    top_k: int = Field(3, ge=1, le=5, description="Number of classes that are stored of each crop, most likely first.")
    min_confidence: float = Field(
        0.5, ge=0, lt=1, description="A crop whose best class has a lower confidence does not vote on its track."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda:\d+)$", description="As for detections.")

    @property
    def model_settings(self) -> DetectionSettings:
        """The settings with which the model is loaded."""
        return DetectionSettings(task="classify", weights=self.weights, device=self.device)
