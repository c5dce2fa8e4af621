"""Reconciliation: when all recordings are checked, which runs are requested, and when camera settings are recorded."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, SensorResult, build_sensor_context

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import CAMERA_ZONES
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import file_columns
from cv_assets.stage_asset import ANALYSIS, INGEST
from resources.config.detection_config import DetectionSettings, ModelSettings
from resources.config.settings import Settings
from resources.dagster_instance.event_log import observations
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs, newest_stage_runs
from sensors import reconciliation_sensor
from sensors.reconciliation_sensor import build_reconciliation_sensor
from tests.builders.locations import BUNDLED_WEIGHTS

LINE = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}


class Pipeline:
    """A data folder with recordings, and the sensor.

    Args:
        instance: Dagster's instance.
        settings: The settings.
        cameras: The recordings with their cameras; their files were found an hour ago.
    """

    def __init__(self, instance: DagsterInstance, settings: Settings, cameras: Mapping[str, str | None]) -> None:
        self.instance, self.graph, self.store = instance, AssetGraph.build(settings), Store(settings.data_folder)
        self.sensor = build_reconciliation_sensor(self.graph)
        self.cursor: str | None = None
        seen_at = datetime.now(UTC) - timedelta(hours=1)
        self.files = [
            SourceFile(f"{name}.mp4", 1, 1, name, name, "known", None, camera, seen_at)
            for name, camera in cameras.items()
        ]
        rows = [file_columns(file) for file in self.files]
        self.store.replace(RECORDINGS, list(cameras), pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
        SourceIndex(self.store).save(self.files)
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(cameras))

    def store_results(self, recording_id: str, stages: tuple[str, ...]) -> None:
        """Append successful attempts of some stages."""
        now = datetime.now(UTC)
        append_stage_runs(
            self.store,
            [StageRun(recording_id, stage, 1, "ok", "run", now, "person", data_version="1") for stage in stages],
        )

    def tick(self) -> list[RunRequest]:
        """Evaluate the sensor; returns the runs that it requests."""
        context = build_sensor_context(self.instance, cursor=self.cursor, resources={"store": self.store})
        result = self.sensor(context)
        self.cursor = context.cursor
        return list(result.run_requests or []) if isinstance(result, SensorResult) else []

    @property
    def state(self) -> dict[str, object]:
        """The cursor, decoded."""
        state: dict[str, object] = json.loads(self.cursor or "{}")
        return state


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a camera that has a line."""
    return Settings.model_validate(
        {
            "watched_folder": tmp_path,
            "data_folder": tmp_path / "data",
            "detections": {"weights": str(BUNDLED_WEIGHTS)},
            "cameras": {"gate": {"lines": [LINE]}},
        }
    )


@pytest.fixture
def pipeline(instance: DagsterInstance, settings: Settings) -> Pipeline:
    """A pipeline with a new recording of either of two cameras."""
    return Pipeline(instance, settings, {"one-1": "gate", "two-2": "yard"})


@pytest.mark.parametrize("broken_model", ["main", "further"])
def test_a_model_with_broken_weights_holds_only_its_own_assets(
    broken_model: str, instance: DagsterInstance, tmp_path: Path
) -> None:
    good_weights, broken_weights = str(BUNDLED_WEIGHTS), tmp_path / "broken.pt"
    broken_weights.write_bytes(b"fifteen bytes..")
    weights = {name: str(broken_weights) if name == broken_model else good_weights for name in ("main", "further")}
    settings = Settings(
        watched_folder=tmp_path,
        data_folder=tmp_path / "data",
        detections=DetectionSettings(weights=weights["main"]),
        models=(ModelSettings(name="people", weights=weights["further"]),),
    )
    pipeline = Pipeline(instance, settings, {"new-1": None, "normalized-2": None})
    pipeline.store_results("normalized-2", ("recordings", "normalized_video", "scenes"))
    requests = pipeline.tick()
    asset_name = "detections" if broken_model == "main" else "people_detections"
    assert f"{asset_name} is on hold: The weights" in str(pipeline.state["sentence"])
    assert {request.partition_key: request.job_name for request in requests} == {
        "new-1": INGEST,
        "normalized-2": ANALYSIS,
    }
    (analysis,) = [request for request in requests if request.job_name == ANALYSIS]
    on_hold = pipeline.graph.with_downstream(frozenset({asset_name}), ANALYSIS)
    requested = {key.to_user_string() for key in analysis.asset_selection or ()}
    assert requested == set(pipeline.graph.assets_of(ANALYSIS)) - set(on_hold)


