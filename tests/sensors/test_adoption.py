"""Adoption: a new Dagster storage shows what the lost one showed, apart from failures."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from cli.adopt_command import recommend_adoption
from cli.main import commands
from cv_assets.camera_settings import cameras_of
from cv_assets.partitions import recordings_partitions
from resources.config.camera_config import CameraSettings
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs
from sensors.adoption import needs_adoption, register_materializations, register_partitions
from sensors.recording_states import read_recording_states
from sensors.run_planner import plan_runs
from sensors.staleness import stale_assets
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.pipeline import LINE_AND_ZONE, Pipeline
from tests.builders.processed_pipelines import open_pipeline, processed_folder
from tests.builders.ui_staleness import stale_in_the_ui

pytestmark = pytest.mark.slow

MOVED_LINE = CameraSettings.model_validate({"lines": [{"name": "middle", "points": [[0.6, 1], [0.6, 0]]}]})


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline with results of which some are stale: the line was moved, and `tracks` of `a` have newer settings."""
    folder = tmp_path_factory.mktemp("processed")
    with open_pipeline(folder, processed_folder(tmp_path_factory)) as pipeline:
        tracks = pipeline.settings.tracks.model_copy(update={"lost_s": pipeline.settings.tracks.lost_s + 1})
        pipeline.use_settings(pipeline.settings.model_copy(update={"tracks": tracks}))
        pipeline.run(["tracks"], "a", "a")
        yield pipeline


@pytest.fixture
def new_instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def partition_status(pipeline: Pipeline, instance: DagsterInstance) -> dict[tuple[str, str], Any]:
    """Whether each asset of each recording is materialized; a failed one is missing in the new storage."""
    ids = list(pipeline.ids.values())
    return {
        (name, recording_id): status is not None and status.value == "MATERIALIZED"
        for name in pipeline.graph.stage_of_asset
        for recording_id, status in (
            instance.get_status_by_partition(AssetKey(name), ids, recordings_partitions) or dict.fromkeys(ids)
        ).items()
    }


def stale(pipeline: Pipeline, instance: DagsterInstance) -> set[tuple[str, str]]:
    """Recordings and stale assets, as the UI shows them."""
    return stale_in_the_ui(instance, pipeline.graph, list(pipeline.ids.values()))


def materialization_count(instance: DagsterInstance, pipeline: Pipeline) -> int:
    return sum(
        len(instance.fetch_materializations(AssetRecordsFilter(asset_key=AssetKey(name)), limit=1000).records)
        for name in pipeline.graph.stage_of_asset
    )


def test_a_new_storage_shows_the_same_recordings_results_and_stale_assets(
    processed: Pipeline, new_instance: DagsterInstance
) -> None:
    pipeline, store = processed, processed.store
    assert needs_adoption(new_instance, store)
    assert not needs_adoption(pipeline.instance, store)
    assert register_partitions(new_instance, store) == 3
    assert register_partitions(new_instance, store) == 0
    partitions = recordings_partitions.name or ""
    assert set(new_instance.get_dynamic_partitions(partitions)) == set(pipeline.ids.values())
    assert not needs_adoption(new_instance, store)
    old_partition_status = partition_status(pipeline, pipeline.instance)
    progress: list[tuple[int, int]] = []
    count = register_materializations(
        new_instance, store, pipeline.graph, show_progress=lambda done, total: progress.append((done, total))
    )
    assert count == sum(old_partition_status.values()) == materialization_count(new_instance, pipeline)
    assert progress == [(3, 3)]
    assert partition_status(pipeline, new_instance) == old_partition_status
    assert stale(pipeline, new_instance) == stale(pipeline, pipeline.instance)
    names = {name for _, name in stale(pipeline, new_instance)}
    assert names >= {"tracks", "crops"}  # tracks of c; what was computed from those of a
    assert stale(pipeline, new_instance) <= {
        (asset.recording_id, asset.asset_name) for asset in stale_assets(store, cameras_of(store), pipeline.graph)
    }
    assert register_materializations(new_instance, store, pipeline.graph) == 0  # nothing twice


def test_nothing_is_planned_before_or_after_the_registration(
    processed: Pipeline, new_instance: DagsterInstance
) -> None:
    pipeline = processed
    register_partitions(new_instance, pipeline.store)
    assert plan_runs(read_recording_states(new_instance, pipeline.store, pipeline.graph), pipeline.graph) == []
    register_materializations(new_instance, pipeline.store, pipeline.graph)
    assert plan_runs(read_recording_states(new_instance, pipeline.store, pipeline.graph), pipeline.graph) == []


@pytest.mark.parametrize("camera", [MOVED_LINE, CameraSettings()], ids=["other settings", "no settings"])
def test_results_of_earlier_camera_settings_are_stale_in_a_new_storage(
    processed: Pipeline, new_instance: DagsterInstance, camera: CameraSettings
) -> None:
    pipeline = processed
    settings = pipeline.settings
    register_partitions(new_instance, pipeline.store)
    register_materializations(new_instance, pipeline.store, pipeline.graph)
    before = stale(pipeline, new_instance)
    try:
        pipeline.use_settings(settings.model_copy(update={"cameras": {"gate": camera, "yard": camera}}))
        assert register_materializations(new_instance, pipeline.store, pipeline.graph) == 0
        zone_assets = {name for _, name in stale(pipeline, new_instance) - before}
    finally:
        pipeline.use_settings(settings)
    assert zone_assets == {"zone_events", "zone_seconds", "zone_presence", "line_trips", "ground_tracks"}


