"""What there is to look at: counted objects and stretches of a camera without lines and zones."""

from datetime import timedelta

import pyarrow as pa

from resources.audit.audit_population import count_names, read_population
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.schema.track_tables import STILL_TRACKS, TRACK_BOXES, TRACK_LINKS, TRACKS
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows
from tests.builders.damaged_tracks import track_rows
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE, store_recordings
from tests.builders.track_rows import moving_track_boxes


def test_lines_and_zones_are_counts_and_else_objects() -> None:
    points = [[0, 0], [1, 0], [1, 1]]
    camera = {"lines": [{"name": "in", "points": points}], "zones": [{"name": "hall", "points": points}]}
    assert count_names(CameraSettings.model_validate(camera)) == ["line in", "zone hall"]
    assert count_names(CameraSettings()) == ["objects"]


def test_objects_are_counted_once_and_stretches_cover_all_recordings(store: Store) -> None:
    later = STARTED_JUST_BEFORE_NINE + timedelta(hours=1)
    store_recordings(
        store,
        {"recording_id": "r", "duration_s_from_content": 10.0},
        {"recording_id": "s", "duration_s_from_content": 4.0, "started_at_utc": later},
    )
    boxes = pa.concat_tables(moving_track_boxes([10.0 * n for n in range(30)], track_id=n) for n in (1, 2, 3))
    tracks = track_rows(boxes, 10.0).to_pylist()
    tracks[0]["is_doubtful"] = None  # of an older version
    tracks[1]["is_doubtful"] = True
    tracks.append(tracks[0] | {"recording_id": "s"})
    store.replace(TRACK_BOXES, ["r"], boxes)
    store.replace(TRACKS, ["r", "s"], pa.Table.from_pylist(tracks, TRACKS.arrow_schema))
    still = {"recording_id": "r", "track_id": 3, "is_left_out": True, "class_id": 0, "class_name": "person"}
    still |= dict.fromkeys(("start_s", "end_s", "duration_s", "x_min_px", "y_min_px", "x_max_px", "y_max_px"), 1.0)
    store.replace(STILL_TRACKS, ["r"], pa.Table.from_pylist([still], STILL_TRACKS.arrow_schema))
    link = {"recording_id": "s", "track_id": 1, "previous_recording_id": "r", "previous_track_id": 1, "gap_s": 0.1}
    store.replace(TRACK_LINKS, ["s"], pa.Table.from_pylist([link], TRACK_LINKS.arrow_schema))
    items = read_population(store, list(read_recording_rows(store).values()), Settings(data_folder=store.data_folder))
    events = [item for item in items if item.kind == "event"]
    assert sorted((item.recording_id, item.track_id, item.stratum) for item in events) == [
        ("r", 1, "certain"),
        ("r", 2, "doubtful"),
    ]
    stretches = sorted((item.recording_id, item.start_s, item.end_s, item.stratum) for item in items[len(events) :])
    assert stretches == [
        ("r", 0, 4, "with counted"),
        ("r", 4, 8, "empty"),
        ("r", 8, 10, "empty"),
        ("s", 0, 4, "empty"),
    ]
    order = {(item.recording_id, item.start_s): item.order for item in items}
    assert order["s", 0] - order["r", 0] == 3600
