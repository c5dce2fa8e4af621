"""Description of a plain ONNX or OpenVINO network: what its input is, and how its outputs are decoded."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from resources.config.section import Section

Levels = tuple[float, float, float]


class NetworkSettings(Section):
    """A plain ONNX, OpenVINO or TorchScript network, which does not say itself how it is used."""

    head: Literal["gfl", "yolo", "ssd", "center", "classify", "embed"] = Field(
        description="What the outputs are. gfl: distances to the four sides as distributions (NanoDet, PicoDet); yolo: "
        "centre, size and class scores; ssd: corners; center: heatmap, size and offset (CenterFace). classify: "
        "scores of classes. embed: an embedding, for crop_models."
    )
    classes: Literal["coco"] | Annotated[tuple[str, ...], Field(max_length=10_000)] = Field(
        (), description="Names of all classes, in the order of the network's scores; coco: the 80 of COCO."
    )
    colors: Literal["rgb", "bgr"] = Field("rgb", description="Order of the colours in the network's input.")
    mean: Levels = Field((0.0, 0.0, 0.0), description="Levels (0 to 255) that are subtracted, in the order of colors.")
    std: Levels = Field((255.0, 255.0, 255.0), description="Levels by which the result is divided, in that order.")
    resize: Literal["letterbox", "stretch"] = Field(
        "letterbox", description="How images become the input: scaled and padded, or stretched to its shape."
    )
    has_logits: bool = Field(
        False, description="Whether scores are logits, so that a sigmoid (ssd, classify: softmax) is due."
    )
    strides: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=10)] = Field(
        (), description="Pixels between anchors by level, for gfl; for yolo only if boxes are relative to them (YOLOX)."
    )
    anchor_offset: float = Field(
        0.5, ge=0, le=1, description="Where an anchor is in its cell, for gfl: 0.5 the centre, 0 the corner."
    )
    has_objectness: bool = Field(
        False, description="Whether a fifth value, by which scores are multiplied, is before them, for yolo."
    )
    first_class: int = Field(0, ge=0, description="Number of the first class, for ssd: 1 if 0 is the background.")
    box_unit: Literal["pixels", "shares"] = Field(
        "pixels", description="Unit of corners, for ssd: pixels, or shares of width and height, of the input."
    )

    @model_validator(mode="after")
    def _check(self) -> "NetworkSettings":
        if self.head == "gfl" and not self.strides:
            raise ValueError("the head gfl needs strides, such as [8, 16, 32]")
        if not self.classes and self.head != "embed":
            raise ValueError(f"the head {self.head} needs the names of its classes")
        if min(self.std) <= 0:
            raise ValueError("every std must be more than 0")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, by index."""
        return COCO_CLASSES if self.classes == "coco" else self.classes


COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO, with the names that Ultralytics uses."""
