"""Staleness: which assets a change makes stale, along every edge of the graph and for the settings of every stage."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    CachingStaleStatusResolver,
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.loader import LoadingContextForTest

from cv_assets.asset_graph import AssetGraph
from cv_assets.definitions import build_definitions
from cv_assets.partitions import recordings_partitions
from resources.config.settings import Settings
from sensors.staleness import stale_assets

RECORDING_ID = "gate-1"
CAMERAS = {RECORDING_ID: "gate"}
SETTINGS = Settings(watched_folder=Path("recordings"))
GRAPH = AssetGraph.build(SETTINGS)
SPECS = {spec.key.to_user_string(): spec for assets in GRAPH.assets for spec in assets.specs}
UPSTREAM = {name: [dep.asset_key.to_user_string() for dep in spec.deps] for name, spec in SPECS.items()}
DIRECT_DOWNSTREAM = {name: {below for below, above in UPSTREAM.items() if name in above} for name in SPECS}


def downstream(name: str) -> set[str]:
    """All assets downstream of an asset, directly or not."""
    direct = DIRECT_DOWNSTREAM[name]
    return direct | {further for below in direct for further in downstream(below)}


def materialize(instance: DagsterInstance, name: str, version: str) -> None:
    """Materialize an asset as a stage does: with the data versions and event pointers of its inputs."""
    tags = {
        CODE_VERSION_TAG: SPECS[name].code_version or "",
        DATA_VERSION_TAG: version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for key, observations in GRAPH.observer.record(instance, map(AssetKey, UPSTREAM[name]), CAMERAS).items():
        tags[get_input_data_version_tag(key)] = observations[RECORDING_ID].version
        tags[get_input_event_pointer_tag(key)] = str(observations[RECORDING_ID].storage_id)
    for key in map(AssetKey, UPSTREAM[name]):
        if key in GRAPH.observer.aspects:
            continue
        records_filter = AssetRecordsFilter(asset_key=key, asset_partitions=[RECORDING_ID])
        (newest,) = instance.fetch_materializations(records_filter, limit=1).records
        materialization = newest.asset_materialization
        assert materialization is not None
        tags[get_input_data_version_tag(key)] = (materialization.tags or {})[DATA_VERSION_TAG]
        tags[get_input_event_pointer_tag(key)] = str(newest.storage_id)
    instance.report_runless_asset_event(AssetMaterialization(name, partition=RECORDING_ID, tags=tags))


def stale(instance: DagsterInstance) -> set[str]:
    return {asset.asset_name for asset in stale_assets(instance, CAMERAS, GRAPH)}


def stale_in_ui(instance: DagsterInstance) -> set[str]:
    """The assets that are stale in the UI, which compares an asset with its direct inputs only."""
    resolver = CachingStaleStatusResolver(
        instance, build_definitions(SETTINGS).resolve_asset_graph(), LoadingContextForTest(instance)
    )
    return {name for name in SPECS if resolver.get_status(AssetKey(name), RECORDING_ID) == StaleStatus.STALE}


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """A recording of which every asset is materialized once."""
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [RECORDING_ID])
        for name in SPECS:
            materialize(instance, name, f"{name} 1")
        yield instance


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_a_new_data_version_makes_exactly_the_assets_downstream_stale(instance: DagsterInstance, name: str) -> None:
    assert stale(instance) == set()
    materialize(instance, name, f"{name} 1")
    assert stale(instance) == stale_in_ui(instance) == set()  # the data version is the same as before
    materialize(instance, name, f"{name} 2")
    assert stale(instance) == downstream(name)
    assert stale_in_ui(instance) == DIRECT_DOWNSTREAM[name]
    for below in SPECS:
        if below in downstream(name):
            materialize(instance, below, f"{below} 2")
    assert stale(instance) == set()


LINE = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}
OTHER_LINE = {"name": "middle", "points": [[0.6, 1], [0.6, 0]]}
CHANGES: dict[str, tuple[Mapping[str, object], set[str]]] = {
    "time zone": ({"ingest": {"time_zone": "Asia/Tokyo"}}, {"wall_clock"}),
    "video": ({"video": {"max_height_px": 480}}, {"normalized_video", "frames"}),
    "scenes": ({"scenes": {"cut_score": 0.2}}, {"scenes", "stretches"}),
    "detections": ({"detections": {"min_confidence": 0.3}}, {"detections"}),
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
