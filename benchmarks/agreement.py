"""How far our detections agree with `ultralytics predict` on the same normalized video."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from resources.inference.agreement import FrameBoxes, partners
from resources.schema import DETECTIONS, RECORDINGS
from resources.storage import Store

_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


def predicted(weights: Path, video: Path, nms_iou: float) -> list[FrameBoxes]:
    """What Ultralytics finds in each frame of a video with the weights as they are (torch, f32)."""
    from ultralytics import YOLO

    found = []
    for result in YOLO(weights).predict(str(video), stream=True, verbose=False, conf=0.1, iou=nms_iou, device="cpu"):
        boxes: Any = result.boxes
        found.append(FrameBoxes(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(int)))
    return found


def stored(rows: pa.Table, frame_count: int) -> list[FrameBoxes]:
    """Rows of `detections` of one recording, frame by frame."""
    rows = rows.sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])
    xyxy = np.stack([rows[name].to_numpy() for name in _CORNERS], axis=1)
    confidence, class_id = rows["confidence"].to_numpy(), rows["class_id"].to_numpy()
    edges = np.searchsorted(rows["frame_index"].to_numpy(), np.arange(frame_count + 1))
    return [
        FrameBoxes(xyxy[begin:end], confidence[begin:end], class_id[begin:end])
        for begin, end in itertools.pairwise(edges)
    ]


def agreement(data_folder: Path, weights: Path, min_iou: float, nms_iou: float = 0.7) -> dict[str, float]:
    """By recording of a data folder, the share of sure boxes of either side that have a partner on the other."""
    store = Store(data_folder)
    shares = {}
    for row in store.read(RECORDINGS).to_pylist():
        if row["video_path"] is None:
            continue
        ours = stored(store.read(DETECTIONS, [row["recording_id"]]), row["frame_count"])
        peers = predicted(weights, data_folder / row["video_path"], nms_iou)
        if len(ours) != len(peers):
            raise ValueError(f"{row['recording_id']}: {len(ours)} frames here, {len(peers)} there.")
        counted = [
            partners(a, b, min_iou)
            for one, other in zip(ours, peers, strict=True)
            for a, b in ((one, other), (other, one))
        ]
        sure = sum(total for _, total in counted)
        shares[row["recording_id"]] = sum(met for met, _ in counted) / sure if sure else 1.0
    return shares
