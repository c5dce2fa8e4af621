"""The model stage: checkpoints, previews, skipped frames, regions, engine selection and further models."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, asset, materialize

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import CameraObserver
from cv_assets.detections import detect_recording, model_stage
from cv_assets.partitions import recordings_partitions
from cv_assets.recording_inference import analysed_frame_positions
from cv_assets.stage_asset import StageRun
from cv_assets.waits import NOTHING, WAITED, WAITING_FOR
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.detection_config import DetectionSettings, ModelSettings
from resources.config.settings import Settings
from resources.config.tile_config import TileSettings
from resources.file_identification import identify_files
from resources.geometry.box_overlap import iou_matrix
from resources.inference import engine_selection
from resources.inference.detection_arrays import Detections
from resources.inference.detection_region import DetectionRegion
from resources.inference.detector import Models
from resources.inference.device_lease import device_lease
from resources.media.frame_reader import read_images
from resources.previews import preview_throttle
from resources.previews.annotated_frames import shrink_to_preview
from resources.schema.model_tables import DETECTIONS, MODEL_RUNS, MODELS
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.schema.table_registry import find_table, model_tables
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from resources.watched_files import list_watched_files
from tests.builders.locations import BUNDLED_WEIGHTS

pytestmark = pytest.mark.slow

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))

DETECT_SCRIPT = """
import os, sys
from pathlib import Path
from cv_assets.detections import detect_recording
from resources.config.detection_config import DetectionSettings
from resources.inference.detector import Models
from resources.schema.table_registry import model_tables
from resources.storage.delta_store import Store
data_folder, recording_id, weights = sys.argv[1:]
metadata = detect_recording(recording_id, Store(Path(data_folder)), DetectionSettings(weights=weights),
                            model_tables("detect"), Models(), "cpu", lambda *_: None, checkpoint_s=1)
print(metadata["detections"]["resumed_at_frame"])
sys.stdout.flush()
os._exit(0)
"""


def normalize_drawn_recording(folder: Path, duration_s: int) -> tuple[Store, str]:
    """A store with one drawn recording, normalized, and the id of the recording."""
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data", detections=SETTINGS)
    settings.watched_folder.mkdir(parents=True)
    write_video(demo_scene(5, duration_s, {"car": 4, "person": 5}), settings.watched_folder / "street.mp4")
    store = Store(settings.data_folder)
    files_by_path = identify_files(settings, list_watched_files(settings).files, {})
    SourceIndex(store).save(files_by_path.values())
    recording_id = str(files_by_path["street.mp4"].recording_id)
    resources: dict[str, Any] = {"store": store, "settings": settings, "models": Models()}
    ingest = AssetGraph.build(settings).assets[:2]
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        assert materialize(ingest, instance=instance, resources=resources, partition_key=recording_id).success
    return store, recording_id


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A store with one normalized recording of 400 frames, and the id of the recording."""
    return normalize_drawn_recording(tmp_path_factory.mktemp("detections"), 16)


def detect(store: Store, recording_id: str, **changes: object) -> pa.Table:
    """Run the detector with changed settings; returns the stored rows in order."""
    settings = SETTINGS.model_copy(update=changes)
    detect_recording(recording_id, store, settings, model_tables("detect"), Models(), "cpu", lambda *_: None)
    return read_detections_in_order(store)


def read_detections_in_order(store: Store) -> pa.Table:
    return store.read(DETECTIONS).sort_by([("frame_index", "ascending"), ("detection_index", "ascending")])


def boxes_by_frame(rows: pa.Table, columns: list[str]) -> dict[int, list[tuple[object, ...]]]:
    boxes: dict[int, list[tuple[object, ...]]] = {}
    for row in rows.to_pylist():
        boxes.setdefault(row["frame_index"], []).append(tuple(row[name] for name in columns))
    return boxes


