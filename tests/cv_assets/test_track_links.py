"""Tracks that continue from one recording of a camera to the next."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.track_links import adjacent_recordings, link_recording, link_rows
from cv_assets.zone_events import find_zone_events
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import TRACK_BOXES, TRACK_LINKS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.storage.delta_store import Store
from tests.builders.own_stage_files import complete_rows
from tests.builders.table_rows import store_recordings
from tests.builders.track_rows import moving_track_boxes

STARTED = datetime(2026, 3, 1, 8, tzinfo=UTC)


def timed_recording(recording_id: str, start_s: float, camera: str = "gate") -> dict[str, Any]:
    """A recording of 10 s with what linking reads."""
    return {
        "recording_id": recording_id,
        "camera": camera,
        "started_at_utc": STARTED + timedelta(seconds=start_s),
        "duration_s_from_content": 10.0,
    }


def test_adjacent_recordings_belong_to_the_same_camera_and_are_close_in_time() -> None:
    rows = [
        timed_recording("a", 0),
        timed_recording("b", 10.5),
        timed_recording("c", 20.6),
        timed_recording("x", 10, "yard"),
        timed_recording("d", 99),
    ]
    assert adjacent_recordings("b", rows, 1.0) == ("a", "c")
    assert adjacent_recordings("a", rows, 1.0) == (None, "b")
    assert adjacent_recordings("d", rows, 1.0) == (None, None)
    assert adjacent_recordings("b", rows, 0.2) == (None, "c")
    without_start = [{**row, "started_at_utc": None} for row in rows]
    assert adjacent_recordings("b", without_start, 1.0) == (None, None)


def test_a_track_is_linked_to_the_one_that_it_continues_and_not_to_one_elsewhere() -> None:
    path_px = np.arange(50, 150, 1.0)
    boxes = {"a": moving_track_boxes(path_px.tolist())}
    boxes["b"] = pa.concat_tables(
        [
            moving_track_boxes((path_px + 100)[:50].tolist(), recording_id="b", track_id=1),
            moving_track_boxes((path_px + 500)[:50].tolist(), recording_id="b", track_id=2),
        ]
    )
    links = link_rows(timed_recording("a", 0), timed_recording("b", 10.2), boxes, 2.0, 0.6).to_pylist()
    assert [(link["track_id"], link["previous_track_id"]) for link in links] == [(1, 1)]
    assert links[0]["gap_s"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("second_start_s", "line_px"),
    [pytest.param(10.0, 100, id="between the files"), pytest.param(9.2, 97, id="where their clocks overlap")],
)
def test_a_line_at_the_boundary_of_two_recordings_is_crossed_once(
    store: Store, second_start_s: float, line_px: int
) -> None:
    """The object reaches the line in one file and leaves it in the next: only both together show the crossing.

    With start times in whole seconds, a file can seem to begin before its predecessor ends.
    """
    line = {"name": "first", "points": [[line_px, 150], [line_px, 0]]}
    camera = CameraSettings.model_validate({"units": "px", "track_link_gap_s": 2.0, "lines": [line]})
    settings = Settings(cameras={"gate": camera})
    size = {"frame_count": 100, "width_px": 400, "height_px": 200}
    store_recordings(store, timed_recording("a", 0.0) | size, timed_recording("b", second_start_s) | size)
    path_px = np.linspace(51, 149, 200)
    for recording_id, part_px in (("a", path_px[:100]), ("b", path_px[100:])):
        store.replace(TRACK_BOXES, [recording_id], moving_track_boxes(part_px.tolist(), recording_id=recording_id))
        frames = [{"recording_id": recording_id, "frame_index": k, "time_s": k / 10} for k in range(100)]
        store.replace(FRAMES, [recording_id], complete_rows(FRAMES, *frames))
    for recording_id in ("b", "a"):  # the later recording arrives first
        link_recording(recording_id, store, settings)
    assert [(link["recording_id"], link["track_id"]) for link in store.read(TRACK_LINKS).to_pylist()] == [("b", 1)]
    for recording_id in ("a", "b"):
        find_zone_events(recording_id, store, settings)
    events = store.read(ZONE_EVENTS).to_pylist()
    assert [event["event"] for event in events if event["line_name"] == "first"] == ["in"]
