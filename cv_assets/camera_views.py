"""What the camera of a recording looks at, compared with the recordings of the same camera before it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.config.settings import Settings
from resources.media.camera_view import compare_views, decode_view, encode_view, summarize_view
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.start_times import CLOCK_COLUMNS, recording_start
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows

_PAST_RECORDINGS = 20  # as many as the view camera_health compares with


def view_columns(
    images: Sequence[np.ndarray], row: Mapping[str, Any], store: Store, settings: Settings
) -> dict[str, Any]:
    """Columns of `recording_contents` about the camera's view.

    Args:
        images: Frames spread over the recording, uint8 BGR.
        row: Its row of header and content.
        store: The tables, with the recordings that were normalized before.
        settings: Clocks of the cameras.
    """
    view = summarize_view(images)
    comparison = compare_views(view, _read_past_views(row, store, settings))
    moved = comparison.moved_count > 0
    return {
        "view_jpeg": encode_view(view),
        "view_same_count": comparison.same_count,
        "view_moved_count": comparison.moved_count,
        "view_x_share": comparison.x_share if moved else None,
        "view_y_share": comparison.y_share if moved else None,
    }


def _read_past_views(row: Mapping[str, Any], store: Store, settings: Settings) -> list[np.ndarray]:
    """Views of the recordings of the camera that start before this one, latest first; none without a start."""
    own_start = recording_start(row, settings)
    if own_start is None:
        return []
    cameras = store.read(RECORDINGS, columns=["recording_id", "camera"])
    name = row["camera"]
    is_of_camera = pc.is_null(cameras["camera"]) if name is None else pc.equal(cameras["camera"], name)
    ids = cameras.filter(is_of_camera)["recording_id"].to_pylist()
    starts = {
        recording_id: start[0]
        for recording_id, other in read_recording_rows(store, ids, CLOCK_COLUMNS).items()
        if recording_id != row["recording_id"] and (start := recording_start(other, settings)) is not None
    }
    past = sorted((name for name in starts if starts[name] < own_start[0]), key=lambda name: starts[name])
    contents: pa.Table = store.read(RECORDING_CONTENTS, past[-_PAST_RECORDINGS:], ["view_jpeg"])
    return [decode_view(jpeg) for jpeg in contents["view_jpeg"].to_pylist() if jpeg is not None]