def test_a_killed_run_resumes_at_its_last_checkpoint_with_the_same_detections(
    normalized: tuple[Store, str], tmp_path: Path
) -> None:
    original, recording_id = normalized
    for name in ("killed", "undisturbed"):
        shutil.copytree(original.data_folder, tmp_path / name)
    killed = Store(tmp_path / "killed")
    arguments = [recording_id, str(BUNDLED_WEIGHTS)]
    subprocess.run([sys.executable, "-c", DETECT_SCRIPT, str(tmp_path / "undisturbed"), *arguments], check=True)
    checkpoints = killed.data_folder / "unfinished" / "detections" / recording_id
    rng = random.Random(0)
    for count in (1, 11):
        with subprocess.Popen([sys.executable, "-c", DETECT_SCRIPT, str(killed.data_folder), *arguments]) as process:
            deadline_s = time.monotonic() + 60
            while (
                len(list(checkpoints.glob("*/0*"))) < count and process.poll() is None and time.monotonic() < deadline_s
            ):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        assert killed.row_count(DETECTIONS) == 0
    resumed = subprocess.run(
        [sys.executable, "-c", DETECT_SCRIPT, str(killed.data_folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(resumed.stdout.splitlines()[0]) >= 11 * 25
    assert read_detections_in_order(killed).equals(read_detections_in_order(Store(tmp_path / "undisturbed")))
    assert killed.row_count(DETECTIONS) > 100
    assert not checkpoints.exists()


def test_previews_show_their_frames_with_the_boxes(
    normalized: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, recording_id = normalized
    store = Store(shutil.copytree(original.data_folder, tmp_path / "data"))
    monkeypatch.setattr(preview_throttle, "PREVIEW_INTERVAL_S", 0.0)
    left = ((0.0, 0.0), (0.6, 0.0), (0.6, 1.0), (0.0, 1.0))
    settings = SETTINGS.model_copy(update={"regions": {"*": (left,)}})
    previews: dict[int, np.ndarray] = {}

    def collect_previews(done: int, total: int, preview: np.ndarray | None = None, /) -> None:
        assert total == 400
        if preview is not None:
            previews[done - 1] = preview

    detect_recording(recording_id, store, settings, model_tables("detect"), Models(), "cpu", collect_previews)
    assert 10 <= len(previews) <= preview_throttle.MAX_PREVIEWS_PER_RECORDING
    row = store.read(RECORDING_CONTENTS).to_pylist()[0]
    boxes = store.read(DETECTIONS).to_pylist()
    frames_with_boxes = 0
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    images = read_images(store.data_folder / row["video_path"], sorted(previews), rate_fps)
    for frame_index, image in zip(sorted(previews), images, strict=True):
        frame_boxes = [box for box in boxes if box["frame_index"] == frame_index]
        is_drawn = (np.abs(previews[frame_index].astype(int) - shrink_to_preview(image)) > 8).any(axis=2)
        scale = (is_drawn.shape[1] - 1) / row["width_px"]
        for box in frame_boxes:
            x, top, bottom = (round(box[edge] * scale) for edge in ("x_min_px", "y_min_px", "y_max_px"))
            assert is_drawn[top : bottom + 1, max(0, x - 1) : x + 2].any(axis=1).mean() > 0.9
        frames_with_boxes += bool(frame_boxes)
        # The rest, apart from boxes, class names and the outline of the region, is the frame itself.
        assert is_drawn.mean() < 0.05 + 0.05 * len(frame_boxes)
    assert frames_with_boxes > 5


def test_checkpoints_of_other_settings_are_not_used(normalized: tuple[Store, str]) -> None:
    store, recording_id = normalized
    stale = store.data_folder / "unfinished" / "detections" / recording_id / "0123456789ab" / "00000"
    stale.mkdir(parents=True)
    rows = detect(store, recording_id)
    assert rows.num_rows > 100
    assert not stale.exists()


def test_a_lower_rate_selects_one_frame_per_interval() -> None:
    time_s = np.array([0, 0.04, 0.08, 0.5, 0.52, 1.9, 2.0, 2.04])

    def frames_at(time_s: np.ndarray, repeated: Sequence[int] = ()) -> pa.Table:
        return pa.table({"time_s": time_s, "is_duplicated": np.isin(np.arange(len(time_s)), repeated)})

    assert analysed_frame_positions(frames_at(time_s), None).tolist() == list(range(8))
    assert analysed_frame_positions(frames_at(time_s), 2).tolist() == [0, 3, 5, 6]
    assert analysed_frame_positions(frames_at(time_s, repeated=[1, 2, 3]), 2).tolist() == [0, 4, 5, 6]
    assert analysed_frame_positions(frames_at(np.arange(250) / 25), 5).tolist() == list(range(0, 250, 5))


def test_a_lower_rate_gives_the_same_boxes_in_fewer_frames(normalized: tuple[Store, str]) -> None:
    store, recording_id = normalized
    every = detect(store, recording_id, precision="f32")
    fewer = detect(store, recording_id, precision="f32", max_rate_fps=5.0)
    frames = sorted(set(fewer["frame_index"].to_pylist()))
    assert len(frames) > 20
    assert {frame % 5 for frame in frames} == {0}
    assert fewer.to_pylist() == [row for row in every.to_pylist() if row["frame_index"] in set(frames)]
    run = store.read(MODEL_RUNS).to_pylist()[0]
    assert (run["frame_count"], run["analysed_frame_count"], run["reused_frame_count"]) == (400, 80, 0)


def test_skipped_frames_reuse_the_boxes_of_the_last_analysed_frame(normalized: tuple[Store, str]) -> None:
    store, recording_id = normalized
    columns = ["class_id", "confidence", "x_min_px", "y_min_px", "x_max_px", "y_max_px"]
    boxes_without_skipping = boxes_by_frame(detect(store, recording_id, precision="f32"), columns)
    rows = detect(store, recording_id, precision="f32", skip_unchanged_frames=True)
    run = store.read(MODEL_RUNS).to_pylist()[0]
    assert 20 < run["reused_frame_count"] < 380
    boxes = boxes_by_frame(rows, columns)
    reused = set(rows.filter(rows["is_reused"])["frame_index"].to_pylist())
    last_analysed = 0
    for frame_index in range(400):
        last_analysed = last_analysed if frame_index in reused else frame_index
        assert boxes.get(frame_index) == boxes_without_skipping.get(last_analysed)


def test_classes_of_the_whole_frame_are_kept_wherever_the_region_is() -> None:
    apart = (((0, 0), (0.2, 0), (0.2, 0.2), (0, 0.2)), ((0.8, 0.8), (1, 0.8), (1, 1), (0.8, 1)))
    region = DetectionRegion.from_polygons(apart, 640, 360)
    whole = Detections(np.array([[0, 0, 640, 360]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    assert len(whole.to_full_frame(region)) == 0
    assert len(whole.to_full_frame(region, keep_outside=True)) == 1


def test_a_region_keeps_only_its_boxes_and_they_are_the_same(normalized: tuple[Store, str]) -> None:
    store, recording_id = normalized
    all_boxes = detect(store, recording_id, precision="f32").to_pylist()
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    region_boxes = detect(store, recording_id, precision="f32", regions={"*": (left,)}).to_pylist()
    width_px = store.read(RECORDING_CONTENTS).to_pylist()[0]["width_px"]
    assert all((box["x_min_px"] + box["x_max_px"]) / 2 <= width_px / 2 for box in region_boxes)
    expected = [
        box
        for box in all_boxes
        if (box["x_min_px"] + box["x_max_px"]) / 2 < width_px * 0.45 and box["confidence"] > 0.5
    ]
    by_frame: dict[int, list[dict[str, Any]]] = {}
    for box in region_boxes:
        by_frame.setdefault(box["frame_index"], []).append(box)
    matched_count = sum(
        any(abs(box["x_min_px"] - match["x_min_px"]) < 8 for match in by_frame.get(box["frame_index"], []))
        for box in expected
    )
    assert len(expected) > 50
    assert matched_count >= 0.95 * len(expected)


def test_engines_are_measured_on_frames_of_the_recording_that_reaches_the_limit(
    normalized: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_selection, "_MIN_REFERENCE_BOXES", 20)
    monkeypatch.setattr(engine_selection, "_STRICT_BELOW_BOX_COUNT", 0)
    store, recording_id = normalized
    models, before = Models(tmp_path / "cache"), store.read(MODELS)
    arguments = (recording_id, store, SETTINGS, model_tables("detect"), models, "cpu", lambda *_: None)
    detect_recording(*arguments)
    assert store.read(MODELS).equals(before)  # a short recording waits for no measurement
    (model_run,) = store.read(MODEL_RUNS).to_pylist()
    monkeypatch.setattr(engine_selection, "MEASURED_AFTER_FRAMES", 2 * model_run["analysed_frame_count"])
    detect_recording(*arguments)
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
    # An engine that does not agree with the reference is not used, however fast it is.
    measured = json.loads(files[0].read_text())
    for engine in measured:
        engine["recall_iou50"] = 1.0 if engine["precision"] == "f32" else 0.5
    files[0].write_text(json.dumps(measured))
    assert Models(tmp_path / "cache").detector(SETTINGS, 640, 360, "cpu").engine_name == "openvino-f32-320x192"


def test_a_further_model_is_an_asset_of_its_own(normalized: tuple[Store, str]) -> None:
    store, recording_id = normalized
    detect(store, recording_id)
    second = ModelSettings(name="second", weights=str(BUNDLED_WEIGHTS), class_names=("car",))
    settings = Settings(data_folder=store.data_folder, detections=SETTINGS, models=(second,))
    resources: dict[str, Any] = {"store": store, "settings": settings, "models": Models()}
    assets = model_stage(second, "second").build(settings, CameraObserver(settings))
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        assert materialize([assets], instance=instance, resources=resources, partition_key=recording_id).success
    publish(store, settings)
    with open_results(store.data_folder) as results:
        counts = "SELECT count(*), count(*) FILTER (class_name = 'car') FROM "
        second_count, second_cars = results.execute(f"{counts} second_detections").fetchall()[0]
        count, cars = results.execute(f"{counts} detections").fetchall()[0]
    assert second_count == second_cars == cars > 0
    assert count > cars
    assert {run["asset_name"] for run in store.read(MODEL_RUNS).to_pylist()} == {"detections", "second_detections"}


def test_the_settings_of_a_model_make_only_its_own_asset_stale() -> None:
    def build(detector: DetectionSettings = SETTINGS, *models: ModelSettings) -> dict[str, str | None]:
        graph = AssetGraph.build(Settings(detections=detector, models=models))
        return {spec.key.to_user_string(): spec.code_version for assets in graph.assets for spec in assets.specs}

    second = ModelSettings(name="second", weights=str(BUNDLED_WEIGHTS))
    versions = build(SETTINGS, second)
    changed = build(SETTINGS, second.model_copy(update={"min_confidence": 0.3}))
    assert {name for name in versions if versions[name] != changed[name]} == {"second_detections"}
    assert build() == build(SETTINGS.model_copy(update={"device": "cpu"}))


def test_the_tables_of_a_further_model_follow_its_task_and_name() -> None:
    pose = ModelSettings(name="p", weights=str(BUNDLED_WEIGHTS), task="pose")
    assert model_stage(pose, "p").stage.asset_names == ("p_detections", "p_keypoints")
    table = find_table("p_keypoints")
    assert table is not None and table.key == ("recording_id", "frame_index", "detection_index", "keypoint_index")


def test_a_run_that_waits_for_a_device_says_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = Settings(detections=DetectionSettings(device="cpu"))
    lease = model_stage(settings.detections).lease
    assert lease is not None

    @asset(name="detections", partitions_def=recordings_partitions)
    def detections(context: AssetExecutionContext) -> None:
        with ExitStack() as holder:
            holder.enter_context(device_lease(["cpu"], Path("/data")))
            threading.Timer(3.0, holder.close).start()
            with lease(StageRun(context, Store(tmp_path), settings)) as device:
                assert device == "cpu"

    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["a"])
        assert materialize([detections], instance=instance, partition_key="a").success
        records = instance.fetch_observations(AssetKey("detections"), limit=10, ascending=True).records
    events = [record.asset_observation for record in records]
    # Between the release by one process and the lease by another there may be one more.
    assert len(events) >= 2 and {event.partition for event in events if event} == {"a"}
    metadata = [{name: value.value for name, value in event.metadata.items()} for event in events if event]
    assert str(metadata[0][WAITING_FOR]).startswith(f"cpu, which is held by process {os.getpid()} (")
    assert "for the data folder /data since" in str(metadata[0][WAITING_FOR])
    assert metadata[-1][WAITING_FOR] == NOTHING
    seconds = [float(str(values[WAITED])) for values in metadata]
    assert 2 <= seconds[0] < seconds[-1] and seconds[-1] >= 2.9
    output = capfd.readouterr().err  # what the terminal of cv-assets dev shows
    assert f"a: detections waits for cpu, which is held by process {os.getpid()} (" in output
    assert "a: detections went on after 3 s." in output


def test_tiles_find_the_same_objects_once_each_in_the_frame_and_in_a_region(normalized: tuple[Store, str]) -> None:
    store, recording_id = normalized
    corners = ["x_min_px", "y_min_px", "x_max_px", "y_max_px"]
    tiles = TileSettings(size_px=320, overlap=0.2)
    polygon = ((0.3, 0.0), (1.0, 0.0), (1.0, 1.0), (0.3, 1.0))
    for regions in ({}, {"*": (polygon,)}):
        shared: dict[str, Any] = {"max_rate_fps": 1.0, "regions": regions}
        whole = detect(store, recording_id, **shared)
        tiled = detect(store, recording_id, **shared, tiles=tiles, image_size_px=320)
        confident = [rows.filter(pc.greater(rows["confidence"], 0.5)) for rows in (whole, tiled)]
        by_frame, tiled_by_frame = (boxes_by_frame(rows, corners) for rows in confident)
        nothing: list[tuple[object, ...]] = [(0.0,) * 4]
        matched = [
            iou_matrix(*(np.array(part, float) for part in (boxes, tiled_by_frame.get(index, nothing)))).max(axis=1)
            for index, boxes in by_frame.items()
        ]
        assert (np.concatenate(matched) >= 0.5).mean() >= 0.85
        assert 0.85 <= confident[1].num_rows / confident[0].num_rows <= 1.15
