"""Staleness: which assets a change makes stale, along every edge of the graph and for the settings of every stage."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance

# Only the private resolver of the UI says what the UI shows.
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from cv_assets.asset_graph import AssetGraph
from cv_assets.definitions import build_definitions
from cv_assets.partitions import recordings_partitions
from resources.config.settings import Settings
from resources.dagster_instance.dagster_names import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    input_data_version_tag,
    input_event_pointer_tag,
)
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs, encode_input_versions
from sensors.staleness import stale_assets

RECORDING_ID = "gate-1"
CAMERAS = {RECORDING_ID: "gate"}
SETTINGS = Settings(watched_folder=Path("recordings"))
GRAPH = AssetGraph.build(SETTINGS)
SPECS = {spec.key.to_user_string(): spec for assets in GRAPH.assets for spec in assets.specs}
UPSTREAM = {name: [dep.asset_key.to_user_string() for dep in spec.deps] for name, spec in SPECS.items()}
DIRECT_DOWNSTREAM = {
    stage: {below for below, above in UPSTREAM.items() if not set(names).isdisjoint(above)}
    for stage, names in GRAPH.stages.items()
}


def downstream(stage: str) -> set[str]:
    """All assets downstream of a stage, directly or not."""
    direct = DIRECT_DOWNSTREAM[stage]
    return direct | {further for below in direct for further in downstream(GRAPH.stage_of_asset[below])}


class Recording:
    """A recording of which every asset is materialized once, in the tables and in Dagster.

    Args:
        instance: Dagster's instance.
        store: The tables.
    """

    def __init__(self, instance: DagsterInstance, store: Store) -> None:
        self.instance, self.store, self.data_versions = instance, store, dict[str, str]()
        instance.add_dynamic_partitions(recordings_partitions.name or "", [RECORDING_ID])
        for stage in GRAPH.stages:
            self.materialize(stage, f"{stage} 1")

    def materialize(self, stage: str, version: str) -> None:
        """Materialize the assets of a stage with a data version, from the newest versions of their inputs."""
        first_name = GRAPH.stages[stage][0]
        inputs = {
            name: self.data_versions[GRAPH.stage_of_asset[name]] for name in UPSTREAM[first_name] if name in SPECS
        }
        pointers = {name: self.newest_storage_id(name) for name in inputs}
        observed = GRAPH.observer.record(self.instance, map(AssetKey, UPSTREAM[first_name]), CAMERAS)
        for key, observations in observed.items():
            inputs[key.to_user_string()] = observations[RECORDING_ID].version
            pointers[key.to_user_string()] = observations[RECORDING_ID].storage_id
        self.data_versions[stage] = version
        code_version = SPECS[first_name].code_version or ""
        row = StageRun(
            recording_id=RECORDING_ID,
            stage=stage,
            attempt=1,
            status="ok",
            run_id="run",
            finished_at_utc=datetime.now(UTC),
            requested_by="person",
            data_version=version,
            code_version=code_version,
            input_versions=encode_input_versions(inputs),
        )
        append_stage_runs(self.store, [row])
        tags = {CODE_VERSION_TAG: code_version, DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
        for name in inputs:
            tags[input_data_version_tag(AssetKey(name))] = inputs[name]
            tags[input_event_pointer_tag(AssetKey(name))] = str(pointers[name])
        for name in GRAPH.stages[stage]:
            self.instance.report_runless_asset_event(AssetMaterialization(name, partition=RECORDING_ID, tags=tags))

    def newest_storage_id(self, asset_name: str) -> int:
        """Id of the newest materialization of an asset in Dagster."""
        records_filter = AssetRecordsFilter(asset_key=AssetKey(asset_name), asset_partitions=[RECORDING_ID])
        (newest,) = self.instance.fetch_materializations(records_filter, limit=1).records
        return newest.storage_id

    def stale(self) -> set[str]:
        """The stale assets."""
        return {asset.asset_name for asset in stale_assets(self.store, CAMERAS, GRAPH)}

    def stale_in_ui(self) -> set[str]:
        """The assets that are stale in the UI, which compares an asset with its direct inputs only."""
        asset_graph = build_definitions(SETTINGS).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, asset_graph, LoadingContextForTest(self.instance))
        return {name for name in SPECS if resolver.get_status(AssetKey(name), RECORDING_ID) == StaleStatus.STALE}


@pytest.fixture
def recording(store: Store) -> Iterator[Recording]:
    """A recording of which every asset is materialized once."""
    with DagsterInstance.ephemeral() as instance:
        yield Recording(instance, store)


@pytest.mark.slow
@pytest.mark.parametrize("stage", GRAPH.stages)
def test_a_new_data_version_makes_exactly_the_assets_downstream_stale(recording: Recording, stage: str) -> None:
    assert recording.stale() == set()
    recording.materialize(stage, f"{stage} 1")
    assert recording.stale() == recording.stale_in_ui() == set()  # the data version is the same as before
    recording.materialize(stage, f"{stage} 2")
    assert recording.stale() == downstream(stage)
    assert recording.stale_in_ui() == DIRECT_DOWNSTREAM[stage]
    for below in GRAPH.stages:
        if not downstream(stage).isdisjoint(GRAPH.stages[below]):
            recording.materialize(below, f"{below} 2")
    assert recording.stale() == set()


def stored(recording_id: str, stage: str, data_version: str | None, status: str = "ok", **inputs: str) -> StageRun:
    """A row of `stage_runs` with the present code version."""
    return StageRun(
        recording_id=recording_id,
        stage=stage,
        attempt=1,
        status=status,
        run_id=f"run of {data_version}",
        finished_at_utc=datetime.now(UTC),
        requested_by="person",
        data_version=data_version,
        code_version=SPECS[GRAPH.stages[stage][0]].code_version,
        input_versions=encode_input_versions(inputs),
    )


def test_each_recording_has_reasons_of_its_own_and_a_failure_keeps_the_results_of_before(store: Store) -> None:
    append_stage_runs(
        store,
        [
            stored("a-1", "detections", "new"),
            stored("a-1", "tracks", "1", detections="old"),
            stored("a-1", "crops", "1", tracks="1", normalized_video="none"),
            stored("b-2", "detections", "new"),
            stored("b-2", "tracks", "1", detections="new"),
            stored("b-2", "tracks", None, "failed"),
            stored("c-3", "detections", "new"),
            stored("not-asked-for", "tracks", "1", detections="old"),
        ],
    )
    stale = stale_assets(store, {"a-1": None, "b-2": None, "c-3": None}, GRAPH)
    assert {(asset.recording_id, asset.asset_name): asset.reason for asset in stale} == {
        ("a-1", "tracks"): "detections was materialized again",
        ("a-1", "track_boxes"): "detections was materialized again",
        ("a-1", "crops"): "tracks is stale, track_boxes is stale",
    }


LINE = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}
OTHER_LINE = {"name": "middle", "points": [[0.6, 1], [0.6, 0]]}
CHANGES: dict[str, tuple[Mapping[str, object], set[str]]] = {
    "time zone": ({"ingest": {"time_zone": "Asia/Tokyo"}}, set()),
    "video": ({"video": {"max_height_px": 480}}, {"normalized_video", "frames", "recording_contents"}),
    "scenes": ({"scenes": {"cut_score": 0.2}}, {"scenes", "stretches"}),
    "detections": ({"detections": {"nms_iou": 0.6}}, {"detections"}),
    "tracks": ({"tracks": {"lost_s": 3.0}}, {"tracks", "track_boxes"}),
    "crops": ({"crops": {"per_track": 5}}, {"crops"}),
    # Settings of one camera are in no code version, which all recordings share; see test_camera_settings.py.
    "line": ({"cameras": {"gate": {"lines": [OTHER_LINE]}}}, set()),
    "camera clock": ({"cameras": {"gate": {"lines": [LINE], "clock_offset_s": 5}}}, set()),
    "camera video": ({"cameras": {"gate": {"lines": [LINE], "video": {"crf": 30}}}}, set()),
    "region": ({"detections": {"regions": {"gate": [[[0, 0], [1, 0], [1, 1]]]}}}, set()),
    "batches and queue": ({"batches": {"max_recordings": 3}, "queue": {"gpu_runs": 2}}, set()),
    "stability": ({"ingest": {"settle_s": 9}, "further_watched_folders": ["/mnt/nas"]}, set()),
}


def code_versions(change: Mapping[str, object]) -> dict[str, str | None]:
    settings = {"watched_folder": "recordings", "cameras": {"gate": {"lines": [LINE]}}, **change}
    graph = AssetGraph.build(Settings.model_validate(settings))
    return {spec.key.to_user_string(): spec.code_version for assets in graph.assets for spec in assets.specs}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_setting_changes_the_code_version_of_its_own_stage_only(
    change: Mapping[str, object], expected: set[str]
) -> None:
    before, after = code_versions({}), code_versions(change)
    assert {name for name in before if before[name] != after[name]} == expected
