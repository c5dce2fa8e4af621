"""Settings of one camera make its own recordings stale, in the stages that read them, and nothing else."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

import cv_assets.normalized_video as normalized_video_module
from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import NO_VERSION
from cv_assets.definitions import build_definitions
from cv_assets.stage_asset import ANALYSIS
from resources.config.settings import Settings
from resources.media.isolation import normalize_in_subprocess
from resources.schema.columns import Table
from resources.schema.recording_tables import RECORDINGS
from resources.schema.summary_tables import CLASS_MINUTES, RECORDING_HOURS
from resources.schema.zone_tables import ZONE_EVENTS
from sensors.recording_states import STALE_VARIABLE, read_recording_states
from sensors.run_planner import plan_runs
from sensors.staleness import stale_assets
from tests.builders.pipeline import INGEST_STAGES, LINE_AND_ZONE, Pipeline

pytestmark = pytest.mark.slow

CAMERAS: Mapping[str, str | None] = {"a": "gate", "bad": "yard", "c": "yard"}
ANALYSIS_ASSETS = set(AssetGraph.build(Settings()).assets_of(ANALYSIS))
ZONE_ASSETS = {"zone_events", "zone_seconds", "line_trips", "ground_tracks"}
ZONE_ASSETS_AND_DOWNSTREAM = ZONE_ASSETS | {"zone_minutes", "line_minutes", "origin_destinations"}
MOVED_LINE = {"lines": [{"name": "middle", "points": [[0.6, 1], [0.6, 0]]}]}
CHANGES: Mapping[str, tuple[Mapping[str, Any], set[str], set[str]]] = {
    # Changed settings of the gate; assets that are stale in the UI, which shows direct dependents; all stale assets.
    "line": (MOVED_LINE, ZONE_ASSETS, ZONE_ASSETS_AND_DOWNSTREAM),
    "clock": (
        {"clock_offset_s": 5.0},
        {"wall_clock"},
        {"wall_clock", "recording_hours", "track_links"} | ZONE_ASSETS_AND_DOWNSTREAM,
    ),
    "track linking": ({"track_link_gap_s": 2.0}, {"track_links"}, {"track_links"} | ZONE_ASSETS_AND_DOWNSTREAM),
    "video": (
        {"video": {"crf": 30}},
        {"normalized_video", "frames"},
        {"normalized_video", "frames", "scenes", "stretches", "wall_clock"} | ANALYSIS_ASSETS,
    ),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline with all assets of the recordings of two cameras."""
    with DagsterInstance.ephemeral() as instance:
        paths = {name: f"{camera}/2026-01-31_12-00-00_{name}" for name, camera in CAMERAS.items()}
        pipeline = Pipeline(tmp_path_factory.mktemp("cameras"), instance, paths)
        use_gate_settings(pipeline, {})
        pipeline.run(INGEST_STAGES, "a", "c")
        assert pipeline.run(pipeline.stage_names[2:], "a", "a").success
        assert pipeline.run(pipeline.stage_names[2:], "c", "c").success
        yield pipeline


def use_gate_settings(
    pipeline: Pipeline, gate: Mapping[str, Any], *, read_at_s: float | None = None, **detections: Any
) -> None:
    """Restart the pipeline with other settings of the camera `gate` and of the detector."""
    gate_camera = LINE_AND_ZONE.model_validate({**LINE_AND_ZONE.model_dump(exclude_unset=True), **gate})
    detector = {**pipeline.settings.detections.model_dump(), "regions": {}, **detections}
    settings = Settings.model_validate(
        {**pipeline.settings.model_dump(exclude={"cameras", "detections"}), "cameras": {}, "detections": detector}
    ).model_copy(update={"cameras": {"yard": LINE_AND_ZONE, "gate": gate_camera}})
    pipeline.use_settings(settings, read_at_s)


def cameras_by_id(pipeline: Pipeline) -> dict[str, str | None]:
    return {pipeline.ids[name]: camera for name, camera in CAMERAS.items()}


def record_camera_settings(pipeline: Pipeline) -> None:
    """Record the settings of the cameras, as the pipeline does when it starts."""
    observer = pipeline.graph.observer
    observer.record(pipeline.instance, observer.aspects, cameras_by_id(pipeline))


def listed_stale(pipeline: Pipeline) -> set[tuple[str, str]]:
    """Stale assets as `cv-assets stale` lists them, by name of the recording."""
    names = {recording_id: name for name, recording_id in pipeline.ids.items()}
    stale = stale_assets(pipeline.instance, cameras_by_id(pipeline), pipeline.graph)
    return {(names[asset.recording_id], asset.asset_name) for asset in stale}


