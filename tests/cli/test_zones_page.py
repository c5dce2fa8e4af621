"""The page for drawing zones and lines."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cli.zones_page import build_zones_page, render_zones_page
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from tests.builders.table_rows import store_recordings

CAMERA_SETTINGS = CameraSettings.model_validate(
    {"hysteresis": 0.2, "lines": [{"name": "a <b> & </script>", "points": [[0.5, 1], [0.5, 0]]}]}
)


def test_the_page_is_self_contained() -> None:
    page = render_zones_page("it's </script> a gate", CAMERA_SETTINGS, np.zeros((48, 64, 3), np.uint8))
    assert page.count("</script>") == 2  # none of the names ends a script
    embedded_json = re.search(r'<script id="page-data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert embedded_json is not None
    page_data = json.loads(embedded_json[1])
    assert page_data["name"] == "it's </script> a gate"
    assert CameraSettings.model_validate(page_data["camera"]) == CAMERA_SETTINGS
    assert (page_data["width_px"], page_data["height_px"]) == (64, 48)
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
