"""A crop model: another network on the crop of each track, here the bundled NanoDet with OpenVINO."""

import functools
from pathlib import Path

import cv2
import numpy as np
import openvino

import resources
from resources.own_stages import Batch, Column, stage

WEIGHTS = Path(resources.__file__).parent / "bundled_models" / "nanodet.xml"
SIDE_PX = 160
NAMES = {0: "person", 1: "bicycle", 2: "car", 3: "motorcycle", 5: "bus", 7: "truck"}


@functools.cache
def load_network() -> openvino.CompiledModel:
    """Load the network once per process, which is kept for the next recordings."""
    return openvino.Core().compile_model(WEIGHTS, "CPU")


@stage(
    inputs=["crops"],
    key=["track_id", "rank"],
    columns=[
        "track_id",
        Column("rank", "int", "Rank of the crop in the table crops", minimum=1),
        "class_name",
        Column("second_class_name", "text", "Most likely class of the second network"),
        Column("second_score", "float", "Its score", "0 to 1", minimum=0, maximum=1),
        Column("error", "text", "Why there is no answer; NULL if there is one"),
    ],
)
def second_opinions(batch: Batch) -> list[dict[str, object]]:
    """One row per crop with the class that a second network sees in it."""
    network, rows = load_network(), list[dict[str, object]]()
    for crop in batch.crops:
        answer: dict[str, object] = {"second_class_name": None, "second_score": None, "error": None}
        if crop.image is None:
            answer["error"] = "The picture was deleted by retention."
        else:
            image = cv2.resize(crop.image, (SIDE_PX, SIDE_PX)).astype(np.float32)
            image = (image - (103.53, 116.28, 123.675)) / (57.375, 57.12, 58.395)
            scores = network(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))["scores"][0].max(axis=0)
            best = max(NAMES, key=lambda class_id: scores[class_id])
            answer |= {"second_class_name": NAMES[best], "second_score": scores[best]}
        rows.append({**{name: crop.row[name] for name in ("track_id", "rank", "class_name")}, **answer})
    return rows
