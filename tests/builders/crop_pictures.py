"""Crops for tests of crop models: drawn pictures, rows of the table crops, and small networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resources.schema.track_tables import CROPS

RED, BLUE = (0, 0, 255), (255, 0, 0)


def write_colour_classifier(folder: Path) -> Path:
    """Write a classifier as Ultralytics exports it: the shares of red and of blue in a picture."""
    import openvino

    folder.mkdir()
    openvino.save_model(shares_of_red_and_blue(), folder / "colours.xml")
    (folder / "metadata.yaml").write_text("{task: classify, imgsz: [32, 32], names: {0: red, 1: blue}}")
    return folder


def shares_of_red_and_blue() -> Any:
    """A network from an RGB picture to the means of its first and last colour."""
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([1, 3, 32, 32], np.float32, name="images")
    mean = ops.reduce_mean(image, ops.constant(np.array([2, 3])), False)
    shares = ops.gather(mean, ops.constant(np.array([0, 2])), ops.constant(1))
    return openvino.Model([shares], [image], "colours")


def draw_crop(colour: Sequence[int], width_px: int = 30, height_px: int = 40) -> bytes:
    """A JPEG of one colour."""
    return encode(np.full((height_px, width_px, 3), colour, np.uint8))


def encode(image: np.ndarray) -> bytes:
    """A picture as JPEG."""
    import cv2

    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def crop_rows(*crops: tuple[int, str, bytes | None], recording_id: str = "a", **values: Any) -> list[dict[str, Any]]:
    """Rows of crops from (track, class, JPEG), ranked in this order; the box is the whole crop of 30 x 40 px."""
    ranks: dict[int, int] = {}
    rows = []
    for track_id, class_name, jpeg in crops:
        ranks[track_id] = ranks.get(track_id, 0) + 1
        row: dict[str, Any] = dict.fromkeys(CROPS.arrow_schema.names, 1) | {
            "recording_id": recording_id,
            "class_name": class_name,
        }
        box = {"x_min_px": 0.0, "y_min_px": 0.0, "x_max_px": 30.0, "y_max_px": 40.0}
        rows.append(row | box | {"track_id": track_id, "rank": ranks[track_id], "jpeg": jpeg} | values)
    return rows
