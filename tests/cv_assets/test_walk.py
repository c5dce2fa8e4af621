"""The assets in one process, on a real Dagster instance: batches, versions, checks and pure parts."""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetRecordsFilter,
    AssetsDefinition,
    DagsterInstance,
    ExecuteInProcessResult,
    materialize,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from PIL import Image

import resources.pictures
from cv_assets.crops import choose_crops, cut_out
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import media_status
from cv_assets.tracks import track_rows
from cv_assets.walk import WALK
from demo.scenes import demo_scene, write_video
from resources.inference.detector import Models
from resources.schema import DETECTIONS, LINE_MINUTES, RECORDINGS, SUMMARIES, TRACK_BOXES, ZONE_EVENTS
from resources.settings import CameraSettings, CropSettings, DetectionSettings, Settings, TrackSettings
from resources.storage import Store
from resources.watched_folder import SourceIndex, identify, list_recordings
from tests.conftest import BUNDLED_WEIGHTS
from tests.cv_assets.test_tracks import boxes_of, frames_of

NAMES = ("a", "bad", "c")
MIDDLE = CameraSettings.model_validate(
    {
        "lines": [{"name": "middle", "points": [[0.5, 1], [0.5, 0]]}],
        "zones": [{"name": "left half", "points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}],
    }
)


class Pipeline:
    """The walk over a folder of three recordings, the second of them no video.

    Args:
        folder: A scratch folder.
        instance: Dagster's instance.
        places: The recordings' paths less their ending, by name.
    """

    def __init__(
        self, folder: Path, instance: DagsterInstance, places: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.instance, self.store = instance, Store(folder / "data")
        self.settings = Settings(
            watched_folder=folder / "recordings",
            data_folder=folder / "data",
            detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
            cameras={"": MIDDLE},
        )
        files = {name: self.settings.watched_folder / f"{places.get(name, name)}.mp4" for name in NAMES}
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        write_video(demo_scene(1, 4, {"car": 1}), files["a"])
        files["bad"].write_bytes(b"no video")
        write_video(demo_scene(2, 5, {"car": 1}), files["c"])
        found = identify(self.settings, list_recordings(self.settings).files, {})
        SourceIndex(self.store).save(found.values())
        self.ids = {name: str(found[f"{places.get(name, name)}.mp4"].recording_id) for name in NAMES}
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(self.ids.values()))

    def run(self, assets: Sequence[AssetsDefinition], first: str, last: str) -> ExecuteInProcessResult:
        tags = {
            "dagster/asset_partition_range_start": self.ids[first],
            "dagster/asset_partition_range_end": self.ids[last],
        }
        resources = {"store": self.store, "settings": self.settings, "models": Models()}
        if first == last:
            key = self.ids[first]
            return materialize(
                assets, instance=self.instance, resources=resources, partition_key=key, raise_on_error=False
            )
        return materialize(assets, instance=self.instance, resources=resources, tags=tags, raise_on_error=False)

    def versions(self, asset: str, name: str) -> list[str]:
        """Data versions of a recording's materializations, newest first."""
        records = self.instance.fetch_materializations(
            AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=[self.ids[name]]), limit=20
        ).records
        return [(record.asset_materialization.tags or {})["dagster/data_version"] for record in records]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with DagsterInstance.ephemeral() as instance:
        made = Pipeline(tmp_path_factory.mktemp("walk"), instance)
        assert not made.run(WALK[:2], "a", "c").success
        yield made


def test_the_good_ones_of_a_batch_are_materialized_and_the_bad_one_is_named(pipeline: Pipeline) -> None:
    assert len(pipeline.versions("recordings", "bad")) == 1
    assert len(pipeline.versions("frames", "a")) == len(pipeline.versions("normalized_video", "c")) == 1
    assert pipeline.versions("frames", "bad") == []
    # Checks that never ran would look like checks that failed.
    for asset, check in (("normalized_video", "frame_ledger"), ("frames", "keys_and_ranges")):
        (record,) = pipeline.instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey(asset), check), limit=5
        )
        assert record.status == AssetCheckExecutionRecordStatus.SUCCEEDED, asset
    rows = {row["recording_id"]: row for row in pipeline.store.read(RECORDINGS).to_pylist()}
    assert [rows[pipeline.ids[name]]["status"] for name in NAMES] == ["ok", "rejected", "ok"]
    assert [rows[pipeline.ids[name]]["frame_count"] for name in NAMES] == [100, None, 125]


