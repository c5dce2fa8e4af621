"""What is requested while some of the models cannot work, and what is noted when settings were read."""

from pathlib import Path

import pyarrow as pa
import pytest
from dagster import AssetMaterialization, DagsterInstance, build_sensor_context

from cv_assets.cameras import ZONES
from cv_assets.events import observations
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import file_columns
from cv_assets.stage import ANALYSIS, INGEST
from cv_assets.walk import assets_of
from resources.schema import RECORDINGS
from resources.settings import DetectionSettings, ModelSettings, Settings
from resources.storage import Store
from resources.watched_folder import SourceFile, SourceIndex
from sensors.reconciliation import _look, _noting, reconciliation_sensor
from tests.conftest import BUNDLED_WEIGHTS


@pytest.mark.parametrize("bad", ["main", "further"])
def test_a_model_that_cannot_work_holds_up_nothing_else(bad: str, tmp_path: Path) -> None:
    good, broken = str(BUNDLED_WEIGHTS), tmp_path / "broken.pt"
    broken.write_bytes(b"fifteen bytes..")
    settings = Settings(
        watched_folder=tmp_path,
        data_folder=tmp_path / "data",
        detections=DetectionSettings(weights=str(broken) if bad == "main" else good),
        models=(ModelSettings(name="people", weights=str(broken) if bad == "further" else good),),
    )
    store = Store(settings.data_folder)
    files = [SourceFile(f"{name}.mp4", 1, 1, name, name, "known", None) for name in ("new-1", "normalized-2")]
    SourceIndex(store).save(files)
    rows = [file_columns(file) for file in files]
    store.replace(RECORDINGS, ["new-1", "normalized-2"], pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", ["new-1", "normalized-2"])
        for name in assets_of(INGEST):
            instance.report_runless_asset_event(AssetMaterialization(name, partition="normalized-2"))
        seen, planned = _look(instance, store, settings)
    held_up = "detections is on hold: The weights" if bad == "main" else "people_detections is on hold: The weights"
    assert held_up in seen.told
    requested = {run.recording_ids: run.job_name for run in planned}
    further = {("normalized-2",): ANALYSIS} if bad == "further" else {}
    assert requested == {("new-1",): INGEST, **further}


def test_what_settings_say_of_a_camera_is_noted_when_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}
    settings = Settings.model_validate(
        {
            "watched_folder": tmp_path,
            "data_folder": tmp_path / "data",
            "detections": {"weights": str(BUNDLED_WEIGHTS)},
            "cameras": {"gate": {"lines": [line]}},
        }
    )
    monkeypatch.setattr("cv_assets.cameras.current_settings", lambda: settings)
    store, cameras = Store(settings.data_folder), {"one-1": "gate", "two-2": "yard"}
    files = [SourceFile(f"{one}.mp4", 1, 1, one, one, "known", None, camera) for one, camera in cameras.items()]
    rows = [file_columns(file) for file in files]
    store.replace(RECORDINGS, list(cameras), pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        reconciliation_sensor(build_sensor_context(instance, resources={"store": store, "settings": settings}))
        _noting[str(store.data_folder)].join(timeout=60)
        noted = observations(instance, ZONES.key, set(cameras))
    assert set(noted) == {"one-1"}
    assert noted["one-1"][0].event.metadata["settings"].value == {"lines": [line]}
