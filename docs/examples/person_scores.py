"""A frame model: a network of one's own on each frame, here the bundled NanoDet with OpenVINO."""

import functools
from pathlib import Path

import cv2
import numpy as np
import openvino

import resources
from resources.own_stages import Batch, Column, stage

WEIGHTS = Path(resources.__file__).parent / "bundled_models" / "nanodet.xml"
WIDTH_PX, HEIGHT_PX = 320, 192
PERSON, CAR = 0, 2


@functools.cache
def load_network() -> openvino.CompiledModel:
    """Load the network once per process, which is kept for the next recordings."""
    return openvino.Core().compile_model(WEIGHTS, "CPU")


@stage(
    inputs=["frames"],
    key=["frame_index"],
    columns=[
        "frame_index",
        "time_s",
        Column("person_score", "float", "Highest score of a person in the frame", "0 to 1", minimum=0, maximum=1),
        Column("car_score", "float", "Highest score of a car in the frame", "0 to 1", minimum=0, maximum=1),
    ],
    batch_size=8,
    max_rate_fps=5,
    version="nanodet-g",  # change it with the weights, which are outside this file
)
def person_scores(batch: Batch) -> list[dict[str, object]]:
    """One row per frame with the scores of persons and cars."""
    network = load_network()
    rows: list[dict[str, object]] = []
    for frame in batch.frames:
        image = cv2.resize(frame.image, (WIDTH_PX, HEIGHT_PX)).astype(np.float32)
        image = (image - (103.53, 116.28, 123.675)) / (57.375, 57.12, 58.395)
        scores = network(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))["scores"][0]
        best = scores.max(axis=0)
        rows.append(
            {
                "frame_index": frame.frame_index,
                "time_s": frame.time_s,
                "person_score": best[PERSON],
                "car_score": best[CAR],
            }
        )
    return rows