def test_what_is_asked_of_a_rejected_recording_says_why_there_is_nothing(pipeline: Pipeline) -> None:
    ended = pipeline.run(WALK[2:3], "bad", "bad")
    (failure,) = [event for event in ended.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "There is nothing of it, because its file was rejected: It is not a video" in str(told.description)


def test_alone_or_in_a_batch_the_versions_are_the_same(pipeline: Pipeline) -> None:
    before = pipeline.versions("frames", "a")[0]
    assert pipeline.run(WALK[:2], "a", "a").success
    assert pipeline.versions("frames", "a")[0] == before == pipeline.versions("frames", "c")[0]


def test_the_rest_of_the_walk_gives_rows_checks_and_counts(pipeline: Pipeline) -> None:
    ended = pipeline.run(WALK[2:], "c", "c")
    assert ended.success
    checks = ended.get_asset_check_evaluations()
    assert {check.asset_key.to_user_string() for check in checks} >= {"detections", "tracks", "crops", "class_minutes"}
    assert all(check.passed for check in checks)
    summary = pipeline.store.read(SUMMARIES).to_pylist()[0]
    assert (summary["frame_count"], summary["track_count"], summary["max_at_once"]) == (125, 1, 1)
    assert summary["detection_count"] == pipeline.store.row_count(DETECTIONS)
    events = pipeline.store.read(ZONE_EVENTS).to_pylist()
    assert {event["recording_id"] for event in events} == {pipeline.ids["c"]}
    assert sorted(event["event"] for event in events) in (["enter", "exit", "in"], ["enter", "exit", "out"])
    assert pipeline.store.read(LINE_MINUTES)["crossing_count"].to_pylist() == [1]
    told = metadata_of(ended)
    boxes = sum(value for name, value in told["detections"].items() if name.startswith("boxes/"))
    assert told["detections"]["dagster/partition_row_count"] == boxes == summary["detection_count"]
    assert told["tracks"]["tracks/car"] == told["summaries"]["tracks/car"] == 1
    assert told["zone_events"]["events/left half enter"] == told["zone_events"]["events/left half exit"] == 1
    assert told["zone_seconds"]["max_occupancy"] == 1
    for name, values in told.items():
        assert values["seconds"] >= 0, name
        assert values["realtime_factor"] == pytest.approx(5 / max(values["seconds"], 1e-3), rel=0.01, abs=0.01), name
    assert told["crops"]["contact_sheet"].startswith("![the best pictures of the first 1 tracks](data:image/jpeg;")
    assert all(told[name]["timeline"].startswith("![objects") for name in ("summaries", "zone_events"))


def metadata_of(ended: ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """By asset, the values of one recording's materialization."""
    return {
        event.asset_key.to_user_string(): {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in ended.get_asset_materialization_events()
        if event.asset_key
    }


def test_the_pages_of_what_was_normalized_show_its_frames(pipeline: Pipeline) -> None:
    told = metadata_of(pipeline.run(WALK[:2], "c", "c"))
    kind, content = re.fullmatch(
        r"!\[12 frames of the recording and their times\]\(data:image/(\w+);base64,(.+)\)",
        told["normalized_video"]["contact_sheet"],
    ).groups()  # type: ignore[union-attr]
    with Image.open(io.BytesIO(base64.b64decode(content))) as sheet:
        assert (kind, sheet.format) == ("jpeg", "JPEG")
        assert sheet.size == (4 * 164 + 4, 3 * (90 + 15 + 4) + 4)
    assert told["normalized_video"]["frame_count"] == 125 == told["frames"]["dagster/partition_row_count"]
    assert 10 < told["frames"]["mean_brightness"] < 245


def test_progress_is_told_with_pictures(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.pictures, "EVERY_S", 0.0)
    assert pipeline.run(WALK[:5], "a", "a").success
    records = pipeline.instance.fetch_observations(AssetKey("detections"), limit=100).records
    told = [record.asset_observation.metadata for record in records if record.asset_observation]
    assert told[0]["frames_done"].value == told[0]["frames_total"].value == 100
    pictures = [values["picture"].value for values in told if "picture" in values]
    assert 2 <= len(pictures) <= resources.pictures.MOST_PER_RECORDING
    assert all(str(picture).startswith("![frame ") and len(str(picture)) < 20_100 for picture in pictures)


def test_a_stage_without_its_inputs_says_what_to_do(pipeline: Pipeline) -> None:
    assert not pipeline.run(WALK[2:3], "bad", "bad").success
    rows = {row["recording_id"]: row for row in pipeline.store.read(RECORDINGS).to_pylist()}
    assert rows[pipeline.ids["bad"]]["status"] == "rejected"  # the reason that matters is kept


def test_crops_are_spread_over_the_track_and_ranked() -> None:
    boxes = track_rows(boxes_of(range(30)), frames_of(30), 10, TrackSettings(min_duration_s=0))[1]
    assert boxes.schema.names == TRACK_BOXES.arrow_schema.names
    chosen = choose_crops(boxes, 640, 360, CropSettings(per_track=3, min_side_px=5))
    assert chosen["frame_index"].to_pylist() == [1, 10, 20]  # the best of each third; frame 0 is cut by the edge
    assert sorted(chosen["rank"].to_pylist()) == [1, 2, 3]
    assert choose_crops(boxes, 640, 360, CropSettings(min_side_px=11)).num_rows == 0


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((10, 5, 30, 45), (44, 22, 3)),
        ((-5, -5, 5, 5), (6, 6, 3)),
        ((96, 46, 104, 54), (5, 5, 3)),
        ((50, 10, 50, 10), (1, 1, 3)),
    ],
)
def test_crops_are_padded_and_clipped(box: tuple[int, int, int, int], shape: tuple[int, int, int]) -> None:
    assert cut_out(np.zeros((50, 100, 3), np.uint8), np.array(box, float), 0.05).shape == shape


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"frame_count_from_content": None}, None),
        ({"corrupt_count": 2}, "2 packets do not decode."),
        (
            {"corrupt_count": 9, "missing_s": [{"start_s": -0.6, "end_s": 0.0}, {"start_s": 2.0, "end_s": 2.5}]},
            "9 packets do not decode: missing is 0.60 s before the first frame, 2.00 to 2.50 s.",
        ),
        (
            {"missing_s": [{"start_s": k, "end_s": k + 0.5} for k in range(5)]},
            "The file ends early: missing is 0.00 to 0.50 s, 1.00 to 1.50 s, 2.00 to 2.50 s and 2 more stretches.",
        ),
        ({"damaged_count": 3}, "3 frames are damaged."),
        ({"corrupt_count": 1, "damaged_count": 1}, "1 packet does not decode; 1 frame is damaged."),
    ],
)
def test_the_status_follows_the_account_of_frames(changed: dict[str, Any], told: str | None) -> None:
    row: dict[str, Any] = {
        "frame_count_from_content": 100,
        "corrupt_count": 0,
        "damaged_count": 0,
        "missing_s": [],
        "duration_s_from_content": 4.0,
    }
    status, error = media_status(row | changed)
    assert status == ("ok" if told is None else "partial")
    assert error == (None if told is None else f"{told} What decodes is used: 100 frames (4.00 s).")
