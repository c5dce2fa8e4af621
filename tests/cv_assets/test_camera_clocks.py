"""The stage that reads the camera's clock in the picture of a recording."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_clocks import join_lines, read_clocks
from resources.camera_clock import find_start
from resources.config.camera_clock_config import CameraClockSettings
from resources.config.settings import Settings
from resources.inference.text_reader import TextLine


@pytest.mark.slow
def test_the_clock_is_read_at_the_bottom_of_the_picture() -> None:
    import cv2

    pytest.importorskip("rapidocr")
    start = datetime(2026, 3, 1, 9, 0, 5)
    images = []
    for time_s in (0.0, 4.0, 8.0):
        image = np.random.default_rng(0).integers(60, 90, (240, 400, 3), np.uint8)
        text = f"{start + timedelta(seconds=time_s):%Y-%m-%d %H:%M:%S}"
        cv2.putText(image, text, (10, 228), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
        images.append((time_s, image))
    readings, clock_text = read_clocks(iter(images))
    found = find_start(readings)
    assert found is not None and found.started_at == start
    assert clock_text is not None and "2026" in clock_text


@pytest.mark.parametrize("top_px", [4.0, 14.9, 30.1])
def test_a_date_and_a_time_side_by_side_are_read_in_this_order(top_px: float) -> None:
    lines = [
        TextLine("GATE", 0.9, np.array([10, top_px + 40, 60, top_px + 70])),
        TextLine("09:00:05", 0.9, np.array([200, top_px, 290, top_px + 30])),
        TextLine("2026-03-01", 0.9, np.array([10, top_px + 0.4, 190, top_px + 30])),
    ]
    assert join_lines(lines) == "2026-03-01 09:00:05 GATE"


def test_the_stage_exists_only_where_the_settings_ask_for_it() -> None:
    assert "camera_clocks" not in AssetGraph.build(Settings()).stages
    graph = AssetGraph.build(Settings(camera_clock=CameraClockSettings(read=True)))
    assert graph.stages["camera_clocks"] == ("camera_clocks",)
    assert "camera_clocks" in graph.costly_assets
