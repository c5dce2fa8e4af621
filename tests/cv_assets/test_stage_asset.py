"""The decorator `stage_asset`, by the example that docs/contributing.md gives to contributors."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import DagsterInstance, materialize

from cv_assets.camera_settings import CameraObserver
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import file_columns
from cv_assets.stage_asset import StageAsset
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.schema.recording_tables import FRAMES, RECORDINGS
from resources.source_index import SourceFile
from resources.storage.delta_store import Store


@pytest.fixture
def example() -> dict[str, Any]:
    """The module that the section "Add a stage" shows."""
    text = (PROJECT_ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module: dict[str, Any] = {"__name__": "cv_assets.still_minutes"}
    exec(compile(code, "docs/contributing.md", "exec"), module)
    return module


def frame_row(recording_id: str, frame_index: int, time_s: float, motion: float) -> dict[str, Any]:
    """A row of `frames` of which only time and motion matter."""
    row: dict[str, Any] = {name: 0 for name in FRAMES.arrow_schema.names}
    return (
        row
        | {"is_duplicated": False}
        | {"recording_id": recording_id, "frame_index": frame_index, "time_s": time_s, "motion": motion}
    )


def test_the_documented_stage_materializes_its_table_with_checks_and_metadata(
    example: dict[str, Any], tmp_path: Path
) -> None:
    stage: StageAsset = example["still_minutes"]
    settings, store, recording_id = Settings(data_folder=tmp_path), Store(tmp_path), "gate-1"
    source = SourceFile("gate.mp4", 1, 1, recording_id, recording_id, "known", None)
    store.replace(RECORDINGS, [recording_id], pa.Table.from_pylist([file_columns(source)], RECORDINGS.arrow_schema))
    frames = [
        frame_row(recording_id, index, 30.0 * index, motion) for index, motion in enumerate((0, 0.05, 3, 0, 0, 0))
    ]
    store.replace(FRAMES, [recording_id], pa.Table.from_pylist(frames, FRAMES.arrow_schema))
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        run = materialize(
            [stage.build(settings, CameraObserver(settings))],
            instance=instance,
            resources={"store": store, "settings": settings},
            partition_key=recording_id,
        )
    assert run.success
    assert [check.passed for check in run.get_asset_check_evaluations()] == [True]
    rows = store.read(example["STILL_MINUTES"]).sort_by("minute_index").to_pylist()
    assert [(row["minute_index"], row["max_motion"]) for row in rows] == [(0, 0.05), (2, 0.0)]


def test_another_threshold_makes_the_documented_stage_stale_and_another_batch_size_does_not(
    example: dict[str, Any],
) -> None:
    stage: StageAsset = example["still_minutes"]
    version = stage.version(Settings())
    assert stage.version(Settings.model_validate({"batches": {"max_recordings": 3}})) == version
    assert stage.version(Settings.model_validate({"scenes": {"frozen_below": 0.3}})) != version
