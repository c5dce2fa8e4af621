"""Settings of one camera make its own recordings stale, in the stages that read them, and nothing else."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import AssetKey

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import NO_VERSION
from cv_assets.stage_asset import ANALYSIS
from resources.config.settings import Settings
from resources.corrections.correction_requests import CorrectionRequest, store_corrections
from resources.schema.columns import UTC as UTC_TIMESTAMP
from resources.schema.correction_tables import CORRECTED_TRACKS
from resources.schema.summary_tables import SUMMARIES
from resources.schema.track_tables import TRACKS
from resources.storage.results_database import open_results, publish
from sensors.recomputation import STALE_VARIABLE
from sensors.recording_states import read_recording_states
from sensors.run_planner import plan_runs
from sensors.staleness import stale_assets
from tests.builders import ui_staleness
from tests.builders.pipeline import LINE_AND_ZONE, Pipeline
from tests.builders.processed_pipelines import open_pipeline, processed_folder

pytestmark = pytest.mark.slow

CAMERAS: Mapping[str, str | None] = {"a": "gate", "bad": None, "c": "yard"}
ANALYSIS_ASSETS = set(AssetGraph.build(Settings()).assets_of(ANALYSIS))
ZONE_ASSETS = {"zone_events", "zone_seconds", "zone_presence", "line_trips", "ground_tracks"}
SUMMARY_ASSETS = {"summaries", "class_minutes", "heatmap_cells", "class_presence"}
ZONE_ASSETS_AND_DOWNSTREAM = ZONE_ASSETS | {"zone_minutes", "line_minutes", "origin_destinations"}
MOVED_LINE = {"lines": [{"name": "middle", "points": [[0.6, 1], [0.6, 0]]}]}
CHANGES: Mapping[str, tuple[Mapping[str, Any], set[str], set[str]]] = {
    # Changed settings of the gate; assets that are stale in the UI, which shows direct dependents; all stale assets.
    "line": (MOVED_LINE, ZONE_ASSETS, ZONE_ASSETS_AND_DOWNSTREAM),
    "clock": ({"clock_offset_s": 5.0}, set(), set()),
    "left out": (
        {"left_out": [{"class_name": "car", "box": [0, 0, 0.1, 0.1]}]},
        {"still_tracks"},
        {"still_tracks"} | ZONE_ASSETS_AND_DOWNSTREAM | SUMMARY_ASSETS,
    ),
    "track linking": ({"track_link_gap_s": 2.0}, {"track_links"}, {"track_links"} | ZONE_ASSETS_AND_DOWNSTREAM),
    "video": (
        {"video": {"crf": 30}},
        {"normalized_video", "frames", "recording_contents"},
        {"normalized_video", "frames", "recording_contents", "scenes", "stretches"} | ANALYSIS_ASSETS,
    ),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline with all assets of the recordings of two cameras."""
    with open_pipeline(tmp_path_factory.mktemp("cameras"), processed_folder(tmp_path_factory)) as pipeline:
        use_gate_settings(pipeline, {})
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
    stale = stale_assets(pipeline.store, cameras_by_id(pipeline), pipeline.graph)
    return {(names[asset.recording_id], asset.asset_name) for asset in stale}


def stale_in_the_ui(pipeline: Pipeline) -> set[tuple[str, str]]:
    """Stale assets as Dagster's UI shows them, by name of the recording."""
    names = {recording_id: name for name, recording_id in pipeline.ids.items()}
    stale = ui_staleness.stale_in_the_ui(pipeline.instance, pipeline.graph, [*names])
    return {(names[recording_id], asset_name) for recording_id, asset_name in stale}


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


