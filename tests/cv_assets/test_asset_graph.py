"""The assets in one process, on a real Dagster instance: batches, data versions, checks and metadata."""

import base64
import io
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance, ExecuteInProcessResult
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from PIL import Image

from cv_assets import batch
from cv_assets.media_status import find_normalized_video, read_normalized_row
from resources.dagster_instance.event_log import observations
from resources.previews import preview_throttle
from resources.schema.model_tables import DETECTIONS
from resources.schema.summary_tables import SUMMARIES
from resources.schema.zone_tables import LINE_MINUTES, ZONE_EVENTS
from resources.storage import results_database
from resources.storage.recording_rows import read_recording_rows
from resources.storage.stage_runs import decode_input_versions, newest_stage_runs
from tests.builders.pipeline import INGEST_STAGES, RECORDING_NAMES, Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline that has ingested its three recordings in one batch."""
    with DagsterInstance.ephemeral() as instance:
        pipeline = Pipeline(tmp_path_factory.mktemp("pipeline"), instance)
        assert not pipeline.run(INGEST_STAGES, "a", "c").success
        yield pipeline


def metadata_by_asset(result: ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Metadata values of one recording's materializations."""
    return {
        event.asset_key.to_user_string(): {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_a_batch_materializes_its_good_recordings_and_stores_why_the_bad_one_failed(pipeline: Pipeline) -> None:
    assert len(pipeline.versions("recordings", "bad")) == 1
    assert len(pipeline.versions("frames", "a")) == len(pipeline.versions("normalized_video", "c")) == 1
    assert pipeline.versions("frames", "bad") == []
    # Checks that never ran would look like checks that failed.
    for asset_name, check_name in (("normalized_video", "frame_ledger"), ("frames", "keys_and_ranges")):
        (record,) = pipeline.instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey(asset_name), check_name), limit=5
        )
        assert record.status == AssetCheckExecutionRecordStatus.SUCCEEDED, asset_name
    rows = read_recording_rows(pipeline.store)
    assert [rows[pipeline.ids[name]]["frame_count"] for name in RECORDING_NAMES] == [100, None, 125]


def test_every_attempt_has_a_row_with_versions_times_and_the_reason_of_a_rejection(pipeline: Pipeline) -> None:
    rows = {(row["stage"], row["recording_id"]): row for row in newest_stage_runs(pipeline.store).to_pylist()}
    statuses = {
        (stage, name): rows[stage, pipeline.ids[name]]["status"] for stage in INGEST_STAGES for name in RECORDING_NAMES
    }
    assert [name for name in statuses if statuses[name] == "rejected"] == [
        ("recordings", "bad"),
        ("normalized_video", "bad"),
    ]
    assert set(statuses.values()) == {"ok", "rejected"}
    rejection = rows["normalized_video", pipeline.ids["bad"]]
    assert "not a video" in rejection["error"]
    assert (rejection["data_version"], rejection["input_versions"]) == (None, None)
    row = rows["normalized_video", pipeline.ids["a"]]
    assert row["data_version"] == pipeline.versions("frames", "a")[0]
    assert decode_input_versions(row["input_versions"]).keys() == {"recordings", "camera_video"}
    assert row["finished_at_utc"] >= row["started_at_utc"]
    assert row["elapsed_s"] > 0
    assert (row["attempt"], row["requested_by"]) == (1, "person")


def test_a_rejected_recording_fails_with_the_reason_of_its_rejection(pipeline: Pipeline) -> None:
    result = pipeline.run(["scenes"], "bad", "bad")
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    assert re.search(
        "The recording has no results, because its file was rejected: .*not a video", str(data.description)
    )
    rows = newest_stage_runs(pipeline.store, [pipeline.ids["bad"]]).to_pylist()
    # So that the stage runs if a later version accepts the file.
    assert {row["stage"]: row["status"] for row in rows} == {
        "recordings": "rejected",
        "normalized_video": "rejected",
        "scenes": "failed",
    }


def test_data_versions_are_the_same_alone_and_in_a_batch(pipeline: Pipeline) -> None:
    version = pipeline.versions("frames", "a")[0]
    assert pipeline.run(INGEST_STAGES, "a", "a").success
    assert pipeline.versions("frames", "a")[0] == version == pipeline.versions("frames", "c")[0]


