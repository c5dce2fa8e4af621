"""What a change makes stale: along every edge of the graph, and for the settings of every stage."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
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

from cv_assets.cameras import ASPECTS, note
from cv_assets.definitions import defs
from cv_assets.partitions import recordings_partitions
from cv_assets.staleness import stale_assets
from cv_assets.walk import WALK
from resources.settings import PROJECT_ROOT

RECORDING = "gate-1"
SPECS = {spec.key.to_user_string(): spec for assets in WALK for spec in assets.specs}
UPSTREAM = {name: [dep.asset_key.to_user_string() for dep in spec.deps] for name, spec in SPECS.items()}


def downstream(name: str) -> set[str]:
    """All that is made from an asset, directly or not."""
    found = {below for below, above in UPSTREAM.items() if name in above}
    return found | {further for below in found for further in downstream(below)}


def make(instance: DagsterInstance, name: str, version: str) -> None:
    """Materialize an asset as a stage does: with the versions of what it was made from."""
    tags = {
        CODE_VERSION_TAG: SPECS[name].code_version or "",
        DATA_VERSION_TAG: version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for key, notes in note(instance, map(AssetKey, UPSTREAM[name]), {RECORDING: "gate"}).items():
        tags[get_input_data_version_tag(key)] = notes[RECORDING].version
        tags[get_input_event_pointer_tag(key)] = str(notes[RECORDING].number)
    for above in UPSTREAM[name]:
        if AssetKey(above) in ASPECTS:
            continue
        wanted = AssetRecordsFilter(asset_key=AssetKey(above), asset_partitions=[RECORDING])
        (newest,) = instance.fetch_materializations(wanted, limit=1).records
        made = newest.asset_materialization
        assert made is not None
        tags[get_input_data_version_tag(AssetKey(above))] = (made.tags or {})[DATA_VERSION_TAG]
        tags[get_input_event_pointer_tag(AssetKey(above))] = str(newest.storage_id)
    instance.report_runless_asset_event(AssetMaterialization(name, partition=RECORDING, tags=tags))


def stale(instance: DagsterInstance) -> set[str]:
    """What our command calls stale."""
    return {one.asset_name for one in stale_assets(instance, {RECORDING: "gate"})}


def stale_in_the_ui(instance: DagsterInstance) -> set[str]:
    """What the UI calls stale: it does not look further than to what an asset was made from directly."""
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {name for name in SPECS if resolver.get_status(AssetKey(name), RECORDING) == StaleStatus.STALE}


@pytest.fixture
def made() -> Iterator[DagsterInstance]:
    """A recording of which everything has been made once."""
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [RECORDING])
        for name in SPECS:
            make(instance, name, f"{name} 1")
        yield instance


@pytest.mark.parametrize("name", SPECS)
def test_what_is_made_anew_makes_stale_what_is_made_from_it_and_nothing_else(made: DagsterInstance, name: str) -> None:
    assert stale(made) == set()
    make(made, name, f"{name} 1")
    assert stale(made) == stale_in_the_ui(made) == set()  # it came out as before
    make(made, name, f"{name} 2")
    assert stale(made) == downstream(name)
    assert stale_in_the_ui(made) == {below for below, above in UPSTREAM.items() if name in above}
    for below in SPECS:
        if below in downstream(name):
            make(made, below, f"{below} 2")
    assert stale(made) == set()


_CODE_VERSIONS = """
import json
from cv_assets.walk import WALK
print(json.dumps({spec.key.to_user_string(): spec.code_version for assets in WALK for spec in assets.specs}))
"""
LINE = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}
MOVED = {"name": "middle", "points": [[0.6, 1], [0.6, 0]]}
DETECTIONS = {"detections"}
CHANGES: dict[str, tuple[Mapping[str, object], set[str]]] = {
    "time zone": ({"intake": {"time_zone": "Asia/Tokyo"}}, {"wall_clock"}),
    "video": ({"video": {"max_height_px": 480}}, {"normalized_video", "frames"}),
    "scenes": ({"scenes": {"cut_score": 0.2}}, {"scenes", "stretches"}),
    "detections": ({"detections": {"min_confidence": 0.3}}, DETECTIONS),
    "tracks": ({"tracks": {"lost_s": 3.0}}, {"tracks", "track_boxes"}),
    "crops": ({"crops": {"per_track": 5}}, {"crops"}),
    # What is said of one camera is in no stage's code, which is one for all recordings; see test_cameras.py.
    "line": ({"cameras": {"gate": {"lines": [MOVED]}}}, set()),
    "camera clock": ({"cameras": {"gate": {"lines": [LINE], "clock_offset_s": 5}}}, set()),
    "camera video": ({"cameras": {"gate": {"lines": [LINE], "video": {"crf": 30}}}}, set()),
    "region": ({"detections": {"regions": {"gate": [[[0, 0], [1, 0], [1, 1]]]}}}, set()),
    "batches and queue": ({"batches": {"max_recordings": 3}, "queue": {"gpu_runs": 2}}, set()),
    "settling": ({"intake": {"settle_s": 9}, "further_watched_folders": ["/mnt/nas"]}, set()),
}


def code_versions(folder: Path, settings: Mapping[str, object]) -> dict[str, str]:
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"cameras": {"gate": {"lines": [LINE]}}, **settings}))
    environment = {**os.environ, "CV_ASSETS_SETTINGS": str(file)}
    command = [sys.executable, "-c", _CODE_VERSIONS]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=PROJECT_ROOT)
    return dict(json.loads(shown.stdout))


def test_each_setting_changes_the_code_of_its_own_stage_only(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("before", *CHANGES)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        before, *after = pool.map(code_versions, folders, [{}, *(change for change, _ in CHANGES.values())])
    changed = {
        name: {asset for asset in before if before[asset] != versions[asset]}
        for name, versions in zip(CHANGES, after, strict=True)
    }
    assert changed == {name: expected for name, (_, expected) in CHANGES.items()}
