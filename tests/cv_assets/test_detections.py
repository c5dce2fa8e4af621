"""The model stage: kills lose little and change nothing, frames that are not looked at, and further models."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dagster import DagsterInstance, materialize

import resources.pictures
from cv_assets.detections import analysed_frames, detect_recording, model_assets
from cv_assets.partitions import recordings_partitions
from cv_assets.walk import WALK
from demo.scenes import demo_scene, write_video
from resources.inference.detector import Models
from resources.inference.postprocessing import Found
from resources.media.reading import read_frames
from resources.pictures import shrunk
from resources.region import Region
from resources.results import open_results, publish
from resources.schema import DETECTIONS, MODEL_RUNS, MODELS, RECORDINGS, model_tables, table_named
from resources.settings import DetectionSettings, ModelSettings, Settings
from resources.storage import Store
from resources.watched_folder import SourceIndex, identify, list_recordings
from tests.conftest import BUNDLED_WEIGHTS

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))

DETECT = """
import os, sys
from pathlib import Path
from cv_assets.detections import detect_recording
from resources.inference.detector import Models
from resources.inference.postprocessing import Found
from resources.schema import model_tables
from resources.settings import DetectionSettings
from resources.storage import Store
data, recording_id, weights = sys.argv[1:]
settings = DetectionSettings(weights=weights)
told = detect_recording(recording_id, Store(Path(data)), settings, model_tables("detect"), Models(), "cpu",
                        lambda *_: None, checkpoint_s=1)
