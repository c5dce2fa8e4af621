"""Dagster's history moves between SQLite and PostgreSQL: finished work stays finished, and stale assets stay stale."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, AssetSpec, DagsterInstance
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    CachingStaleStatusResolver,
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.loader import LoadingContextForTest

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import CameraObserver
from cv_assets.definitions import build_definitions
from cv_assets.partitions import recordings_partitions
from resources.config.settings import Settings
from resources.dagster_instance.event_log import materializations
from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE
from resources.dagster_instance.postgres_migration import move_history_to_postgres, move_history_to_sqlite
from resources.environment import choose_settings, prepare_data_folder
from sensors.staleness import stale_assets

pytestmark = pytest.mark.slow

RECORDING_IDS = ("b-2", "a-1", "c-3")


def build_graph(line_x: float, read_at_s: float) -> AssetGraph:
    """The asset graph of settings with a vertical line at camera gate, read at a given time."""
    line = {"name": "middle", "points": [[line_x, 1], [line_x, 0]]}
    settings = Settings.model_validate({"cameras": {"gate": {"lines": [line]}}})
    return AssetGraph.build(settings, CameraObserver(settings, read_at_s=read_at_s))


def specs_by_key(graph: AssetGraph) -> dict[AssetKey, AssetSpec]:
    return {spec.key: spec for assets in graph.assets for spec in assets.specs}


def report_materializations(
    instance: DagsterInstance, graph: AssetGraph, names: Sequence[str], recording_id: str, version: str
) -> None:
    """Report materializations to Dagster as a run does: with versions, inputs and metadata."""
    specs = specs_by_key(graph)
    for name in names:
        spec = specs[AssetKey(name)]
        tags = {DATA_VERSION_TAG: f"{name}-{version}", CODE_VERSION_TAG: spec.code_version or ""}
        observed = graph.observer.record(instance, (dep.asset_key for dep in spec.deps), {recording_id: "gate"})
        for key, observations in observed.items():
            tags[get_input_data_version_tag(key)] = observations[recording_id].version
            tags[get_input_event_pointer_tag(key)] = str(observations[recording_id].storage_id)
        for dep in (dep for dep in spec.deps if dep.asset_key not in graph.observer.aspects):
            newest = materializations(instance, dep.asset_key, {recording_id})[recording_id][0]
            tags[get_input_data_version_tag(dep.asset_key)] = newest.version or ""
            tags[get_input_event_pointer_tag(dep.asset_key)] = str(newest.storage_id)
        event = AssetMaterialization(name, partition=recording_id, metadata={"seconds": 1.5}, tags=tags)
        instance.report_runless_asset_event(event)


def history_of(instance: DagsterInstance, graph: AssetGraph) -> object:
    """Everything that decides what is to be done: partition order, states, staleness, metadata and timestamps."""
    specs = specs_by_key(graph)
    ids = list(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    states = {key: instance.get_status_by_partition(key, ids, recordings_partitions) for key in list(specs)[::6]}
    newest = {
        (key, recording_id): (events[0].timestamp, events[0].version, events[0].event.metadata["seconds"].value)
        for key in specs
        for recording_id, events in materializations(instance, key, set(ids)).items()
    }
    return ids, states, stale_assets(instance, dict.fromkeys(ids, "gate"), graph), newest


@pytest.fixture
def graph() -> AssetGraph:
    """The asset graph of the settings in force: the camera's line was moved since the results were computed."""
    return build_graph(line_x=0.6, read_at_s=time.time() - 30)


@pytest.fixture
def data_folder(graph: AssetGraph, tmp_path: Path) -> Path:
    """A data folder with its history in SQLite: one complete recording, one with a stale asset, one incomplete.

    The new position of the camera's line is observed for the complete recording.
    """
    graph_before = build_graph(line_x=0.5, read_at_s=time.time() - 60)
    folder = tmp_path / "data"
    choose_settings(data_folder=folder)
    prepare_data_folder(folder)
    names = [key.to_user_string() for key in specs_by_key(graph)]
    with DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(RECORDING_IDS))
        report_materializations(instance, graph_before, names, RECORDING_IDS[0], "1")
        report_materializations(instance, graph_before, names, RECORDING_IDS[1], "1")
        report_materializations(instance, graph_before, ["detections"], RECORDING_IDS[1], "2")
        report_materializations(instance, graph_before, names[:3], RECORDING_IDS[2], "1")
        graph.observer.record(instance, graph.observer.aspects, {RECORDING_IDS[0]: "gate"})
    return folder


def test_the_history_moves_to_postgres_and_back(
    data_folder: Path, graph: AssetGraph, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DagsterInstance.get() as instance:
        before = history_of(instance, graph)
        stale = [
            (asset.recording_id, asset.asset_name)
            for asset in stale_assets(instance, dict.fromkeys(RECORDING_IDS, "gate"), graph)
        ]
    assert (RECORDING_IDS[1], "tracks") in stale
    assert {name for recording_id, name in stale if recording_id == RECORDING_IDS[0]} == {
        *("zone_events", "zone_seconds", "line_trips", "ground_tracks"),
        *("zone_minutes", "line_minutes", "origin_destinations"),
    }

    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    prepare_data_folder(data_folder)
    assert move_history_to_postgres(data_folder, graph.history) == 3
    assert move_history_to_postgres(data_folder, graph.history) == 0
    with DagsterInstance.get() as instance:
        assert history_of(instance, graph) == before
        names = [key.to_user_string() for key in specs_by_key(graph)]
        report_materializations(instance, graph, names[3:], RECORDING_IDS[2], "1")
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["d-4"])
        after = history_of(instance, graph)
        dagster_graph = build_definitions(graph.settings).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, dagster_graph, LoadingContextForTest(instance))
        assert resolver.get_status(AssetKey("zone_events"), RECORDING_IDS[0]) == StaleStatus.STALE
        assert resolver.get_status(AssetKey("detections"), RECORDING_IDS[0]) == StaleStatus.FRESH
        assert resolver.get_status(AssetKey("tracks"), RECORDING_IDS[1]) == StaleStatus.STALE

    assert move_history_to_sqlite(data_folder, graph.history) == 1
    monkeypatch.delenv(POSTGRES_VARIABLE)
    with DagsterInstance.get() as instance:
        assert history_of(instance, graph) == after