def test_camera_settings_are_recorded_in_portions_and_before_the_runs_that_read_them(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation_sensor, "_SETTINGS_PER_TICK", 1)
    further = {f"later-{number}": "gate" for number in range(3)}
    rows = [file_columns(replace(pipeline.files[0], recording_id=name)) for name in further]
    pipeline.store.replace(RECORDINGS, list(further), pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))

    def recorded() -> set[str]:
        return set(observations(pipeline.instance, CAMERA_ZONES.key, {"one-1", "two-2", *further}))

    (request,) = pipeline.tick()
    assert request.tags["dagster/asset_partition_range_end"] == "two-2"
    assert recorded() == {"later-0", "one-1"}  # the first portion, and the recordings of the requested run
    (event,) = observations(pipeline.instance, CAMERA_ZONES.key, {"one-1"})["one-1"]
    assert json.loads(str(event.event.metadata["settings"].value)) == {"lines": [LINE]}
    for _ in range(5):
        pipeline.tick()
    assert recorded() == {"one-1", *further}  # the other camera has no settings of its own
    assert pipeline.state["recorded_up_to"] is None


def test_recordings_are_checked_again_only_after_a_change_or_once_it_is_time(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for recording_id in ("one-1", "two-2"):
        pipeline.store_results(recording_id, tuple(pipeline.graph.stages))
    assert pipeline.tick() == []
    assert pipeline.state["sentence"] == "No runs to request: 2 of 2 recordings are complete, 0 in flight."
    first_check = pipeline.state["checked_at_s"]
    pipeline.tick()
    assert pipeline.state["checked_at_s"] == first_check
    pipeline.store_results("one-1", ("recordings",))
    monkeypatch.setattr(reconciliation_sensor, "_PAUSE_PER_CHECK_S", 0)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 60)
    pipeline.tick()
    second_check = pipeline.state["checked_at_s"]
    assert second_check != first_check
    run = pipeline.instance.add_run(DagsterRun(job_name=INGEST, status=DagsterRunStatus.STARTED))
    pipeline.tick()
    assert pipeline.state["checked_at_s"] != second_check
    third_check = pipeline.state["checked_at_s"]
    pipeline.instance.report_run_canceled(run)
    pipeline.tick()
    assert pipeline.state["checked_at_s"] != third_check
    fourth_check = pipeline.state["checked_at_s"]
    pipeline.tick()
    assert pipeline.state["checked_at_s"] == fourth_check
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 700)
    pipeline.tick()
    assert pipeline.state["checked_at_s"] != fourth_check


def test_the_next_check_is_early_after_requests_and_at_the_time_of_a_retry(pipeline: Pipeline) -> None:
    assert pipeline.tick()
    state = pipeline.state
    assert float(str(state["recheck_at_s"])) - float(str(state["checked_at_s"])) == pytest.approx(15)
    append_stage_runs(
        pipeline.store,
        [
            StageRun(
                name, "recordings", 1, "interrupted", "run", datetime.now(UTC), "person", error="The disk is full."
            )
            for name in ("one-1", "two-2")
        ],
    )
    pipeline.cursor = None
    assert pipeline.tick() == []
    state = pipeline.state
    assert float(str(state["recheck_at_s"])) - time.time() == pytest.approx(120, abs=20)
    assert str(state["sentence"]).endswith("2 are on hold and will be retried: The disk is full.")


def test_recordings_that_the_watched_folder_sensor_has_just_added_are_left_to_it(pipeline: Pipeline) -> None:
    now = datetime.now(UTC)
    SourceIndex(pipeline.store).save([replace(pipeline.files[0], seen_at_utc=now), pipeline.files[1]])
    (request,) = pipeline.tick()
    assert request.partition_key == "two-2"
    SourceIndex(pipeline.store).save([replace(file, seen_at_utc=now) for file in pipeline.files])
    pipeline.cursor = None
    assert pipeline.tick() == []
    assert float(str(pipeline.state["recheck_at_s"])) == pytest.approx(now.timestamp() + 30, abs=0.1)
    # One whose first attempt has ended is not new any more.
    pipeline.store_results("one-1", ("recordings",))
    pipeline.cursor = None
    (request,) = pipeline.tick()
    assert request.partition_key == "one-1"


def test_a_recording_whose_file_had_not_been_complete_is_rejected(pipeline: Pipeline) -> None:
    complete = SourceFile("one-1.mp4", 2, 1, "complete-3", "complete-3", "known", None, "gate", replaces="one-1")
    SourceIndex(pipeline.store).save([complete, pipeline.files[1]])
    pipeline.store_results("one-1", tuple(pipeline.graph.stages))
    (request,) = pipeline.tick()
    assert request.partition_key == "two-2"
    rows = newest_stage_runs(pipeline.store, ["one-1"]).to_pylist()
    assert {row["error"] for row in rows if row["status"] == "rejected"} == {
        "The recording was ingested while its file was still growing; complete-3 is the complete file."
    }
    assert pipeline.instance.get_dynamic_partitions(recordings_partitions.name or "") == ["two-2"]


def test_a_data_folder_that_cannot_be_used_is_checked_again_in_the_next_tick(pipeline: Pipeline) -> None:
    pipeline.store.data_folder.rename(pipeline.store.data_folder.with_name("away"))
    pipeline.store.data_folder.write_text("not a folder")
    assert pipeline.tick() == []
    assert pipeline.cursor is None
