"""The page for drawing zones and lines."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cli.zones_page import ZonesFrame, build_zones_page, is_zones_page, read_paths, render_zones_page
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_VARIABLE
from resources.errors import PipelineError
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.delta_store import Store
from tests.builders.numbered_videos import MakeVideo
from tests.builders.table_rows import store_recordings
from tests.builders.track_rows import moving_track_boxes

CAMERA_SETTINGS = CameraSettings.model_validate(
    {
        "hysteresis": 0.2,
        "lines": [{"name": "a <b> & </script>", "points": [[0.5, 1], [0.5, 0]]}],
        "ground": {"points": [[0, 0.4], [1, 0.4], [1, 1], [0, 1]], "metres": [[0, 12], [20, 12], [20, 0], [0, 0]]},
    }
)


def test_the_page_is_self_contained() -> None:
    frame = ZonesFrame(np.zeros((48, 64, 3), np.uint8), "</script>.mp4 at 0:02", [[(0, 0), (1, 0.5)]], [("Run:", "it")])
    page = render_zones_page("it's </script> a gate", CAMERA_SETTINGS, frame)
    assert page.count("</script>") == 2  # none of the names ends a script
    embedded_json = re.search(r'<script id="page-data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert embedded_json is not None
    page_data = json.loads(embedded_json[1])
    assert page_data["name"] == "it's </script> a gate"
    assert CameraSettings.model_validate(page_data["camera"]) == CAMERA_SETTINGS
    assert (page_data["width_px"], page_data["height_px"]) == (64, 48)
    assert (page_data["caption"], page_data["paths"]) == ("</script>.mp4 at 0:02", [[[0, 0], [1, 0.5]]])
    assert page_data["steps"] == [["Run:", "it"]]
    assert page_data["image"].startswith("data:image/jpeg;base64,/9j/")
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page)
    assert set(re.findall(r"https?://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}  # a namespace, not a download


def test_an_unknown_camera_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    settings = Settings(data_folder=tmp_path)
    with pytest.raises(PipelineError, match="no normalized recording yet"):
        build_zones_page("gate", settings)
    store_recordings(Store(tmp_path), {"recording_id": "r", "video_path": "media/r.mp4"})
    with pytest.raises(PipelineError, match=r"The camera 'gaet' has no recording; did you mean 'gate'\?"):
        build_zones_page("gaet", settings)
    with pytest.raises(PipelineError, match="The camera '' has no recording; known: 'gate'"):
        build_zones_page("", settings)


def test_the_page_shows_the_paths_of_the_anchor_points_of_stored_tracks(store: Store) -> None:
    rows = moving_track_boxes(np.linspace(0, 320, 101).tolist())
    short = moving_track_boxes([160, 160], track_id=2)
    store.replace(TRACK_BOXES, ["r"], pa.concat_tables([short, rows]))
    sizes = [{"recording_id": "r", "width_px": 320, "height_px": 200}]
    longest, other = read_paths(store, sizes, CameraSettings())
    assert (longest[0], longest[-1]) == ((0, 0.5), (1, 0.5))
    assert 20 <= len(longest) <= 32
    assert longest == sorted(longest)
    assert other == [(0.5, 0.5), (0.5, 0.5)]
    assert read_paths(store, sizes, CameraSettings(anchor="centre"))[0][0] == (0, 0.375)
    assert read_paths(store, [sizes[0] | {"recording_id": "without tracks"}], CameraSettings()) == []


def test_the_page_names_its_recording_and_the_commands_to_run_next(
    store: Store, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video("r.mp4", 40, rate=10)
    store_recordings(store, {"recording_id": "r", "video_path": str(video)})
    settings = Settings(data_folder=store.data_folder, watched_folder=Path("/recordings of gates"))
    monkeypatch.setenv(SETTINGS_VARIABLE, "/settings/pipeline.yaml")
    embedded_json = re.search(r'type="application/json">(.*?)</script>', build_zones_page("gate", settings), re.DOTALL)
    page_data = json.loads(embedded_json[1] if embedded_json else "")
    assert page_data["caption"] == "r at 0:02 (2026-03-01 09:00:00 UTC)"
    commands = [command for _, command in page_data["steps"] if command]
    folders = f"'/recordings of gates' --data {store.data_folder}"
    assert commands[0] == f"cv-assets process {folders} --settings /settings/pipeline.yaml"


def test_only_an_older_page_is_overwritten(tmp_path: Path) -> None:
    frame = ZonesFrame(np.zeros((48, 64, 3), np.uint8), "a.mp4 at 0:02", [], [])
    (tmp_path / "page.html").write_text(render_zones_page("gate", CAMERA_SETTINGS, frame))
    (tmp_path / "pipeline.yaml").write_text("detections: {}")
    assert is_zones_page(tmp_path / "page.html")
    assert not is_zones_page(tmp_path / "pipeline.yaml")
