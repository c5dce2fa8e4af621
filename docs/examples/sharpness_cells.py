"""A map of each frame: how much of the picture's energy is in fine detail, by cell, from the Fourier transform."""

from collections.abc import Iterator

import cv2
import numpy as np

from resources.own_stages import Batch, Column, stage

CELL_PX = 64
FINE_FROM = 0.25  # cycles per pixel; 0.5 is the finest detail that a picture can have


@stage(
    inputs=["frames"],
    key=["frame_index", "cell_row", "cell_column"],
    columns=[
        "frame_index",
        "time_s",
        Column("cell_row", "int", "Row of the cell, from the top", minimum=0),
        Column("cell_column", "int", "Column of the cell, from the left", minimum=0),
        Column("fine_share", "float", "Share of the energy that is in fine detail", "0 to 1", minimum=0, maximum=1),
    ],
    batch_size=4,
    max_rate_fps=1,
)
def sharpness_cells(batch: Batch) -> Iterator[dict[str, object]]:
    """One row per frame and cell of 64 x 64 px with its sharpness."""
    frequency = np.hypot(np.fft.fftfreq(CELL_PX)[:, None], np.fft.fftfreq(CELL_PX)[None, :])
    window = np.hanning(CELL_PX)[:, None] * np.hanning(CELL_PX)[None, :]
    for frame in batch.frames:
        grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        for row in range(grey.shape[0] // CELL_PX):
            for column in range(grey.shape[1] // CELL_PX):
                cell = grey[row * CELL_PX : (row + 1) * CELL_PX, column * CELL_PX : (column + 1) * CELL_PX]
                energy = np.abs(np.fft.fft2((cell - cell.mean()) * window)) ** 2
                total = energy.sum()
                yield {
                    "frame_index": frame.frame_index,
                    "time_s": frame.time_s,
                    "cell_row": row,
                    "cell_column": column,
                    "fine_share": min(1.0, energy[frequency >= FINE_FROM].sum() / total) if total > 0 else 0.0,
                }
