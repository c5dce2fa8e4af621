"""The filter of stored boxes: which boxes and names the stages after `detections` see, and which change reruns what."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.detection_filter import DetectionFilter
from resources.config.detection_config import DetectionSettings, ModelSettings
from resources.config.settings import Settings
from resources.schema.model_tables import DETECTIONS
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.summary_tables import CLASS_MINUTES, SUMMARIES
from resources.schema.track_tables import CROPS, TRACK_BOXES, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS
from sensors.recomputation import STALE_VARIABLE
from sensors.recording_states import read_recording_states
from sensors.run_planner import plan_runs
from sensors.staleness import stale_assets
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.pipeline import Pipeline
from tests.builders.processed_pipelines import open_pipeline, processed_folder
from tests.builders.ui_staleness import stale_in_the_ui

COMPARED_TABLES = (TRACKS, TRACK_BOXES, CROPS, SUMMARIES, CLASS_MINUTES, ZONE_EVENTS)


def boxes(*rows: tuple[int, str, float]) -> pa.Table:
    """Rows of `detections` with class_id, class_name and confidence, which the network gives in single precision."""
    class_id, class_name, confidence = zip(*rows, strict=True)
    return pa.table(
        {
            "detection_index": pa.array(range(len(rows)), pa.int32()),
            "class_id": pa.array(class_id, pa.int32()),
            "class_name": class_name,
            "confidence": np.array(confidence, np.float32).astype(np.float64),
        }
    )


def test_boxes_count_above_the_confidence_and_of_the_classes() -> None:
    rows = boxes((0, "person", 0.9), (2, "car", 0.5), (2, "car", 0.51), (7, "truck", 0.8))
    selected = DetectionFilter(0.5, ("car", "person")).apply(rows)
    assert selected["detection_index"].to_pylist() == [0, 2]
    assert DetectionFilter(0.1).apply(rows).equals(rows)
    assert DetectionFilter(0.5, ("bus",)).apply(rows).num_rows == 0


def test_a_confidence_equal_to_the_threshold_counts_as_in_the_network() -> None:
    # In double precision, the single-precision number nearest to 0.1 is above 0.1.
    assert DetectionFilter(0.1).apply(boxes((0, "person", 0.1))).num_rows == 0


def test_classes_with_one_new_name_count_as_one() -> None:
    rows = boxes((7, "truck", 0.9), (0, "person", 0.9), (5, "bus", 0.9))
    renamed = DetectionFilter(new_names={"truck": "vehicle", "bus": "vehicle"}).apply(rows)
    assert renamed["class_name"].to_pylist() == ["vehicle", "person", "vehicle"]
    assert renamed["class_id"].to_pylist() == [5, 0, 5]
    assert renamed.schema == rows.schema


def code_versions(**sections: Any) -> dict[str, str | None]:
    graph = AssetGraph.build(Settings.model_validate(sections))
    return {spec.key.to_user_string(): spec.code_version for assets in graph.assets for spec in assets.specs}


@pytest.mark.parametrize(
    ("sections", "changed"),
    [
        ({"detections": {"min_confidence": 0.4}}, {"tracks", "track_boxes", "summaries"}),
        ({"detections": {"class_names": ["car"]}}, {"tracks", "track_boxes", "summaries"}),
        ({"rename_classes": {"car": "vehicle"}}, {"tracks", "track_boxes", "summaries"}),
        ({"detections": {"min_confidence": 0.05}}, {"detections"}),
        ({"detections": {"min_confidence": 0.1}}, set()),
    ],
    ids=["raised", "filtered", "renamed", "lowered", "equal"],
)
def test_only_a_confidence_below_that_of_the_stored_boxes_changes_the_detections(
    sections: dict[str, Any], changed: set[str]
) -> None:
    before, after = code_versions(), code_versions(**sections)
    siblings = {"class_minutes", "heatmap_cells", "class_presence"} if "summaries" in changed else set()
    assert {name for name in before if before[name] != after[name]} == changed | siblings


def test_the_order_of_classes_makes_nothing_stale() -> None:
    assert code_versions(detections={"class_names": ["car", "bus"]}) == code_versions(
        detections={"class_names": ["bus", "car"]}
    )


def test_models_without_later_stages_store_only_what_their_settings_select() -> None:
    further = ModelSettings(name="plates", weights="x.pt", min_confidence=0.5, class_names=("plate",))
    classifier = DetectionSettings(task="classify", class_names=("day",))
    for settings in (further, classifier):
        assert settings.inference_settings is settings
        assert DetectionFilter.of_model(settings) == DetectionFilter()
    detector = DetectionSettings(min_confidence=0.5, class_names=("plate",)).inference_settings
    assert (detector.min_confidence, detector.class_names) == (0.1, None)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline that recomputes stale assets, with all assets of the recording `a`."""
    folder, earlier = tmp_path_factory.mktemp("filter"), processed_folder(tmp_path_factory)
    with open_pipeline(folder, earlier) as pipeline, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(STALE_VARIABLE, "all")
        yield pipeline


def use_settings(pipeline: Pipeline, rename_classes: dict[str, str] | None = None, **detections: Any) -> None:
    """Restart the pipeline with another selection of boxes."""
    detector = pipeline.settings.detections.model_copy(update=detections)
    settings = pipeline.settings.model_copy(update={"detections": detector, "rename_classes": rename_classes or {}})
    pipeline.use_settings(settings)