def test_the_stages_after_ingest_write_rows_checks_and_metadata(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_PUBLICATION_INTERVAL_S", math.inf)
    published_before = set((pipeline.store.data_folder / "published").glob("*.duckdb"))
    result = pipeline.run(pipeline.stage_names[2:], "c", "c")
    assert result.success
    # All stages of the run were published at once, by the last of them.
    assert len(set((pipeline.store.data_folder / "published").glob("*.duckdb")) - published_before) == 1
    published_versions = results_database.published_versions(pipeline.store.data_folder)
    assert published_versions == pipeline.store.versions()
    checks = result.get_asset_check_evaluations()
    assert {check.asset_key.to_user_string() for check in checks} >= {"detections", "tracks", "crops", "class_minutes"}
    assert all(check.passed for check in checks)
    summary = pipeline.store.read(SUMMARIES).to_pylist()[0]
    assert (summary["frame_count"], summary["track_count"], summary["max_at_once"]) == (125, 1, 1)
    assert summary["detection_count"] == pipeline.store.row_count(DETECTIONS)
    events = pipeline.store.read(ZONE_EVENTS).to_pylist()
    assert {event["recording_id"] for event in events} == {pipeline.ids["c"]}
    assert sorted(event["event"] for event in events) in (["enter", "exit", "in"], ["enter", "exit", "out"])
    assert pipeline.store.read(LINE_MINUTES)["crossing_count"].to_pylist() == [1]
    metadata = metadata_by_asset(result)
    box_count = sum(value for name, value in metadata["detections"].items() if name.startswith("boxes/"))
    assert metadata["detections"]["dagster/partition_row_count"] == box_count == summary["detection_count"]
    assert metadata["tracks"]["tracks/car"] == metadata["summaries"]["tracks/car"] == 1
    assert metadata["zone_events"]["events/left half enter"] == metadata["zone_events"]["events/left half exit"] == 1
    assert metadata["zone_seconds"]["max occupancy"] == 1
    for name, values in metadata.items():
        assert values["elapsed (s)"] >= 0, name
        assert values["realtime factor"] == pytest.approx(5 / max(values["elapsed (s)"], 1e-3), rel=0.01, abs=0.01), (
            name
        )
    assert metadata["crops"]["contact sheet"].startswith("1 of 1 tracks with crops: the best crop of each\n\n![")
    assert metadata["detections"]["contact sheet"].startswith("6 of 125 analysed frames, with their boxes\n\n![")
    first_labels = {
        name: next(label for label in values if not label.startswith("dagster/")) for name, values in metadata.items()
    }
    pictures = {name for name, label in first_labels.items() if label in ("contact sheet", "timeline")}
    assert pictures == {"detections", "crops", "summaries", "zone_events"}
    assert all(metadata[name]["timeline"].startswith("![objects") for name in ("summaries", "zone_events"))


def test_the_metadata_of_a_normalized_video_show_its_frames(pipeline: Pipeline) -> None:
    metadata = metadata_by_asset(pipeline.run(INGEST_STAGES, "c", "c"))
    image_type, content = re.fullmatch(
        r"12 of 125 frames, with their times\n\n!\[12 .*\]\(data:image/(\w+);base64,(.+)\)",
        metadata["normalized_video"]["contact sheet"],
    ).groups()  # type: ignore[union-attr]
    with Image.open(io.BytesIO(base64.b64decode(content))) as sheet:
        assert (image_type, sheet.format) == ("jpeg", "JPEG")
        assert sheet.size == (4 * 164 + 4, 3 * (90 + 15 + 4) + 4)
    assert metadata["normalized_video"]["frame count"] == 125 == metadata["frames"]["dagster/partition_row_count"]
    assert metadata["normalized_video"]["rate (frames/s)"] == 25
    assert metadata["normalized_video"]["duration (s)"] == 5
    assert 10 < metadata["frames"]["mean brightness"] < 245


def test_progress_is_observed_with_previews(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_throttle, "PREVIEW_INTERVAL_S", 0.0)
    assert pipeline.run(pipeline.stage_names[:5], "a", "a").success
    records = pipeline.instance.fetch_observations(AssetKey("detections"), limit=100).records
    metadata = [record.asset_observation.metadata for record in records if record.asset_observation]
    assert metadata[0]["frames_done"].value == metadata[0]["frames_total"].value == 100
    previews = [values["preview"].value for values in metadata if "preview" in values]
    assert 2 <= len(previews) <= preview_throttle.MAX_PREVIEWS_PER_RECORDING
    assert all(str(preview).startswith("![frame ") and len(str(preview)) < 20_100 for preview in previews)


def test_recordings_shows_the_status_of_the_whole_recording(pipeline: Pipeline) -> None:
    def observed(name: str) -> list[dict[str, Any]]:
        events = observations(pipeline.instance, AssetKey("recordings"), {pipeline.ids[name]})
        return [
            {key: value.value for key, value in event.event.metadata.items()}
            for event in events.get(pipeline.ids[name], [])
        ]

    assert observed("a") == []  # without problems, and not complete yet
    count = len(pipeline.stage_names)
    rejected = observed("bad")[0]
    assert (rejected["status"], rejected["stages done"]) == ("rejected", f"0 of {count}")
    assert "not a video" in rejected["error"]
    assert pipeline.run(pipeline.stage_names[2:], "a", "a").success
    done = {"status": "ok", "error": "none", "failed stage": "none", "stages done": f"{count} of {count}"}
    assert observed("a") == [done]
    assert pipeline.run(["summaries"], "a", "a").success
    assert observed("a") == [done]  # nothing has changed
    find_normalized_video(
        read_normalized_row(pipeline.ids["a"], pipeline.store), pipeline.store.data_folder
    ).path.unlink()
    assert not pipeline.run(["crops"], "a", "a").success
    failed = observed("a")[0]
    assert (failed["status"], failed["failed stage"], failed["stages done"]) == (
        "failed",
        "crops",
        f"{count - 1} of {count}",
    )
    assert failed["error"].startswith("The normalized video was deleted")
    assert pipeline.run(["recordings"], "a", "a").success
    assert observed("a")[0] == failed and len(observed("a")) == 3  # above the new materialization
