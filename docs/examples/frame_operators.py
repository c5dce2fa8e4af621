"""Classical operators on frames: edges, straight lines and optical flow."""

import cv2
import numpy as np

from resources.own_stages import Batch, Column, stage

WIDTH_PX = 320


@stage(
    inputs=["frames"],
    key=["frame_index"],
    columns=[
        "frame_index",
        "time_s",
        Column("edge_share", "float", "Share of the pixels on edges (Canny)", "0 to 1", minimum=0, maximum=1),
        Column("line_count", "int", "Number of straight lines (Hough)", minimum=0),
        Column("flow_x", "float", "Mean motion to the right since the frame before (Farneback)", "widths/s"),
        Column("flow_y", "float", "Mean motion down since the frame before (Farneback)", "widths/s"),
    ],
    max_rate_fps=10,
)
def frame_operators(batch: Batch) -> list[dict[str, object]]:
    """One row per frame with its edges, lines and motion.

    The motion of the first frame is NULL.
    """
    rows: list[dict[str, object]] = []
    for frame in batch.frames:
        height_px = round(frame.image.shape[0] * WIDTH_PX / frame.image.shape[1])
        grey = cv2.cvtColor(
            cv2.resize(frame.image, (WIDTH_PX, height_px), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY
        )
        edges = cv2.Canny(grey, 80, 160)
        lines = cv2.HoughLinesP(edges, 1, np.pi / 180, threshold=60, minLineLength=WIDTH_PX // 4, maxLineGap=4)
        flow_x = flow_y = None
        if "grey" in batch.state:  # the state is kept from batch to batch of a recording
            flow = cv2.calcOpticalFlowFarneback(batch.state["grey"], grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
            per_s = 1 / (frame.time_s - batch.state["time_s"]) / WIDTH_PX
            flow_x, flow_y = (float(value) * per_s for value in flow.mean(axis=(0, 1)))
        batch.state["grey"], batch.state["time_s"] = grey, frame.time_s
        rows.append(
            {
                "frame_index": frame.frame_index,
                "time_s": frame.time_s,
                "edge_share": np.count_nonzero(edges) / edges.size,
                "line_count": 0 if lines is None else len(lines),
                "flow_x": flow_x,
                "flow_y": flow_y,
            }
        )
    return rows