def materialize_stale(pipeline: Pipeline) -> list[str]:
    """Run the stages of `a` that `process --stale` runs; returns their names."""
    ids, stale = [pipeline.ids["a"]], {}
    for name, assets in (
        ("command", {asset.asset_name for asset in stale_assets(pipeline.store, {ids[0]: None}, pipeline.graph)}),
        ("ui", {asset_name for _, asset_name in stale_in_the_ui(pipeline.instance, pipeline.graph, ids)}),
    ):
        stale[name] = assets
    assert ("detections" in stale["command"]) == ("detections" in stale["ui"])
    assert stale["ui"] <= stale["command"]
    states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph)
    stage_names = [
        assets.op.name
        for run in plan_runs(states, pipeline.graph)
        if ids[0] in run.recording_ids
        for assets in pipeline.graph.assets
        if {key.to_user_string() for key in assets.keys} & set(run.asset_names)
    ]
    if stage_names:
        assert pipeline.run(stage_names, "a", "a").success
    assert stale_assets(pipeline.store, {ids[0]: None}, pipeline.graph) == []
    assert stale_in_the_ui(pipeline.instance, pipeline.graph, ids) == set()
    return stage_names


def results(pipeline: Pipeline) -> dict[str, list[dict[str, Any]]]:
    """All rows of `a` that depend on the selection of boxes."""
    return {
        table.name: pipeline.store.read(table, [pipeline.ids["a"]])
        .sort_by([(name, "ascending") for name in table.key])
        .to_pylist()
        for table in COMPARED_TABLES
    }


def model_run_count(pipeline: Pipeline) -> int:
    return sum(stage == "detections" for stage in pipeline.store.read(STAGE_RUNS)["stage"].to_pylist())


@pytest.mark.slow
def test_a_selection_of_stored_boxes_reruns_no_model_and_gives_the_results_of_a_fresh_run(pipeline: Pipeline) -> None:
    before, stored = results(pipeline), pipeline.store.read(DETECTIONS)
    use_settings(pipeline, min_confidence=0.6, class_names=("car",), rename_classes={"car": "vehicle"})
    count = model_run_count(pipeline)
    stage_names = materialize_stale(pipeline)
    assert stage_names[0] == "tracks" and "summaries" in stage_names
    assert model_run_count(pipeline) == count
    selected = results(pipeline)
    assert pipeline.run(pipeline.stage_names[3:], "a", "a").success  # a fresh run, with the model
    assert results(pipeline) == selected
    assert selected["summaries"][0]["detection_count"] < before["summaries"][0]["detection_count"]
    assert {row["class_name"] for row in selected["tracks"]} == {"vehicle"}
    assert pipeline.store.read(DETECTIONS).num_rows == stored.num_rows
    use_settings(pipeline, min_confidence=0.1, class_names=None)
    materialize_stale(pipeline)
    assert results(pipeline) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selection", "stage", "reason"),
    [
        ({"min_confidence": 0.6}, "tracks", "detections.min_confidence was 0.1, is now 0.6"),
        ({"class_names": ("car",)}, "tracks", 'detections.class_names was null, is now ["car"]'),
        ({"rename_classes": {"car": "vehicle"}}, "tracks", "rename_classes.car was not set, is now vehicle"),
        ({"min_confidence": 0.02}, "detections", "detections.min_confidence was 0.1 or more, is now 0.02"),
        ({"weights": "other.pt"}, "detections", "detections.weights was street.pt (content ???), is now other.pt"),
    ],
    ids=["raised", "filtered", "renamed", "lowered", "other weights"],
)
def test_a_selection_is_cheap_and_named_with_its_old_and_new_value(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, selection: dict[str, Any], stage: str, reason: str
) -> None:
    use_settings(pipeline, **selection)
    recording_id = pipeline.ids["a"]
    stale = stale_assets(pipeline.store, {recording_id: None}, pipeline.graph)
    first = next(asset for asset in stale if pipeline.graph.stage_of_asset[asset.asset_name] == stage)
    assert re.sub(r"content \w{8}", "content ???", first.own_reason) == reason
    assert {asset.is_costly for asset in stale} == {stage == "detections"}
    monkeypatch.setenv(STALE_VARIABLE, "cheap")
    states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph).states
    missing = next(state.missing for state in states if state.recording_id == recording_id)
    assert missing == (set() if stage == "detections" else {asset.asset_name for asset in stale})
    use_settings(pipeline, min_confidence=0.1, class_names=None, weights=str(BUNDLED_WEIGHTS))


@pytest.mark.slow
def test_a_confidence_below_that_of_the_stored_boxes_reruns_the_model(pipeline: Pipeline) -> None:
    before, count = pipeline.store.read(DETECTIONS), model_run_count(pipeline)
    use_settings(pipeline, min_confidence=0.02)
    assert materialize_stale(pipeline)[0] == "detections"
    assert model_run_count(pipeline) == count + 1
    assert pipeline.store.read(DETECTIONS).num_rows > before.num_rows


@pytest.mark.slow
def test_a_class_that_the_model_does_not_have_stops_the_stages_that_select_by_it(pipeline: Pipeline) -> None:
    selections: dict[str, dict[str, Any]] = {
        "class_names": {"class_names": ("lorry",)},
        "rename_classes": {"class_names": None, "rename_classes": {"lorry": "truck"}},
    }
    for key, selection in selections.items():
        use_settings(pipeline, **selection)
        assert not pipeline.run(["tracks"], "a", "a").success
        error = pipeline.store.read(STAGE_RUNS, columns=["error", "finished_at_utc"]).sort_by("finished_at_utc")
        assert f"{key}: street-" in error["error"].to_pylist()[-1]
        assert "has no class 'lorry'" in error["error"].to_pylist()[-1]
