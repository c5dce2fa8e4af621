"""Dagster's history moves between SQLite and PostgreSQL: what was done is known there, and what was stale still is."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    CachingStaleStatusResolver,
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.loader import LoadingContextForTest

from cv_assets.cameras import ASPECTS, note
from cv_assets.definitions import defs
from cv_assets.events import materializations
from cv_assets.history import bring_history, leave_postgres
from cv_assets.partitions import recordings_partitions
from cv_assets.staleness import stale_assets
from cv_assets.walk import WALK
from resources.home import choose, prepare_data_folder
from resources.postgres import POSTGRES_VARIABLE
from resources.settings import Settings

IDS = ("b-2", "a-1", "c-3")
SPECS = {spec.key: spec for assets in WALK for spec in assets.specs}


def make(instance: DagsterInstance, names: Sequence[str], recording_id: str, version: str) -> None:
    """Tell Dagster of materializations as a run does: with versions, inputs and metadata."""
    for name in names:
        spec = SPECS[AssetKey(name)]
        tags = {DATA_VERSION_TAG: f"{name}-{version}", CODE_VERSION_TAG: spec.code_version or ""}
        notes = note(instance, (dep.asset_key for dep in spec.deps), {recording_id: "gate"})
        tags |= {get_input_data_version_tag(key): told[recording_id].version for key, told in notes.items()}
        tags |= {get_input_event_pointer_tag(key): str(told[recording_id].number) for key, told in notes.items()}
        for dep in (dep for dep in spec.deps if dep.asset_key not in ASPECTS):
            newest = materializations(instance, dep.asset_key, {recording_id})[recording_id][0]
            tags[get_input_data_version_tag(dep.asset_key)] = newest.version or ""
            tags[get_input_event_pointer_tag(dep.asset_key)] = str(newest.number)
        event = AssetMaterialization(name, partition=recording_id, metadata={"seconds": 1.5}, tags=tags)
        instance.report_runless_asset_event(event)


def told(instance: DagsterInstance) -> object:
    """Everything that decides what is to be done: order, states, staleness, metadata and time of making."""
    ids = list(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    states = {key: instance.get_status_by_partition(key, ids, recordings_partitions) for key in list(SPECS)[::6]}
    newest = {
        (key, recording_id): (made[0].timestamp, made[0].version, made[0].event.metadata["seconds"].value)
        for key in SPECS
        for recording_id, made in materializations(instance, key, set(ids)).items()
    }
    return ids, states, stale_assets(instance, dict.fromkeys(ids, "gate")), newest


def let_the_line_be(at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the camera have a line there."""
    line = {"name": "middle", "points": [[at, 1], [at, 0]]}
    settings = Settings.model_validate({"cameras": {"gate": {"lines": [line]}}})
    for place in ("cameras", "staleness"):
        monkeypatch.setattr(f"cv_assets.{place}.current_settings", lambda: settings)
    monkeypatch.setattr("cv_assets.cameras._READ_AT", time.time())


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder with a history in SQLite: one recording complete, one with a stale asset, one unfinished.

    The camera's line was moved since, which was noted for the complete one.
    """
    let_the_line_be(0.5, monkeypatch)
    folder = tmp_path / "data"
    choose(data_folder=folder)
    prepare_data_folder(folder)
    every = [key.to_user_string() for key in SPECS]
    with DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(IDS))
        make(instance, every, IDS[0], "1")
        make(instance, every, IDS[1], "1")
        make(instance, ["detections"], IDS[1], "2")
        make(instance, every[:3], IDS[2], "1")
        let_the_line_be(0.6, monkeypatch)
        note(instance, ASPECTS, {IDS[0]: "gate"})
    yield folder


def test_the_history_goes_to_postgres_and_comes_back(
    data_folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DagsterInstance.get() as instance:
        before = told(instance)
        stale = [(one.recording_id, one.asset_name) for one in stale_assets(instance, dict.fromkeys(IDS, "gate"))]
    assert (IDS[1], "tracks") in stale
    assert {name for recording_id, name in stale if recording_id == IDS[0]} == {
        *("zone_events", "zone_seconds", "line_trips", "ground_tracks"),
        *("zone_minutes", "line_minutes", "origin_destinations"),
    }

    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    prepare_data_folder(data_folder)
    assert bring_history(data_folder) == 3
    assert bring_history(data_folder) == 0
    with DagsterInstance.get() as instance:
        assert told(instance) == before
        make(instance, [key.to_user_string() for key in SPECS][3:], IDS[2], "1")
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["d-4"])
        after = told(instance)
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        assert resolver.get_status(AssetKey("zone_events"), IDS[0]) == StaleStatus.STALE
        assert resolver.get_status(AssetKey("detections"), IDS[0]) == StaleStatus.FRESH
        assert resolver.get_status(AssetKey("tracks"), IDS[1]) == StaleStatus.STALE

    assert leave_postgres(data_folder) == 1
    monkeypatch.delenv(POSTGRES_VARIABLE)
    with DagsterInstance.get() as instance:
        assert told(instance) == after
