"""Contact sheets: many small images with captions in one image."""

from collections.abc import Sequence

import numpy as np

from resources.previews.image_encoding import MARGIN_PX, TEXT_PX, load_font, to_array, to_pil_image

_CAPTION_PX = TEXT_PX + MARGIN_PX
_MAX_ENLARGEMENT = 3
_SHEET_COLOUR, _SHEET_TEXT_COLOUR = (24, 27, 31), (230, 230, 230)


def contact_sheet(
    cells: Sequence[tuple[np.ndarray, str]], columns: int, cell_width_px: int, cell_height_px: int
) -> np.ndarray:
    """Arrange images in rows, each with a caption below it.

    Args:
        cells: uint8 BGR arrays of shape (height_px, width_px, 3) with their captions; at least one.
        columns: Images per row.
        cell_width_px: Width that an image is fitted into.
        cell_height_px: Height that an image is fitted into.

    Returns:
        uint8 BGR array of shape (sheet_height_px, sheet_width_px, 3).
    """
    from PIL import Image, ImageDraw

    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    step_x_px, step_y_px = cell_width_px + MARGIN_PX, cell_height_px + _CAPTION_PX + MARGIN_PX
    sheet = Image.new("RGB", (columns * step_x_px + MARGIN_PX, rows * step_y_px + MARGIN_PX), _SHEET_COLOUR)
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(cells):
        left, top = index % columns * step_x_px + MARGIN_PX, index // columns * step_y_px + MARGIN_PX
        height_px, width_px = image.shape[:2]
        scale = min(cell_width_px / width_px, cell_height_px / height_px, _MAX_ENLARGEMENT)
        cell = to_pil_image(image).resize((max(1, round(width_px * scale)), max(1, round(height_px * scale))))
        sheet.paste(cell, (left + (cell_width_px - cell.width) // 2, top + (cell_height_px - cell.height) // 2))
        middle = (left + cell_width_px / 2, top + cell_height_px + _CAPTION_PX / 2)
        text = _truncate_text(caption, cell_width_px)
        draw.text(middle, text, fill=_SHEET_TEXT_COLOUR, font=load_font(), anchor="mm")
    return to_array(sheet)


def _truncate_text(text: str, width_px: int) -> str:
    truncated_text = text
    while truncated_text and load_font().getlength(truncated_text) > width_px:
        text = text[:-1]
        truncated_text = text + "…" if text else ""
    return truncated_text