def stale_in_the_ui(pipeline: Pipeline) -> set[tuple[str, str]]:
    """Stale assets as Dagster's UI shows them, by name of the recording."""
    asset_graph = build_definitions(pipeline.settings).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(pipeline.instance, asset_graph, LoadingContextForTest(pipeline.instance))
    asset_names = [spec.key.to_user_string() for assets in pipeline.graph.assets for spec in assets.specs]
    return {
        (name, asset_name)
        for name, recording_id in pipeline.ids.items()
        for asset_name in asset_names
        if resolver.get_status(AssetKey(asset_name), recording_id) == StaleStatus.STALE
    }


def test_assets_are_not_stale_after_they_were_materialized(pipeline: Pipeline) -> None:
    record_camera_settings(pipeline)
    assert listed_stale(pipeline) == stale_in_the_ui(pipeline) == set()


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_camera_setting_makes_only_its_own_recordings_stale_until_it_is_reverted(
    pipeline: Pipeline, name: str
) -> None:
    gate, direct, all_stale = CHANGES[name]
    use_gate_settings(pipeline, gate)
    assert listed_stale(pipeline) == {("a", asset_name) for asset_name in all_stale}
    assert stale_in_the_ui(pipeline) == set()  # the changed setting has not been recorded yet
    record_camera_settings(pipeline)
    assert listed_stale(pipeline) == {("a", asset_name) for asset_name in all_stale}
    assert stale_in_the_ui(pipeline) == {("a", asset_name) for asset_name in direct}
    use_gate_settings(pipeline, {})
    record_camera_settings(pipeline)
    assert listed_stale(pipeline) == stale_in_the_ui(pipeline) == set()


def test_a_detection_region_of_a_camera_takes_precedence_over_that_of_all_cameras(pipeline: Pipeline) -> None:
    triangle = [[0, 0], [1, 0], [1, 1]]
    use_gate_settings(pipeline, {}, regions={"gate": [triangle]})
    record_camera_settings(pipeline)
    assert stale_in_the_ui(pipeline) == {("a", "detections")}
    assert listed_stale(pipeline) == {("a", asset_name) for asset_name in ANALYSIS_ASSETS}
    use_gate_settings(pipeline, {}, regions={"*": [triangle], "gate": []})
    record_camera_settings(pipeline)
    assert stale_in_the_ui(pipeline) == {("c", "detections")}
    use_gate_settings(pipeline, {})
    record_camera_settings(pipeline)
    assert stale_in_the_ui(pipeline) == set()


def materialize_stale(pipeline: Pipeline) -> list[str]:
    """Run the stages that `process --stale` runs until nothing is stale; returns their names."""
    stage_names = []
    for _ in range(4):
        states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph)
        for run in plan_runs(states, pipeline.graph):
            assert run.recording_ids == (pipeline.ids["a"],)
            names = [
                assets.op.name
                for assets in pipeline.graph.assets
                if {key.to_user_string() for key in assets.keys} & set(run.asset_names)
            ]
            assert pipeline.run(names, "a", "a").success
            stage_names += names
    record_camera_settings(pipeline)
    assert listed_stale(pipeline) == stale_in_the_ui(pipeline) == set()
    return stage_names


def assert_wall_clock_times_match_the_start(pipeline: Pipeline) -> None:
    """Check that every wall-clock time in every table is the recording's start plus its offset."""
    for recording in pipeline.store.read(RECORDINGS).to_pylist():
        for table in pipeline.store.tables():
            for column in (column for column in table.columns if column.offset_from_start):
                offset, unit_s = column.offset_from_start or ("", 0.0)
                for row in pipeline.store.read(table, [recording["recording_id"]], [column.name, offset]).to_pylist():
                    expected = recording["started_at_utc"] + timedelta(seconds=row[offset] * unit_s)
                    difference = abs(row[column.name] - expected)
                    assert difference < timedelta(microseconds=3), (
                        recording["recording_id"],
                        table.name,
                        column.name,
                    )


def start_of(pipeline: Pipeline, name: str) -> datetime:
    (row,) = pipeline.store.read(RECORDINGS, [pipeline.ids[name]]).to_pylist()
    started_at_utc: datetime = row["started_at_utc"]
    return started_at_utc


