"""The view camera_health: a covered, dark, defocused or moved camera, against its own past."""

from datetime import timedelta
from typing import Any

from resources.config.settings import Settings
from resources.schema.recording_tables import FRAMES, SCENES
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE, sparse_rows, store_recordings

USUAL = {"mean_brightness": 100.0, "mean_sharpness": 400.0}


def conditions(store: Store, *last: dict[str, Any], past: int = 4) -> list[str | None]:
    """Conditions of recordings that follow usual ones of the same camera."""
    measures = [USUAL] * past + [USUAL | {key: value for key, value in row.items() if key in USUAL} for row in last]
    moved = [0.0] * past + [row.get("camera_x_px", 0.0) for row in last]
    ids = [f"r{number:02d}" for number in range(len(measures))]
    times = [STARTED_JUST_BEFORE_NINE + timedelta(hours=number) for number in range(len(ids))]
    none: dict[str, Any] = {}
    views = [none] * past + [{key: value for key, value in row.items() if key.startswith("view_")} for row in last]
    store_recordings(
        store,
        *(
            {"recording_id": name, "created_at_utc": time, **view}
            for name, time, view in zip(ids, times, views, strict=True)
        ),
    )
    scenes = [
        {"recording_id": name, "scene_index": 0, "duration_s": 4.0} | row
        for name, row in zip(ids, measures, strict=True)
    ]
    zeros = dict.fromkeys(("first_frame_index", "last_frame_index", "start_s", "end_s", "cut_score", "mean_motion"), 0)
    store.replace(SCENES, ids, sparse_rows(SCENES, *[zeros | row for row in scenes]))
    numbers = {
        field.name: False if field.name.startswith("is_") else 0
        for field in FRAMES.arrow_schema
        if field.name not in ("recording_id", "captured_at_utc")
    }
    frames = [
        numbers | {"recording_id": name, "frame_index": index, "camera_x_px": index * x, "camera_y_px": 0.0}
        for name, x in zip(ids, moved, strict=True)
        for index in (0, 1)
    ]
    store.replace(FRAMES, ids, sparse_rows(FRAMES, *frames))
    publish(store, Settings(data_folder=store.data_folder))
    with open_results(store.data_folder) as results:
        rows = results.execute("SELECT condition FROM camera_health ORDER BY recording_id").fetchall()
    return [condition for (condition,) in rows]


def test_each_defect_is_named_against_the_past_of_the_camera(store: Store) -> None:
    found = conditions(
        store,
        {"mean_brightness": 60.0, "mean_sharpness": 250.0},
        {"mean_sharpness": 5.0},
        {"mean_sharpness": 80.0},
        {"mean_brightness": 20.0, "mean_sharpness": 100.0},
        {"camera_x_px": 32.0},
        {"view_same_count": 1, "view_moved_count": 7, "view_x_share": -0.2, "view_y_share": 0.0},
        {"view_same_count": 5, "view_moved_count": 4, "view_x_share": 0.2, "view_y_share": 0.0},
    )
    assert found == [None, None, None, "ok", "ok", "covered", "defocused", "dark", "moved", "moved", "ok"]


def test_without_a_past_nothing_is_said(store: Store) -> None:
    assert conditions(store, {"mean_sharpness": 1.0}, past=2) == [None, None, None]
