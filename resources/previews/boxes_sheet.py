"""Contact sheet of some analysed frames with the boxes that a model has found on them."""

from collections.abc import Callable

import numpy as np

from resources.media.frame_reader import Image
from resources.previews.annotated_frames import shrink_to_preview
from resources.previews.contact_sheet import contact_sheet
from resources.previews.timeline_chart import format_clock

_SHEET_FRAMES, _COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX = 6, 3, 240, (60, 240)
_CANDIDATES_PER_FRAME = 4


class BoxesSheet:
    """Collects small copies of frames, spread over the analysed ones, while a model runs: nothing is decoded again.

    Args:
        first: Position of the first frame to analyse.
        total: Number of frames to analyse, including those before `first`.
    """

    def __init__(self, first: int, total: int) -> None:
        count = _SHEET_FRAMES * _CANDIDATES_PER_FRAME
        self._due = np.unique(np.linspace(first, max(first, total - 1), count).astype(int)).tolist()
        self._images: dict[int, np.ndarray] = {}
        self._candidates: list[tuple[int, str, np.ndarray]] = []

    def store_if_due(self, position: int, image: Image) -> None:
        """Store a small copy of a frame if one is due; call it with the frames in order, from the decoding thread.

        Args:
            position: Position of the frame in the order of processing.
            image: uint8 of shape (height_px, width_px, 3), in main memory or on a GPU.
        """
        if self._due and position >= self._due[0]:
            self._due = [due for due in self._due if due > position]
            self._images[position] = shrink_to_preview(image if isinstance(image, np.ndarray) else image.cpu().numpy())

    def add_boxes(
        self, position: int, time_s: float, box_count: int, annotate: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Draw the boxes of a frame, if a copy of it was stored.

        Args:
            position: Position of the frame in the order of processing.
            time_s: Media time of the frame.
            box_count: Number of its boxes.
            annotate: Draws the boxes on a copy of the frame.
        """
        if (image := self._images.pop(position, None)) is not None:
            caption = f"{format_clock(time_s, tenths=True)}  {box_count} {'box' if box_count == 1 else 'boxes'}"
            self._candidates.append((box_count, caption, annotate(image)))

    def render(self) -> tuple[np.ndarray, int] | None:
        """Arrange the frames with the most boxes, one of each part of the recording.

        Returns:
            The sheet, uint8 BGR of shape (height_px, width_px, 3), and its number of frames; None if no stored frame
            has a box.
        """
        if not any(box_count for box_count, *_ in self._candidates):
            return None
        parts = np.array_split(np.arange(len(self._candidates)), min(_SHEET_FRAMES, len(self._candidates)))
        best = [max(part.tolist(), key=lambda index: self._candidates[index][0]) for part in parts]
        cells = [(self._candidates[index][2], self._candidates[index][1]) for index in best]
        image_height_px, image_width_px = cells[0][0].shape[:2]
        height_px = int(np.clip(_CELL_WIDTH_PX * image_height_px / image_width_px, *_CELL_HEIGHT_PX))
        return contact_sheet(cells, _COLUMNS, _CELL_WIDTH_PX, height_px), len(cells)