@pytest.fixture
def recompute_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the run planner treat stale assets as missing."""
    monkeypatch.setenv(STALE_VARIABLE, "all")


@pytest.mark.usefixtures("recompute_stale")
def test_moving_a_line_reruns_the_zone_stages_only(pipeline: Pipeline) -> None:
    detection_versions = pipeline.versions("detections", "a")
    use_gate_settings(pipeline, MOVED_LINE)
    assert materialize_stale(pipeline) == ["zone_events", "zone_summaries"]
    use_gate_settings(pipeline, {})
    assert materialize_stale(pipeline) == ["zone_events", "zone_summaries"]
    assert pipeline.versions("detections", "a") == detection_versions


REASONS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "line": (
        {
            "lines": [
                {"name": "middle", "points": [[0.6, 1], [0.6, 0]]},
                {"name": "door", "points": [[0.1, 1], [0.1, 0]]},
            ]
        },
        {"zone_events": "camera 'gate': line 'middle' was moved; line 'door' was added"},
    ),
    "track linking": (
        {"track_link_gap_s": 2.0},
        {"track_links": "camera 'gate': track_link_gap_s was not set, is now 2.0"},
    ),
    "video": (
        {"video": {"crf": 30}},
        {"normalized_video": "camera 'gate': video.crf was not set, is now 30"},
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_changed_camera_setting_is_named_with_its_old_and_new_value(pipeline: Pipeline, name: str) -> None:
    gate, expected = REASONS[name]
    use_gate_settings(pipeline, gate)
    stale = stale_assets(pipeline.store, cameras_by_id(pipeline), pipeline.graph)
    causes = {pipeline.graph.stage_of_asset[asset.asset_name]: asset.own_reason for asset in stale if asset.own_reason}
    assert causes == expected
    assert {asset.is_costly for asset in stale} == {name == "video"}
    use_gate_settings(pipeline, {})


def test_a_change_since_a_version_that_stored_no_settings_is_named_without_values(pipeline: Pipeline) -> None:
    use_gate_settings(pipeline, MOVED_LINE, min_confidence=0.5)
    folder = pipeline.store.data_folder / "settings"
    hidden = folder.rename(folder.with_name("hidden"))
    stale = stale_assets(pipeline.store, cameras_by_id(pipeline), pipeline.graph)
    hidden.rename(folder)
    use_gate_settings(pipeline, {}, min_confidence=0.1)
    reasons = {asset.asset_name: asset.own_reason for asset in stale if asset.recording_id == pipeline.ids["a"]}
    assert reasons["tracks"] == "settings or version of the stage have changed"
    assert reasons["zone_events"] == "camera 'gate': camera_zones has changed"


@pytest.mark.parametrize(
    ("gate", "detections", "expected"),
    [
        (MOVED_LINE, {}, ZONE_ASSETS_AND_DOWNSTREAM),
        ({"video": {"crf": 30}}, {}, set()),
        ({**MOVED_LINE, "video": {"crf": 30}}, {}, set()),
        (MOVED_LINE, {"nms_iou": 0.6}, set()),
        (MOVED_LINE, {"min_confidence": 0.5}, ANALYSIS_ASSETS - {"detections"}),
    ],
    ids=["line", "video", "line and video", "line and model", "line and filter"],
)
def test_cheap_recomputation_leaves_out_what_depends_on_a_stale_model_or_video(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    gate: Mapping[str, Any],
    detections: dict[str, Any],
    expected: set[str],
) -> None:
    use_gate_settings(pipeline, gate, **detections)
    missing = {}
    for selection in ("none", "cheap", "all"):
        monkeypatch.setenv(STALE_VARIABLE, selection)
        states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph).states
        missing[selection] = next(state.missing for state in states if state.recording_id == pipeline.ids["a"])
    use_gate_settings(pipeline, {}, min_confidence=0.1, nms_iou=0.7)
    assert missing["none"] == set()
    assert missing["cheap"] == expected
    assert missing["all"] >= expected and missing["all"]


def wall_clock_times(pipeline: Pipeline, name: str) -> dict[tuple[str, str], list[datetime]]:
    """First and last value of every wall-clock column of a recording, by table and column."""
    publish(pipeline.store, pipeline.settings)
    times = {}
    with open_results(pipeline.settings.data_folder) as results:
        for table in pipeline.store.tables():
            for column in (column for column in table.columns if column.derived_sql and column.type == UTC_TIMESTAMP):
                (row,) = results.execute(
                    f"SELECT min({column.name}), max({column.name}) FROM {table.published_name or table.name} "
                    "WHERE recording_id = ?",
                    [pipeline.ids[name]],
                ).fetchall()
                times[table.name, column.name] = [time for time in row if time is not None]
    return times


@pytest.mark.usefixtures("recompute_stale")
def test_a_corrected_clock_changes_all_wall_clock_times_and_reruns_nothing(pipeline: Pipeline) -> None:
    use_gate_settings(pipeline, {})
    before, others_before = wall_clock_times(pipeline, "a"), wall_clock_times(pipeline, "c")
    assert before["frames", "captured_at_utc"][0] == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert sum(map(bool, before.values())) > 5
    use_gate_settings(pipeline, {"clock_offset_s": 3600.0})
    states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph)
    assert plan_runs(states, pipeline.graph) == []
    hour = timedelta(hours=1)
    assert wall_clock_times(pipeline, "a") == {key: [time + hour for time in times] for key, times in before.items()}
    assert wall_clock_times(pipeline, "c") == others_before


def test_an_observation_with_a_time_in_the_future_is_replaced(pipeline: Pipeline) -> None:
    use_gate_settings(pipeline, MOVED_LINE, read_at_s=time.time() + 3600)
    record_camera_settings(pipeline)
    use_gate_settings(pipeline, {})
    record_camera_settings(pipeline)
    assert stale_in_the_ui(pipeline) == set()


def test_a_correction_is_applied_by_every_pipeline_and_counted_without_a_model(pipeline: Pipeline) -> None:
    store, recording_id = pipeline.store, pipeline.ids["a"]
    (count,) = store.read(SUMMARIES, [recording_id])["track_count"].to_pylist()
    values = {"recording_id": recording_id, "track_id": store.read(TRACKS, [recording_id])["track_id"][0].as_py()}
    store_corrections(store, [CorrectionRequest("edit", values | {"action": "reject"})], "ann")
    stale = stale_assets(store, cameras_by_id(pipeline), pipeline.graph)
    causes = {pipeline.graph.stage_of_asset[asset.asset_name]: asset.own_reason for asset in stale if asset.own_reason}
    assert causes == {"corrected_tracks": "corrections were added"}
    record_camera_settings(pipeline)
    corrected = {("a", name) for name in ("corrected_tracks", "corrected_boxes", "correction_results")}
    assert stale_in_the_ui(pipeline) == corrected
    assert set(materialize_stale(pipeline)) == {
        *("corrected_tracks", "track_links", "zone_events", "summaries", "zone_summaries")
    }
    assert store.read(SUMMARIES, [recording_id])["track_count"].to_pylist() == [count - 1]
    assert store.read(CORRECTED_TRACKS, [recording_id])["state"].to_pylist() == ["removed"]


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
    assert not observed[pipeline.ids["a"]].is_what_dagster_read
