"""Reconciliation: which runs are requested while some models cannot work, and when camera settings are recorded."""

from pathlib import Path

import pyarrow as pa
import pytest
from dagster import AssetMaterialization, DagsterInstance, build_sensor_context

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
from sensors.reconciliation_sensor import _camera_recorders, _check_recordings, build_reconciliation_sensor
from tests.builders.locations import BUNDLED_WEIGHTS


def store_recordings(store: Store, cameras: dict[str, str | None]) -> list[SourceFile]:
    """Store a row of `recordings` for each recording, given its camera."""
    files = [SourceFile(f"{name}.mp4", 1, 1, name, name, "known", None, camera) for name, camera in cameras.items()]
    rows = [file_columns(file) for file in files]
    store.replace(RECORDINGS, list(cameras), pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
    return files


@pytest.mark.parametrize("broken_model", ["main", "further"])
def test_a_model_with_broken_weights_holds_only_its_own_assets(broken_model: str, tmp_path: Path) -> None:
    good_weights, broken_weights = str(BUNDLED_WEIGHTS), tmp_path / "broken.pt"
    broken_weights.write_bytes(b"fifteen bytes..")
    weights = {name: str(broken_weights) if name == broken_model else good_weights for name in ("main", "further")}
    settings = Settings(
        watched_folder=tmp_path,
        data_folder=tmp_path / "data",
        detections=DetectionSettings(weights=weights["main"]),
        models=(ModelSettings(name="people", weights=weights["further"]),),
    )
    graph, store = AssetGraph.build(settings), Store(settings.data_folder)
    SourceIndex(store).save(store_recordings(store, {"new-1": None, "normalized-2": None}))
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["new-1", "normalized-2"])
        for name in graph.assets_of(INGEST):
            instance.report_runless_asset_event(AssetMaterialization(name, partition="normalized-2"))
        check, planned = _check_recordings(instance, store, graph)
    asset_name = "detections" if broken_model == "main" else "people_detections"
    assert f"{asset_name} is on hold: The weights" in check.sentence
    assert {run.recording_ids: run.job_name for run in planned} == {("new-1",): INGEST, ("normalized-2",): ANALYSIS}
    (analysis,) = [run for run in planned if run.job_name == ANALYSIS]
    on_hold = graph.with_downstream(frozenset({asset_name}), ANALYSIS)
    assert set(analysis.asset_names) == set(graph.assets_of(ANALYSIS)) - set(on_hold)


def test_camera_settings_are_recorded_when_the_sensor_starts(tmp_path: Path) -> None:
    line = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}
    settings = Settings.model_validate(
        {
            "watched_folder": tmp_path,
            "data_folder": tmp_path / "data",
            "detections": {"weights": str(BUNDLED_WEIGHTS)},
            "cameras": {"gate": {"lines": [line]}},
        }
    )
    store = Store(settings.data_folder)
    store_recordings(store, {"one-1": "gate", "two-2": "yard"})
    reconciliation_sensor = build_reconciliation_sensor(AssetGraph.build(settings))
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        reconciliation_sensor(build_sensor_context(instance, resources={"store": store}))
        _camera_recorders[str(store.data_folder)].join(timeout=60)
        recorded = observations(instance, CAMERA_ZONES.key, {"one-1", "two-2"})
    assert set(recorded) == {"one-1"}
    assert recorded["one-1"][0].event.metadata["settings"].value == {"lines": [line]}
