"""Scenes and stretches computed from the measures of frames."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.scenes import scene_rows, stretch_rows
from resources.config.media_config import SceneSettings, VideoSettings
from resources.media.normalize import normalize
from tests.builders.video_files import write_images_as_video

SETTINGS = SceneSettings()


def frames_with_measures(count: int, rate_fps: float = 10.0, **measures: list[float] | np.ndarray) -> pa.Table:
    """Rows of `frames`; all other measures have values of ordinary frames."""
    usual = {"brightness": 100.0, "sharpness": 500.0, "motion": 2.0, "scene_score": 0.001, "black_share": 0.0}
    columns = {name: np.full(count, value) for name, value in usual.items()} | measures
    frame_index = np.arange(count, dtype=np.int32)
    return pa.table({"frame_index": frame_index, "time_s": np.arange(count) / rate_fps, **columns})


def values_at(count: int, values: Mapping[int, float], usual: float) -> np.ndarray:
    """An array of one usual value with other values at some indices."""
    array = np.full(count, usual)
    for index, value in values.items():
        array[index] = value
    return array


def test_cuts_divide_a_recording_into_scenes_without_gaps() -> None:
    frames = frames_with_measures(50, scene_score=values_at(50, {20: 0.4, 35: 0.2}, 0.01))
    rows = scene_rows("r", frames, 0.1, SETTINGS).to_pylist()
    assert [(row["first_frame_index"], row["last_frame_index"]) for row in rows] == [(0, 19), (20, 34), (35, 49)]
    assert [row["start_s"] for row in rows] == pytest.approx([0, 2, 3.5])
    assert [row["end_s"] for row in rows] == pytest.approx([2, 3.5, 5])
    assert [row["cut_score"] for row in rows] == [0.01, 0.4, 0.2]


def test_a_flash_starts_only_one_scene() -> None:
    frames = frames_with_measures(50, scene_score=values_at(50, {20: 0.4, 21: 0.4, 23: 0.3}, 0.0))
    assert [row["first_frame_index"] for row in scene_rows("r", frames, 0.1, SETTINGS).to_pylist()] == [0, 20]


def test_no_frames_give_no_scenes_and_no_stretches() -> None:
    assert scene_rows("r", frames_with_measures(0), 0.1, SETTINGS).num_rows == 0
    assert stretch_rows("r", frames_with_measures(0), 0.1, SETTINGS).num_rows == 0


def test_a_stretch_has_one_kind_and_a_minimum_duration() -> None:
    black, motion, sharpness = np.zeros(100), np.full(100, 2.0), np.full(100, 500.0)
    black[10:40], motion[11:40], sharpness[10:40] = 1.0, 0.0, 1.0  # black frames are neither frozen nor blurred
    motion[50:80] = 0.0
    sharpness[85:90] = 1.0  # half a second is too short
    rows = stretch_rows(
        "r", frames_with_measures(100, black_share=black, motion=motion, sharpness=sharpness), 0.1, SETTINGS
    ).to_pylist()
    assert [(row["kind"], row["first_frame_index"], row["last_frame_index"]) for row in rows] == [
        ("black", 10, 39),
        ("frozen", 49, 79),
    ]
    assert rows[0]["duration_s"] == pytest.approx(3.0)
    last = stretch_rows("r", frames_with_measures(30, sharpness=np.ones(30)), 0.1, SETTINGS).to_pylist()
    assert [(row["kind"], row["start_s"], row["end_s"]) for row in last] == [("blurred", 0.0, pytest.approx(3.0))]


def test_scenes_and_stretches_of_drawn_images_match_their_content(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    scenes = [np.kron(rng.integers(0, 255, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(3)]
    moving = [np.roll(scene, k, axis=1) for scene in scenes for k in range(15)]
    still, black = [moving[-1]] * 15, [np.zeros_like(moving[0])] * 15
    write_images_as_video(tmp_path / "a.mkv", [*moving, *still, *black])
    measures = normalize(tmp_path / "a.mkv", tmp_path / "out.mp4", VideoSettings()).measures
    names = ("brightness", "sharpness", "motion", "scene_score", "black_share")
    frames = frames_with_measures(75, 5.0, **{name: np.array(getattr(measures, name), float) for name in names})
    assert [row["first_frame_index"] for row in scene_rows("r", frames, 0.2, SETTINGS).to_pylist()] == [0, 15, 30, 60]
    stretches = stretch_rows("r", frames, 0.2, SETTINGS).to_pylist()
    assert {row["kind"]: row["first_frame_index"] for row in stretches} == {"black": 60, "frozen": 44}
