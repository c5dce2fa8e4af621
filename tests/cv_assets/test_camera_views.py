"""The view of a recording is compared with those of the recordings of its camera before it."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from cv_assets.camera_views import view_columns
from resources.config.settings import Settings
from resources.media.camera_view import decode_view, encode_view, summarize_view
from resources.storage.delta_store import Store
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE, content_row, header_row, store_recordings


def draw_room(x_px: int) -> np.ndarray:
    """A picture of 320 x 200 px of a room with many edges, with its content shifted to the right."""
    room = np.kron(np.random.default_rng(0).integers(20, 230, (30, 48, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    return room[50:250, 80 - x_px : 400 - x_px]


def recording(name: str, hour: int, x_px: int, camera: str | None = "gate") -> dict[str, Any]:
    started_at_utc = STARTED_JUST_BEFORE_NINE + timedelta(hours=hour)
    view = encode_view(summarize_view([draw_room(x_px)]))
    return {"recording_id": name, "camera": camera, "started_at_utc": started_at_utc, "view_jpeg": view}


def test_only_earlier_recordings_of_the_camera_are_compared(store: Store) -> None:
    store_recordings(
        store,
        *(recording(f"past{hour}", hour, 0) for hour in range(3)),
        recording("turned", 3, 40),
        recording("later", 9, 40),
        recording("other", 1, 40, camera="yard"),
        recording("older_version", 2, 0) | {"view_jpeg": None},
    )
    own = {**header_row("own", STARTED_JUST_BEFORE_NINE + timedelta(hours=5)), **content_row("own")}
    own |= {"lead_s": 0.0, "duration_s_from_header": 4.0, "mtime_ns": 0}
    columns = view_columns([draw_room(40)] * 3, own, store, Settings(data_folder=store.data_folder))
    assert decode_view(columns.pop("view_jpeg")).shape == (60, 96)
    assert (columns["view_same_count"], columns["view_moved_count"]) == (1, 3)
    assert columns["view_x_share"] == pytest.approx(40 / 320, abs=0.01)
    assert columns["view_y_share"] == 0

    first = view_columns([draw_room(0)], own | {"camera": "new"}, store, Settings(data_folder=store.data_folder))
    assert (first["view_same_count"], first["view_moved_count"], first["view_x_share"]) == (0, 0, None)
