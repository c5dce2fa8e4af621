"""Settings of the models: weights, engine, thresholds and regions."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from resources.config.network_config import NetworkSettings
from resources.config.section import MAX_SHAPES, Polygon, Section
from resources.config.tile_config import TileSettings

STORED_FROM_CONFIDENCE = 0.1
"""Boxes above this confidence are stored even if `min_confidence` is higher."""

DEFAULT_WEIGHTS = "yolo26n.pt"
"""Where these are neither there nor to be had, the bundled detector is used."""


class DetectionSettings(Section):
    """One model: its weights, how it is executed, and which of its results are used."""

    task: Literal["detect", "segment", "pose", "obb", "classify"] = Field(
        "detect", description="Task that the weights were trained for; decides which tables are written."
    )
    weights: str = Field(
        DEFAULT_WEIGHTS,
        min_length=1,
        description="An Ultralytics model (.pt), or its export as .onnx file or OpenVINO folder: a path, or a name, "
        "which is searched in weights/ and, if Ultralytics publishes it, downloaded there once. nanodet: the bundled "
        "detector.",
    )
    network: NetworkSettings | None = Field(
        None,
        # Left out of versions while it is not used, so that the detections of older versions stay fresh.
        exclude_if=lambda value: value is None,
        description="How weights are used that are a plain ONNX or OpenVINO detector, not an export of Ultralytics.",
    )
    engine: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="auto: torch or, where installed, TensorRT on a GPU; OpenVINO on a CPU."
    )
    precision: Literal["auto", "f32", "f16", "bf16", "int8"] = Field(
        "auto",
        description="auto: the fastest engine and precision that agrees with the f32 reference, measured once on your "
        "own footage when there is enough of it.",
    )
    min_agreement: float = Field(
        0.98,
        ge=0,
        le=1,
        description="With precision auto, an engine must find at least this share of the reference's boxes, and this "
        "share of its own boxes must match the reference; on little footage int8 and TensorRT may miss half as many.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda:\d+)$",
        description="Device that executes the model: auto, cpu, cuda:N or mps.",
    )
    image_size_px: int | None = Field(
        None,
        ge=32,
        le=16_384,
        description="Longer side of the model's input in pixels; null: the size it was trained with.",
    )
    tiles: TileSettings | None = Field(
        None,
        # Left out of versions while it is not used, so that the detections of older versions stay fresh.
        exclude_if=lambda value: value is None,
        description="Run the model on overlapping tiles of the frame, for objects that are small in a large frame.",
    )
    min_confidence: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Boxes with a confidence below this are not used; the tracker uses weak ones too. Boxes above 0.1 "
        "are stored nevertheless, so that only a change below 0.1 reruns the model.",
    )
    nms_iou: float = Field(
        0.7,
        gt=0,
        le=1,
        description="IoU threshold of NMS: of two boxes of a class that overlap more, the better is kept.",
    )
    max_per_frame: int = Field(300, ge=1, description="At most this many boxes per frame, best first.")
    class_names: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="Use only these classes; null uses all classes of the model. All are stored, so that a change "
        "reruns no model.",
    )
    max_rate_fps: float | None = Field(
        None, gt=0, description="Run the model on at most this many frames per second; null: on every frame."
    )
    skip_unchanged_frames: bool = Field(
        False,
        description="Skip inference on unchanged frames; they reuse the boxes of the last frame inferred.",
    )
    regions: dict[str, Annotated[tuple[Polygon, ...], Field(max_length=MAX_SHAPES)]] = Field(
        {},
        description="Per camera (* for all others), polygons of [x, y] as shares of width and height: only boxes whose "
        "centre is inside one are kept, and only that part of the frame is inferred.",
    )

    @property
    def inference_settings(self) -> "DetectionSettings":
        """The settings with which the model runs; the stages that read its boxes select among them by the others.

        A classifier stores no boxes, so that it selects its classes itself.
        """
        if self.task == "classify":
            return self
        min_confidence = min(self.min_confidence, STORED_FROM_CONFIDENCE)
        return self.model_copy(update={"min_confidence": min_confidence, "class_names": None})

    def region_of(self, camera: str | None) -> tuple[Polygon, ...]:
        """Polygons of a camera in which boxes are kept; an empty tuple means the whole frame."""
        return self.regions.get(camera or "", self.regions.get("*", ()))

    @model_validator(mode="after")
    def _check_tiles(self) -> "DetectionSettings":
        if self.tiles is not None and self.task != "detect":
            raise ValueError(f"tiles are for the task detect, not for {self.task}: leave out tiles")
        return self

    @field_validator("regions")
    @classmethod
    def _check_polygons(cls, value: dict[str, tuple[Polygon, ...]]) -> dict[str, tuple[Polygon, ...]]:
        for camera, polygons in value.items():
            for polygon in polygons:
                if len(polygon) < 3 or not all(0 <= share <= 1 for point in polygon for share in point):
                    raise ValueError(f"{camera}: a polygon needs at least 3 corners [x, y], each from 0 to 1")
        return value


class ModelSettings(DetectionSettings):
    """A further model: every key of `detections`, and a name."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,29}$", description="Prefix of the names of its tables, such as plates_detections."
    )
    weights: str = Field(min_length=1, description="As for detections.")

    @property
    def inference_settings(self) -> "ModelSettings":
        """The settings with which the model runs: all, because no stage reads its boxes and selects among them."""
        return self
