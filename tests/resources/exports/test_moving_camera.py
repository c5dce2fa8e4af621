"""Zones and paths of a camera that moves: what stands still on the ground is shifted in the frame."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from resources.clips.frame_canvas import FrameCanvas
from resources.clips.overlay import ClipPainter, Overlay
from resources.config.camera_config import CameraSettings
from resources.errors import PipelineError
from resources.exports.annotations import Box, RecordingAnnotations
from resources.exports.result_files import write_geojson

CAMERA = CameraSettings.model_validate(
    {
        "units": "px",
        "anchor": "centre",
        "fixed_to": "ground",
        "lines": [{"name": "gate", "points": [[100, 50], [100, 150]]}],
        "ground": {"points": [[0, 0], [300, 0], [300, 200], [0, 200]], "metres": [[0, 0], [30, 0], [30, 20], [0, 20]]},
    }
)
CAMERA_PX = np.stack([np.arange(5) * 20.0, np.zeros(5)], axis=1)  # pans to the left
# Stands still on the ground.
BOXES = [Box(frame, 1, "car", 0.9, (90 + 20.0 * frame, 90.0, 110 + 20.0 * frame, 110.0)) for frame in range(5)]
RECORDING = RecordingAnnotations("r", "gate", 320, 200, Fraction(10), np.arange(5) / 10, BOXES, CAMERA_PX)


def test_paths_are_those_on_the_ground(tmp_path: Path) -> None:
    write_geojson(tmp_path / "paths.geojson", [RECORDING], {"r": CAMERA}, None, 0)
    (path,) = json.loads((tmp_path / "paths.geojson").read_text())["features"]
    assert np.array(path["geometry"]["coordinates"]) == pytest.approx(np.tile([10.0, 10.0], (5, 1)))


def test_lines_are_drawn_where_they_are_in_each_frame() -> None:
    painter = ClipPainter(Overlay(has_zones=True), RECORDING, {}, CAMERA, None, "UTC")
    for frame in (0, 4):
        black = av.VideoFrame.from_ndarray(np.zeros((200, 320, 3), np.uint8), format="rgb24")
        canvas = FrameCanvas.of(black.reformat(format="yuv420p"))
        painter.draw(canvas, frame)
        columns = np.flatnonzero(canvas.planes[0][120] > 80)
        assert columns.mean() == pytest.approx(100 + 20 * frame, abs=2)


def test_a_recording_without_positions_of_its_camera_is_refused(tmp_path: Path) -> None:
    unmeasured = replace(RECORDING, camera_px=None)
    with pytest.raises(PipelineError, match="r: the positions of its moving camera are not known"):
        write_geojson(tmp_path / "paths.geojson", [unmeasured], {"r": CAMERA}, None, 0)