STAGES_OF_CLOCK = ["wall_clock", "track_links", "zone_events", "summaries", "zone_summaries"]
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def recompute_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the run planner treat stale assets as missing."""
    monkeypatch.setenv(STALE_VARIABLE, "1")


@pytest.mark.usefixtures("recompute_stale")
def test_a_corrected_clock_changes_all_wall_clock_times_and_reruns_no_model(pipeline: Pipeline) -> None:
    detection_versions, hour = pipeline.versions("detections", "a"), timedelta(hours=1)
    assert_wall_clock_times_match_the_start(pipeline)
    assert pipeline.store.row_count(ZONE_EVENTS) and pipeline.store.row_count(CLASS_MINUTES)
    use_gate_settings(pipeline, {"clock_offset_s": 3600.0})
    assert materialize_stale(pipeline) == STAGES_OF_CLOCK
    assert pipeline.versions("detections", "a") == detection_versions
    assert (start_of(pipeline, "a"), start_of(pipeline, "c")) == (NOON + hour, NOON)
    assert_wall_clock_times_match_the_start(pipeline)
    hours = pipeline.store.read(RECORDING_HOURS, [pipeline.ids["a"]])["hour_utc"].to_pylist()
    assert set(hours) == {NOON + hour}


@pytest.mark.usefixtures("recompute_stale")
def test_wall_clock_times_are_consistent_whichever_stage_runs_first_after_a_correction(pipeline: Pipeline) -> None:
    use_gate_settings(pipeline, {"clock_offset_s": 60.0})
    # Launched by hand with the new settings, before wall_clock has set the new start.
    for stage_name in ("normalized_video", "recordings", "crops"):
        assert pipeline.run([stage_name], "a", "a").success
        assert_wall_clock_times_match_the_start(pipeline)
    assert "wall_clock" in materialize_stale(pipeline)
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=1)
    assert_wall_clock_times_match_the_start(pipeline)


@pytest.mark.usefixtures("recompute_stale")
def test_a_clock_correction_that_was_killed_half_way_is_completed_even_if_the_setting_is_reverted(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_gate_settings(pipeline, {"clock_offset_s": 120.0})
    set_clock = pipeline.store.set_clock

    def set_clock_of_half_the_tables(tables: Sequence[Table], *clock: Any, **more: Any) -> None:
        set_clock(tables[: len(tables) // 2], *clock, **more)
        raise OSError("died")

    monkeypatch.setattr(pipeline.store, "set_clock", set_clock_of_half_the_tables)
    assert not pipeline.run(["wall_clock"], "a", "a").success
    monkeypatch.setattr(pipeline.store, "set_clock", set_clock)
    with pytest.raises(AssertionError, match=r"captured_at_utc|minute_start_utc"):
        assert_wall_clock_times_match_the_start(pipeline)
    use_gate_settings(pipeline, {"clock_offset_s": 60.0})
    materialize_stale(pipeline)
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=1)
    assert_wall_clock_times_match_the_start(pipeline)


@pytest.mark.usefixtures("recompute_stale")
def test_a_stage_that_runs_during_a_clock_correction_stores_corrected_times(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_gate_settings(pipeline, {"clock_offset_s": 240.0})

    def normalize_during_a_correction(*arguments: Any) -> Any:
        video = normalize_in_subprocess(*arguments)
        assert pipeline.run(["wall_clock"], "a", "a").success
        return video

    monkeypatch.setattr(normalized_video_module, "normalize_in_subprocess", normalize_during_a_correction)
    assert pipeline.run(["normalized_video"], "a", "a").success
    monkeypatch.setattr(normalized_video_module, "normalize_in_subprocess", normalize_in_subprocess)
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=4)
    assert_wall_clock_times_match_the_start(pipeline)
    materialize_stale(pipeline)


@pytest.mark.usefixtures("recompute_stale")
def test_a_clock_can_be_corrected_after_the_source_file_was_deleted(pipeline: Pipeline) -> None:
    (file,) = pipeline.settings.watched_folder.rglob("*_a.mp4")
    moved = file.rename(file.with_suffix(".away"))
    use_gate_settings(pipeline, {"clock_offset_s": 300.0})
    assert materialize_stale(pipeline) == STAGES_OF_CLOCK
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=5)
    moved.rename(file)


def test_an_observation_with_a_time_in_the_future_is_replaced(pipeline: Pipeline) -> None:
    use_gate_settings(pipeline, MOVED_LINE, read_at_s=time.time() + 3600)
    record_camera_settings(pipeline)
    use_gate_settings(pipeline, {"clock_offset_s": 300.0})
    record_camera_settings(pipeline)
    assert stale_in_the_ui(pipeline) == set()


def test_a_run_with_older_settings_keeps_the_newer_observation_and_its_results_are_stale(pipeline: Pipeline) -> None:
    use_gate_settings(pipeline, {})
    record_camera_settings(pipeline)
    assert pipeline.run(["track_links"], "a", "a").success  # independent of the settings that earlier tests used
    older_s = time.time()
    use_gate_settings(pipeline, {"track_link_gap_s": 3.0})
    record_camera_settings(pipeline)
    use_gate_settings(pipeline, {}, read_at_s=older_s)
    assert pipeline.run(["track_links"], "a", "a").success
    assert ("a", "track_links") in stale_in_the_ui(pipeline)
    (observed,) = pipeline.graph.observer.record(
        pipeline.instance, [AssetKey("camera_track_linking")], {pipeline.ids["a"]: "gate"}
    ).values()
    assert observed[pipeline.ids["a"]].version == NO_VERSION
    assert not observed[pipeline.ids["a"]].is_newest
