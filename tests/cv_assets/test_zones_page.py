"""The page on which zones and lines are drawn."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cv_assets.commands.zones_page import render, zones_page
from resources.errors import PipelineError
from resources.schema import RECORDINGS
from resources.settings import CameraSettings, Settings
from tests.cv_assets.test_summaries import recording, table

DRAWN = CameraSettings.model_validate(
    {"hysteresis": 0.2, "lines": [{"name": "a <b> & </script>", "points": [[0.5, 1], [0.5, 0]]}]}
)


def test_the_page_holds_all_that_it_needs() -> None:
    page = render("it's </script> a gate", DRAWN, np.zeros((48, 64, 3), np.uint8))
    assert page.count("</script>") == 2  # none of the names ends a script
    embedded = re.search(r'<script id="given" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    given = json.loads(embedded[1])
    assert given["name"] == "it's </script> a gate"
    assert CameraSettings.model_validate(given["camera"]) == DRAWN
    assert (given["width_px"], given["height_px"]) == (64, 48)
    assert given["picture"].startswith("data:image/jpeg;base64,/9j/")
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page)
    assert set(re.findall(r"https?://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_a_camera_without_recordings_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    from resources.storage import Store

    settings = Settings(data_folder=tmp_path)
    with pytest.raises(PipelineError, match="no normalized recording yet"):
        zones_page("gate", settings)
    Store(tmp_path).replace(RECORDINGS, ["r"], table(RECORDINGS, recording() | {"video_path": "media/r.mp4"}))
    with pytest.raises(PipelineError, match=r"no recording of a camera called 'gaet'; did you mean 'gate'\?"):
        zones_page("gaet", settings)
    with pytest.raises(PipelineError, match="called ''; known: 'gate'"):
        zones_page("", settings)