@pytest.mark.parametrize("camera", [MOVED_LINE, CameraSettings()], ids=["other settings", "no settings"])
def test_a_storage_that_was_lost_before_the_settings_changed_shows_their_results_as_stale(
    processed: Pipeline, new_instance: DagsterInstance, camera: CameraSettings
) -> None:
    pipeline = processed
    settings = pipeline.settings
    assert settings.cameras["gate"] == settings.cameras["yard"] == LINE_AND_ZONE
    stale_before = stale(pipeline, pipeline.instance)
    register_partitions(new_instance, pipeline.store)
    try:
        pipeline.use_settings(settings.model_copy(update={"cameras": {"gate": camera, "yard": camera}}))
        assert register_materializations(new_instance, pipeline.store, pipeline.graph) > 0
        zone_assets = {name for _, name in stale(pipeline, new_instance) - stale_before}
        assert register_materializations(new_instance, pipeline.store, pipeline.graph) == 0
    finally:
        pipeline.use_settings(settings)
    assert zone_assets == {"zone_events", "zone_seconds", "zone_presence", "line_trips", "ground_tracks"}
    # With the settings restored, only the observations change.
    register_materializations(new_instance, pipeline.store, pipeline.graph)
    assert stale(pipeline, new_instance) == stale_before


def test_an_unreported_result_is_registered_although_older_ones_are(
    processed: Pipeline, new_instance: DagsterInstance
) -> None:
    pipeline, recording_id = processed, processed.ids["a"]
    register_partitions(new_instance, pipeline.store)
    register_materializations(new_instance, pipeline.store, pipeline.graph, [pipeline.ids["c"]])
    count = materialization_count(new_instance, pipeline)
    assert register_materializations(new_instance, pipeline.store, pipeline.graph, [recording_id]) == count
    events = new_instance.fetch_materializations(AssetRecordsFilter(AssetKey("scenes"), [recording_id]), limit=2)
    (event,) = [record.asset_materialization for record in events.records]
    assert event is not None and event.metadata["stage status"].value == "ok"
    assert float(str(event.metadata["elapsed (s)"].value)) > 0


def test_partitions_are_in_the_order_of_their_files_without_archived_and_replaced_recordings(
    tmp_path: Path,
) -> None:
    store, noon = Store(tmp_path), datetime(2026, 1, 1, 12, tzinfo=UTC)

    def file(path: str, recording_id: str | None, state: str, hour: int) -> SourceFile:
        seen_at = noon.replace(hour=hour)
        return SourceFile(path, 1, 1, recording_id, "f", state, None, camera=None, seen_at_utc=seen_at)

    files = [
        file("b.mp4", "b-1", "known", 3),
        file("a.mp4", "a-1", "known", 3),
        file("z.mp4", "z-1", "known", 1),
        file("z copy.mp4", "z-1", "duplicate", 0),
        file("old.mp4", "old-1", "archived", 0),
        file("empty.mp4", None, "unreadable", 0),
    ]
    SourceIndex(store).save(files)

    def row(recording_id: str, status: str, hour: int) -> StageRun:
        return StageRun(recording_id, "recordings", 1, status, "run", noon.replace(hour=hour), "person")

    # Of these only the first is a recording: its file was overwritten with another one.
    append_stage_runs(store, [row("overwritten-1", "ok", 2), row("beginning-1", "rejected", 2), row("old-1", "ok", 2)])
    with DagsterInstance.ephemeral() as instance:
        assert register_partitions(instance, store) == 4
        partitions = instance.get_dynamic_partitions(recordings_partitions.name or "")
    assert list(partitions) == ["z-1", "overwritten-1", "a-1", "b-1"]


def test_the_command_registers_everything_once_and_other_commands_recommend_it(
    processed: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, data_folder = tmp_path / "pipeline.yaml", processed.store.data_folder
    file.write_text(f"detections: {{weights: {BUNDLED_WEIGHTS}}}")
    arguments = ["adopt", "--data", str(data_folder), "--settings", str(file)]
    outputs = [CliRunner().invoke(commands, arguments).output.splitlines() for _ in range(2)]
    count = sum(partition_status(processed, processed.instance).values())
    assert outputs[0] == ["3 of 3 recordings", f"Registered 3 partitions and {count} materializations."]
    assert outputs[1][-1] == "Registered 0 partitions and 0 materializations."
    recommend_adoption(data_folder)
    assert capsys.readouterr().err == ""
    with DagsterInstance.get() as instance:
        for recording_id in processed.ids.values():
            instance.delete_dynamic_partition(recordings_partitions.name or "", recording_id)
    recommend_adoption(data_folder)
    assert "cv-assets adopt registers them" in capsys.readouterr().err


def test_the_command_refuses_a_folder_without_tables(tmp_path: Path) -> None:
    result = CliRunner().invoke(commands, ["adopt", "--data", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "has no tables yet: process some recordings first." in result.output