print(told["detections"]["resumed_at_frame"])
sys.stdout.flush()
os._exit(0)
"""


def normalized(folder: Path, seconds: int) -> tuple[Store, str]:
    """A store with one drawn recording, normalized."""
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data", detections=SETTINGS)
    settings.watched_folder.mkdir(parents=True)
    write_video(demo_scene(5, seconds, {"car": 4, "person": 5}), settings.watched_folder / "street.mp4")
    store = Store(settings.data_folder)
    found = identify(settings, list_recordings(settings).files, {})
    SourceIndex(store).save(found.values())
    recording_id = str(found["street.mp4"].recording_id)
    resources: dict[str, Any] = {"store": store, "settings": settings, "models": Models()}
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        assert materialize(WALK[:2], instance=instance, resources=resources, partition_key=recording_id).success
    return store, recording_id


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    return normalized(tmp_path_factory.mktemp("detections"), 16)


def detected(store: Store, recording_id: str, **changed: object) -> pa.Table:
    settings = SETTINGS.model_copy(update=changed)
    detect_recording(recording_id, store, settings, model_tables("detect"), Models(), "cpu", lambda *_: None)
    return in_order(store)


def in_order(store: Store) -> pa.Table:
    return store.read(DETECTIONS).sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])


def by_frame(rows: pa.Table, columns: list[str]) -> dict[int, list[tuple[object, ...]]]:
    boxes: dict[int, list[tuple[object, ...]]] = {}
    for row in rows.to_pylist():
        boxes.setdefault(row["frame_index"], []).append(tuple(row[name] for name in columns))
    return boxes


def test_kills_lose_at_most_a_part_and_change_nothing(prepared: tuple[Store, str], tmp_path: Path) -> None:
    original, recording_id = prepared
    for name in ("killed", "undisturbed"):
        shutil.copytree(original.data_folder, tmp_path / name)
    killed = Store(tmp_path / "killed")
    arguments = [recording_id, str(BUNDLED_WEIGHTS)]
    subprocess.run([sys.executable, "-c", DETECT, str(tmp_path / "undisturbed"), *arguments], check=True)
    parts = killed.data_folder / "unfinished" / "detections" / recording_id
    rng = random.Random(0)
    for wanted in (1, 3, 6, 11):
        with subprocess.Popen([sys.executable, "-c", DETECT, str(killed.data_folder), *arguments]) as running:
            deadline = time.monotonic() + 60
            while len(list(parts.glob("*/0*"))) < wanted and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
            running.send_signal(signal.SIGKILL)
        assert killed.row_count(DETECTIONS) == 0
    ended = subprocess.run(
        [sys.executable, "-c", DETECT, str(killed.data_folder), *arguments], check=True, capture_output=True, text=True
    )
    assert int(ended.stdout.splitlines()[0]) >= 11 * 25
    assert in_order(killed).equals(in_order(Store(tmp_path / "undisturbed")))
    assert killed.row_count(DETECTIONS) > 100
    assert not parts.exists()


def test_pictures_show_the_frames_they_tell_of_with_their_boxes(
    prepared: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, recording_id = prepared
    store = Store(shutil.copytree(original.data_folder, tmp_path / "data"))
    monkeypatch.setattr(resources.pictures, "EVERY_S", 0.0)
    left = ((0.0, 0.0), (0.6, 0.0), (0.6, 1.0), (0.0, 1.0))
    settings = SETTINGS.model_copy(update={"regions": {"*": (left,)}})
    shown: dict[int, np.ndarray] = {}

    def told(done: int, total: int, picture: np.ndarray | None = None, /) -> None:
        assert total == 400
        if picture is not None:
            shown[done - 1] = picture

    detect_recording(recording_id, store, settings, model_tables("detect"), Models(), "cpu", told)
    assert 10 <= len(shown) <= resources.pictures.MOST_PER_RECORDING
    row = store.read(RECORDINGS).to_pylist()[0]
    boxes = store.read(DETECTIONS).to_pylist()
    with_boxes = 0
    for frame_index, frame in read_frames(store.data_folder / row["video_path"], wanted=sorted(shown)):
        own = [box for box in boxes if box["frame_index"] == frame_index]
        drawn = (np.abs(shown[frame_index].astype(int) - shrunk(frame)) > 8).any(axis=2)
        scale = (drawn.shape[1] - 1) / row["width_px"]
        for box in own:
            x, top, bottom = (round(box[edge] * scale) for edge in ("x_min_px", "y_min_px", "y_max_px"))
            assert drawn[top : bottom + 1, max(0, x - 1) : x + 2].any(axis=1).mean() > 0.9
        with_boxes += bool(own)
        # Besides boxes, names and the outline of the region it is the frame itself.
        assert drawn.mean() < 0.05 + 0.05 * len(own)
    assert with_boxes > 5


def test_parts_of_other_settings_are_not_taken_up(prepared: tuple[Store, str]) -> None:
    store, recording_id = prepared
    stale = store.data_folder / "unfinished" / "detections" / recording_id / "0123456789ab" / "00000"
    stale.mkdir(parents=True)
    rows = detected(store, recording_id)
    assert rows.num_rows > 100
    assert not stale.exists()


def test_at_a_lower_rate_each_span_of_time_has_one_frame() -> None:
    time_s = np.array([0, 0.04, 0.08, 0.5, 0.52, 1.9, 2.0, 2.04])
    assert analysed_frames(time_s, None).tolist() == list(range(8))
    assert analysed_frames(time_s, 2).tolist() == [0, 3, 5, 6]
    assert analysed_frames(np.arange(250) / 25, 5).tolist() == list(range(0, 250, 5))


def test_at_a_lower_rate_the_same_boxes_are_found_in_fewer_frames(prepared: tuple[Store, str]) -> None:
    store, recording_id = prepared
    every = detected(store, recording_id, precision="f32")
    fewer = detected(store, recording_id, precision="f32", max_rate_fps=5.0)
    frames = sorted(set(fewer["frame_index"].to_pylist()))
    assert len(frames) > 20
    assert {frame % 5 for frame in frames} == {0}
    kept = [row for row in every.to_pylist() if row["frame_index"] in set(frames)]
    assert fewer.to_pylist() == kept
    run = store.read(MODEL_RUNS).to_pylist()[0]
    assert (run["frame_count"], run["analysed_frame_count"], run["reused_frame_count"]) == (400, 80, 0)


def test_frames_that_look_the_same_have_the_boxes_of_the_last_that_was_looked_at(prepared: tuple[Store, str]) -> None:
    store, recording_id = prepared
    columns = ["class_id", "confidence", "x_min_px", "y_min_px", "x_max_px", "y_max_px"]
    every = by_frame(detected(store, recording_id, precision="f32"), columns)
    rows = detected(store, recording_id, precision="f32", skip_static=True)
    run = store.read(MODEL_RUNS).to_pylist()[0]
    assert 20 < run["reused_frame_count"] < 380
    kept, reused = by_frame(rows, columns), set(rows.filter(rows["is_reused"])["frame_index"].to_pylist())
    last = 0
    for frame_index in range(400):
        last = last if frame_index in reused else frame_index
        assert kept.get(frame_index) == every.get(last)


def test_what_is_said_of_the_whole_picture_is_kept_wherever_the_region_lies() -> None:
    apart = (((0, 0), (0.2, 0), (0.2, 0.2), (0, 0.2)), ((0.8, 0.8), (1, 0.8), (1, 1), (0.8, 1)))
    region = Region.of(apart, 640, 360)
    whole = Found(np.array([[0, 0, 640, 360]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    assert len(region.back(whole)) == 0
    assert len(region.back(whole, of_picture=True)) == 1


def test_only_boxes_of_the_region_are_kept_and_they_are_the_same(prepared: tuple[Store, str]) -> None:
    store, recording_id = prepared
    every = detected(store, recording_id, precision="f32").to_pylist()
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    inside = detected(store, recording_id, precision="f32", regions={"*": (left,)}).to_pylist()
    width_px = store.read(RECORDINGS).to_pylist()[0]["width_px"]
    assert all((row["x_min_px"] + row["x_max_px"]) / 2 <= width_px / 2 for row in inside)
    wanted = [r for r in every if (r["x_min_px"] + r["x_max_px"]) / 2 < width_px * 0.45 and r["confidence"] > 0.5]
    by_frame: dict[int, list[dict[str, Any]]] = {}
    for row in inside:
        by_frame.setdefault(row["frame_index"], []).append(row)
    met = sum(
        any(abs(row["x_min_px"] - other["x_min_px"]) < 8 for other in by_frame.get(row["frame_index"], []))
        for row in wanted
    )
    assert len(wanted) > 50
    assert met >= 0.95 * len(wanted)


def test_engines_are_measured_on_the_footage_once(
    prepared: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.inference.detector._ENOUGH_BOXES", 20)
    monkeypatch.setattr("resources.inference.detector._FEW_BOXES", 0)
    store, recording_id = prepared
    models = Models(tmp_path / "cache")
    detect_recording(recording_id, store, SETTINGS, model_tables("detect"), models, "cpu", lambda *_: None)
    rows = store.read(MODELS).to_pylist()
    assert {row["reference_name"] for row in rows} == {"torch-f32-320x192"}
    assert {row["engine_name"] for row in rows} >= {"openvino-f32-320x192"}
    used = [row for row in rows if row["is_used"]]
    assert len(used) == 1
    assert used[0]["engine_name"] == store.read(MODEL_RUNS).to_pylist()[0]["engine_name"]
    assert min(used[0]["recall_iou50"], used[0]["precision_iou50"]) >= SETTINGS.min_agreement
    agreeing = [r for r in rows if min(r["recall_iou50"], r["precision_iou50"]) >= SETTINGS.min_agreement]
    assert used[0]["frames_per_s"] == max(row["frames_per_s"] for row in agreeing)
    files = sorted(tmp_path.rglob("measured-*.json"))
    assert len(files) == 1
    # What disagrees is not used, however fast it is.
    measured = json.loads(files[0].read_text())
    for engine in measured:
        engine["recall_iou50"] = 1.0 if engine["precision"] == "f32" else 0.5
    files[0].write_text(json.dumps(measured))
    assert Models(tmp_path / "cache").detector(SETTINGS, 640, 360, "cpu").engine_name == "openvino-f32-320x192"


def test_a_further_model_is_an_asset_of_its_own(prepared: tuple[Store, str]) -> None:
    store, recording_id = prepared
    detected(store, recording_id)
    second = ModelSettings(name="second", weights=str(BUNDLED_WEIGHTS), class_names=("car",))
    assets = model_assets(second, "second")
    settings = Settings(data_folder=store.data_folder, detections=SETTINGS, models=(second,))
    resources: dict[str, Any] = {"store": store, "settings": settings, "models": Models()}
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        assert materialize([assets], instance=instance, resources=resources, partition_key=recording_id).success
    publish(store)
    with open_results(store.data_folder) as results:
        asked = "SELECT count(*), count(*) FILTER (class_name = 'car') FROM "
        mine, cars = results.execute(f"{asked} second_detections").fetchall()[0]
        every, all_cars = results.execute(f"{asked} detections").fetchall()[0]
    assert mine == cars == all_cars > 0
    assert every > all_cars
    assert {run["asset_name"] for run in store.read(MODEL_RUNS).to_pylist()} == {"detections", "second_detections"}


def test_a_models_settings_make_only_its_own_asset_stale() -> None:
    def versions(settings: DetectionSettings, name: str | None = None) -> set[str | None]:
        return {spec.code_version for spec in model_assets(settings, name).specs}

    second = ModelSettings(name="second", weights=str(BUNDLED_WEIGHTS))
    changed = second.model_copy(update={"min_confidence": 0.3})
    assert versions(second, "second") != versions(changed, "second")
    assert versions(SETTINGS) == versions(SETTINGS.model_copy(update={"device": "cpu"}))
    names = [spec.key.to_user_string() for spec in model_assets(second.model_copy(update={"task": "pose"}), "p").specs]
    assert names == ["p_detections", "p_keypoints"]
    table = table_named("p_keypoints")
    assert table is not None and table.key == ("recording_id", "frame_index", "detection_index", "keypoint_index")
