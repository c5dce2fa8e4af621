"""How far the detections in the tables agree with `ultralytics predict` on the same normalized video."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from resources.inference.engine_agreement import FrameBoxes, count_matches
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.storage.delta_store import Store

_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


def predict_with_ultralytics(weights: Path, video: Path, nms_iou: float) -> list[FrameBoxes]:
    """Detect the boxes of each frame of a video with Ultralytics and the unchanged weights (torch, f32)."""
    from ultralytics import YOLO

    boxes_by_frame = []
    for result in YOLO(weights).predict(str(video), stream=True, verbose=False, conf=0.1, iou=nms_iou, device="cpu"):
        boxes: Any = result.boxes
        boxes_by_frame.append(FrameBoxes(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(int)))
    return boxes_by_frame


def split_by_frame(rows: pa.Table, frame_count: int) -> list[FrameBoxes]:
    """Split the `detections` rows of one recording into the boxes of each frame."""
    rows = rows.sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])
    xyxy = np.stack([rows[name].to_numpy() for name in _CORNERS], axis=1)
    confidence, class_id = rows["confidence"].to_numpy(), rows["class_id"].to_numpy()
    edges = np.searchsorted(rows["frame_index"].to_numpy(), np.arange(frame_count + 1))
    return [
        FrameBoxes(xyxy[begin:end], confidence[begin:end], class_id[begin:end])
        for begin, end in itertools.pairwise(edges)
    ]


def agreement_by_recording(data_folder: Path, weights: Path, min_iou: float, nms_iou: float = 0.7) -> dict[str, float]:
    """Share of the confident boxes of either side that match a box of the other, by recording.

    Args:
        data_folder: The data folder with processed recordings.
        weights: The weights that they were processed with.
        min_iou: IoU from which two boxes match.
        nms_iou: IoU threshold of Ultralytics' NMS.

    Raises:
        ValueError: The two sides have different numbers of frames.
    """
    store = Store(data_folder)
    shares = {}
    for row in store.read(RECORDING_CONTENTS).to_pylist():
        if row["video_path"] is None:
            continue
        ours = split_by_frame(store.read(DETECTIONS, [row["recording_id"]]), row["frame_count"])
        peers = predict_with_ultralytics(weights, data_folder / row["video_path"], nms_iou)
        if len(ours) != len(peers):
            raise ValueError(f"{row['recording_id']}: {len(ours)} frames in the tables, {len(peers)} from Ultralytics.")
        counts = [
            count_matches(boxes, other_boxes, min_iou)
            for our_boxes, peer_boxes in zip(ours, peers, strict=True)
            for boxes, other_boxes in ((our_boxes, peer_boxes), (peer_boxes, our_boxes))
        ]
        confident_count = sum(total for _, total in counts)
        shares[row["recording_id"]] = (
            sum(matched for matched, _ in counts) / confident_count if confident_count else 1.0
        )
    return shares
