"""Settings of crop models, which answer a question about each crop of a track."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from resources.config.detection_config import DetectionSettings
from resources.config.network_config import NetworkSettings
from resources.config.section import Section
from resources.config.stage_config import CALLABLE_PATTERN

COLOURS, RAPIDOCR = "colours", "rapidocr"
"""Built-in crop models that are no network of ours: dominant colours, and the package rapidocr."""
_BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "mobilenet": {"task": "embed"},
    "centerface": {"task": "detect", "image_size_px": 320},
    COLOURS: {"task": "classify", "min_confidence": 0.2},  # the confidence of a colour is its share of the pixels
    RAPIDOCR: {"task": "text"},
}
"""Keys that differ from their defaults, by name of the built-in crop models."""
_NMS_IOU = 0.5  # a crop shows few objects, most of them apart
_PLAIN_HEADS = {"classify": ("classify",), "detect": ("gfl", "yolo", "ssd", "center"), "embed": ("embed",)}

CropTask = Literal["classify", "detect", "embed", "text", "probe"]


class EmbedderSettings(DetectionSettings):
    """A network whose output is an embedding."""

    task: Literal["embed"] = "embed"  # type: ignore[assignment]


class CropModelSettings(Section):
    """A model of crops, such as the type of a car: an asset with tables of its own."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,29}$", description="Prefix of the names of its tables, such as colour_crop_classes."
    )
    weights: str = Field(
        "",
        description="Weights as for detections; built in: mobilenet (embedding), centerface (faces), colours, rapidocr "
        "(text); for the task probe the file that cv-assets teach writes.",
    )
    callable: str | None = Field(
        None,
        pattern=CALLABLE_PATTERN,
        exclude_if=lambda value: value is None,
        description="Instead of weights: a Python classifier by its import path, package.module:function.",
    )
    task: CropTask = Field(
        "classify",
        description="What it answers: classify: classes; detect: boxes; embed: an embedding; text; probe: a class, by "
        "stored embeddings. That of the built-in ones is known.",
    )
    network: NetworkSettings | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="How weights are used that are a plain ONNX, OpenVINO or TorchScript network; as for detections.",
    )
    embeddings: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="For the task probe: name of the crop model whose embeddings it reads.",
    )
    image_size_px: int | None = Field(
        None,
        ge=32,
        le=4096,
        exclude_if=lambda value: value is None,
        description="Longer side of the network's input in pixels; null: the size it was trained with.",
    )
    classes: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=10_000, description="Use only crops of tracks of these classes; null: all."
    )
    top_k: int = Field(3, ge=1, le=5, description="Number of classes that are stored of each crop, most likely first.")
    min_confidence: float = Field(
        0.5, ge=0, lt=1, description="Answers of a lower confidence are stored, and do not vote on the track."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda:\d+)$", description="As for detections.")

    @model_validator(mode="before")
    @classmethod
    def _set_defaults_of_built_in(cls, values: Any) -> Any:
        built_in = _BUILT_IN.get(str(values.get("weights")), {}) if isinstance(values, Mapping) else {}
        return {**built_in, **values} if built_in else values

    @model_validator(mode="after")
    def _check(self) -> "CropModelSettings":
        if bool(self.weights) == bool(self.callable):
            raise ValueError("a crop model needs weights or a callable, and not both")
        if self.callable and self.task != "classify":
            raise ValueError(f"a callable has the task classify, not {self.task}: leave out the key task")
        if self.is_built_in and self.task != _BUILT_IN[self.weights]["task"]:
            raise ValueError(f"{self.weights} has the task {_BUILT_IN[self.weights]['task']}: leave out the key task")
        if self.task == "text" and self.weights != RAPIDOCR:
            raise ValueError("the task text has one model: set weights: rapidocr")
        if (self.task == "probe") != (self.embeddings is not None):
            raise ValueError("the key embeddings is for the task probe, which needs it: the name of a crop model")
        if self.network is not None and self.network.head not in _PLAIN_HEADS.get(self.task, ()):
            heads = ", ".join(_PLAIN_HEADS.get(self.task, ())) or "no network"
            raise ValueError(f"the head of network is {self.network.head}, but the task {self.task} has {heads}")
        if self.task == "embed" and not self.is_built_in and self.network is None:
            raise ValueError("the task embed needs the key network with head: embed, which describes its input")
        return self

    @property
    def is_built_in(self) -> bool:
        """Whether the weights are the name of a built-in model, not a path."""
        return self.weights in _BUILT_IN

    @property
    def model_settings(self) -> DetectionSettings | None:
        """The settings with which the network is loaded; None for models that have none of our networks."""
        if self.callable or self.weights in (COLOURS, RAPIDOCR) or self.task == "probe":
            return None
        if self.task == "embed":
            return EmbedderSettings(
                weights=self.weights,
                network=self.network,
                device=self.device,
                image_size_px=self.image_size_px,
                precision="f32",
            )
        # The size of boxes differs from crop to crop, so that engines cannot be compared on them.
        precision: Literal["auto", "f32"] = "f32" if self.task == "detect" else "auto"
        return DetectionSettings(
            task="detect" if self.task == "detect" else "classify",
            weights=self.weights,
            network=self.network,
            device=self.device,
            image_size_px=self.image_size_px,
            precision=precision,
            nms_iou=_NMS_IOU,
        )
