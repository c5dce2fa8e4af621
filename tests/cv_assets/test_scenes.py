from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.scenes import scene_rows, stretch_rows
from resources.media.normalizing import normalize
from resources.settings import SceneSettings, VideoSettings
from tests.resources.test_media import write_pictures

SETTINGS = SceneSettings()


def measured(count: int, rate: float = 10.0, **columns: list[float] | np.ndarray) -> pa.Table:
    """Frames of which nothing is remarkable but what is given."""
    usual = {"brightness": 100.0, "sharpness": 500.0, "motion": 2.0, "scene_score": 0.001, "black_share": 0.0}
    values = {name: np.full(count, value) for name, value in usual.items()} | columns
    return pa.table({"frame_index": np.arange(count, dtype=np.int32), "time_s": np.arange(count) / rate, **values})


def at(count: int, places: dict[int, float], usual: float) -> np.ndarray:
    values = np.full(count, usual)
    for place, value in places.items():
        values[place] = value
    return values


def test_cuts_divide_a_recording_into_scenes_without_gaps() -> None:
    frames = measured(50, scene_score=at(50, {20: 0.4, 35: 0.2}, 0.01))
    rows = scene_rows("r", frames, 0.1, SETTINGS).to_pylist()
    assert [(row["first_frame_index"], row["last_frame_index"]) for row in rows] == [(0, 19), (20, 34), (35, 49)]
    assert [row["start_s"] for row in rows] == pytest.approx([0, 2, 3.5])
    assert [row["end_s"] for row in rows] == pytest.approx([2, 3.5, 5])
    assert [row["cut_score"] for row in rows] == [0.01, 0.4, 0.2]


def test_a_flash_is_no_scene() -> None:
    frames = measured(50, scene_score=at(50, {20: 0.4, 21: 0.4, 23: 0.3}, 0.0))
    assert [row["first_frame_index"] for row in scene_rows("r", frames, 0.1, SETTINGS).to_pylist()] == [0, 20]


def test_without_frames_there_are_no_scenes() -> None:
    assert scene_rows("r", measured(0), 0.1, SETTINGS).num_rows == 0
    assert stretch_rows("r", measured(0), 0.1, SETTINGS).num_rows == 0


def test_stretches_are_told_once_and_only_when_long() -> None:
    black, motion, sharpness = np.zeros(100), np.full(100, 2.0), np.full(100, 500.0)
    black[10:40], motion[11:40], sharpness[10:40] = 1.0, 0.0, 1.0  # black, so neither frozen nor blurred
    motion[50:80] = 0.0
    sharpness[85:90] = 1.0  # half a second
    rows = stretch_rows(
        "r", measured(100, black_share=black, motion=motion, sharpness=sharpness), 0.1, SETTINGS
    ).to_pylist()
    assert [(row["kind"], row["first_frame_index"], row["last_frame_index"]) for row in rows] == [
        ("black", 10, 39),
        ("frozen", 49, 79),
    ]
    assert rows[0]["duration_s"] == pytest.approx(3.0)
    end = stretch_rows("r", measured(30, sharpness=np.ones(30)), 0.1, SETTINGS).to_pylist()
    assert [(row["kind"], row["start_s"], row["end_s"]) for row in end] == [("blurred", 0.0, pytest.approx(3.0))]


def test_pictures_give_the_scenes_that_a_person_sees(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    scenes = [np.kron(draw.integers(0, 255, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(3)]
    moving = [np.roll(scene, k, axis=1) for scene in scenes for k in range(15)]
    still, black = [moving[-1]] * 15, [np.zeros_like(moving[0])] * 15
    write_pictures(tmp_path / "a.mkv", [*moving, *still, *black])
    measures = normalize(tmp_path / "a.mkv", tmp_path / "out.mp4", VideoSettings()).measures
    names = ("brightness", "sharpness", "motion", "scene_score", "black_share")
    frames = measured(75, 5.0, **{name: np.array(getattr(measures, name), float) for name in names})
    assert [r["first_frame_index"] for r in scene_rows("r", frames, 0.2, SETTINGS).to_pylist()] == [0, 15, 30, 60]
    found = {r["kind"]: r["first_frame_index"] for r in stretch_rows("r", frames, 0.2, SETTINGS).to_pylist()}
    assert found == {"black": 60, "frozen": 44}
