"""A contact sheet of the crops that a search finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from resources.errors import PipelineError

_SHEET_COLUMNS, _CELL_PX = 6, 160


def write_sheet(connection: duckdb.DuckDBPyConnection, found: Sequence[dict[str, Any]], file: Path) -> int:
    """Write a contact sheet of the crops that were found, each with its score, the most similar first.

    Returns:
        The number of pictures; 0 writes no file.

    Raises:
        PipelineError: The file cannot be written.
    """
    import cv2

    from resources.previews.annotated_frames import drawable_name, shrink_to_preview
    from resources.previews.contact_sheet import contact_sheet

    cells = []
    for row in found:
        query = "SELECT jpeg FROM crops WHERE (recording_id, track_id, rank) = (?, ?, ?)"
        (jpeg,) = connection.execute(query, [row["recording_id"], row["track_id"], row["rank"]]).fetchone() or (None,)
        image = None if jpeg is None else cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            name = drawable_name(row["class_name"], "object")
            cells.append((shrink_to_preview(np.asarray(image)), f"{row['score']:.2f} {name} {row['track_id']}"))
    if not cells:
        return 0
    sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_PX, _CELL_PX)
    is_encoded, picture = cv2.imencode(file.suffix or ".jpg", sheet)
    try:
        if not is_encoded:
            raise PipelineError(f"The sheet {file} cannot be encoded: name a .jpg or .png file.")
        file.write_bytes(picture.tobytes())
    except OSError as error:
        raise PipelineError(f"The sheet {file} cannot be written: {error.strerror or error}.") from error
    return len(cells)
