"""Still tracks, the places at which they repeat, and counts without those that the settings leave out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.still_tracks import still_track_rows, without_left_out
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.schema.track_tables import STILL_TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.track_rows import moving_track_boxes


def still_rows(
    boxes: pa.Table, camera: CameraSettings | None = None, camera_x_px: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Rows of `still_tracks` for boxes at 10 fps in frames of 400 x 200 px."""
    count = max(boxes["frame_index"].to_pylist()) + 1
    position = np.zeros(count) if camera_x_px is None else camera_x_px
    frames = pa.table({"frame_index": np.arange(count, dtype=np.int32), "camera_x_px": position,
                       "camera_y_px": np.zeros(count)})  # fmt: skip
    rows = still_track_rows(boxes, frames, camera or CameraSettings(), (400, 200), 0.1)
    assert broken_rules(STILL_TRACKS, rows) == []
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def sign_and_walker() -> pa.Table:
    """A sign that jitters, and a person who walks past it."""
    sign = moving_track_boxes([100 + 2 * (number % 2) for number in range(50)])
    walker = moving_track_boxes(np.arange(50, 200, 3).tolist(), track_id=2)
    return pa.concat_tables([sign, walker])


def test_a_track_whose_box_stays_is_still_and_one_that_moves_is_not() -> None:
    (row,) = still_rows(sign_and_walker())
    assert (row["track_id"], row["class_name"], row["is_left_out"]) == (1, "person", False)
    assert (row["start_s"], row["end_s"], row["duration_s"]) == pytest.approx((0, 5, 5))
    assert [row[f"{edge}_px"] for edge in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx([91, 50, 111, 100])


def test_a_sign_in_front_of_a_moving_camera_is_still() -> None:
    camera_x_px = np.linspace(0, 100, 50)
    boxes = moving_track_boxes((100 + camera_x_px).tolist())
    assert not still_rows(boxes)
    assert len(still_rows(boxes, camera_x_px=camera_x_px)) == 1


@pytest.mark.parametrize(
    ("left_out", "is_left_out"),
    [
        ({"class_name": "person", "box": [0.225, 0.25, 0.275, 0.5]}, True),
        ({"class_name": "car", "box": [0.225, 0.25, 0.275, 0.5]}, False),
        ({"class_name": "person", "box": [0.6, 0.25, 0.65, 0.5]}, False),
    ],
    ids=["its place", "another class", "another place"],
)
def test_a_still_track_is_left_out_at_the_place_and_of_the_class_of_the_settings(
    left_out: dict[str, Any], is_left_out: bool
) -> None:
    in_px = left_out | {"box": (np.array(left_out["box"]) * (400, 200, 400, 200)).tolist()}
    # repeated_objects writes shares, whatever the unit of the camera is.
    for units, place in (("relative", left_out), ("px", left_out), ("px", in_px)):
        camera = CameraSettings.model_validate({"units": units, "left_out": [place]})
        (row,) = still_rows(sign_and_walker(), camera)
        assert row["is_left_out"] == is_left_out, (units, place)


def test_a_left_out_track_does_not_count(store: Store) -> None:
    camera = CameraSettings.model_validate({"left_out": [{"class_name": "person", "box": [0.225, 0.25, 0.275, 0.5]}]})
    rows = pa.Table.from_pylist(still_rows(sign_and_walker(), camera), schema=STILL_TRACKS.arrow_schema)
    store.replace(STILL_TRACKS, ["r"], rows)
    assert set(without_left_out(sign_and_walker(), "r", store)["track_id"].to_pylist()) == {2}


def test_a_box_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="the box has no area"):
        CameraSettings.model_validate({"left_out": [{"class_name": "person", "box": [0.3, 0.2, 0.2, 0.5]}]})


def test_an_object_that_repeats_in_many_recordings_is_listed_with_the_setting_that_leaves_it_out(
    tmp_path: Path, store: Store
) -> None:
    names = [f"gate-{number}" for number in range(6)]
    headers = [
        dict.fromkeys(RECORDINGS.arrow_schema.names)
        | {
            "recording_id": name,
            "camera": "gate",
            "source_path": name,
            "fingerprint": name,
            "size_bytes": 1,
            "mtime_utc": datetime(2026, 3, 1, tzinfo=UTC),
        }
        for name in names
    ]
    for number, name in enumerate(names):
        box = {"x_min_px": 90.0 + number, "y_min_px": 50.0, "x_max_px": 110.0 + number, "y_max_px": 100.0}
        sign = {"recording_id": name, "track_id": 1, "class_id": 0, "class_name": "person", "start_s": 0.0,
                "end_s": 15.0 + number, "duration_s": 15.0 + number, "is_left_out": False, **box}  # fmt: skip
        other = sign | {"track_id": 2, "x_min_px": 10.0 + 60 * number, "x_max_px": 30.0 + 60 * number}
        rows = pa.Table.from_pylist([sign, other], schema=STILL_TRACKS.arrow_schema)
        store.replace(STILL_TRACKS, [name], rows)
        content = dict.fromkeys(RECORDING_CONTENTS.arrow_schema.names) | {
            **{"recording_id": name, "width_px": 400, "height_px": 200, "rate_fps": 10.0},
            **{"duration_s_from_content": 20.0, "frame_count": 200},
        }
        store.replace(
            RECORDING_CONTENTS, [name], pa.Table.from_pylist([content], schema=RECORDING_CONTENTS.arrow_schema)
        )
    store.replace(RECORDINGS, names, pa.Table.from_pylist(headers, schema=RECORDINGS.arrow_schema))
    publish(store, Settings(data_folder=tmp_path / "data"))
    with open_results(tmp_path / "data") as results:
        rows = results.sql("SELECT * FROM repeated_objects").to_arrow_table().to_pylist()
    assert [(row["camera"], row["recording_count"], row["track_count"]) for row in rows] == [("gate", 6, 6)]
    assert (rows[0]["recording_id"], rows[0]["track_id"]) == ("gate-5", 1)
    assert rows[0]["seen_s"] == pytest.approx(105)
    assert rows[0]["setting"] == '{class_name: "person", box: [0.2375, 0.2500, 0.2875, 0.5000]}'
