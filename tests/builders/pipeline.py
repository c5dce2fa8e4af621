"""A pipeline over three small recordings on a real Dagster instance, one of them without any video."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from dagster import AssetKey, AssetRecordsFilter, AssetsDefinition, DagsterInstance, ExecuteInProcessResult, materialize

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import CameraObserver
from cv_assets.partitions import recordings_partitions
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.camera_config import CameraSettings
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.file_identification import identify_files
from resources.inference.detector import Models
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.folder_access import PRIVATE_MODE
from resources.watched_files import list_watched_files
from tests.builders.locations import BUNDLED_WEIGHTS

RECORDING_NAMES = ("a", "bad", "c")
INGEST_STAGES = ("recordings", "normalized_video")
LINE_AND_ZONE = CameraSettings.model_validate(
    {
        "lines": [{"name": "middle", "points": [[0.5, 1], [0.5, 0]]}],
        "zones": [{"name": "left half", "points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}],
    }
)
"""Settings of a camera with one line and one zone."""


class Pipeline:
    """The asset graph over a watched folder with three recordings, the second of which is not a video.

    Args:
        folder: A folder for the recordings and the data: an empty one, or that of an earlier pipeline.
        instance: Dagster's instance.
        paths: Path of a recording inside the watched folder without its ending, by name; the name where it is missing.

    Attributes:
        graph: The asset graph of the settings in force; `use_settings` replaces it.
        ids: Recording ids by name.
    """

    def __init__(
        self, folder: Path, instance: DagsterInstance, paths: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        (folder / "data").mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        self.instance, self.store = instance, Store(folder / "data")
        settings = Settings(
            watched_folder=folder / "recordings",
            data_folder=folder / "data",
            detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
            cameras=dict.fromkeys(("", "gate", "yard"), LINE_AND_ZONE),
        )
        self.graph = AssetGraph.build(settings)
        files = {name: settings.watched_folder / f"{paths.get(name, name)}.mp4" for name in RECORDING_NAMES}
        if not settings.watched_folder.exists():
            for file in files.values():
                file.parent.mkdir(parents=True, exist_ok=True)
            write_video(demo_scene(1, 4, {"car": 1}), files["a"])
            files["bad"].write_bytes(b"no video")
            write_video(demo_scene(2, 5, {"car": 1}), files["c"])
            SourceIndex(self.store).save(identify_files(settings, list_watched_files(settings).files, {}).values())
        index = SourceIndex(self.store).load()
        self.ids = {name: str(index[f"{paths.get(name, name)}.mp4"].recording_id) for name in RECORDING_NAMES}
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(self.ids.values()))

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.graph.settings

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of all stages, upstream first."""
        return tuple(assets.op.name for assets in self.graph.assets)

    def use_settings(self, settings: Settings, read_at_s: float | None = None) -> None:
        """Build the asset graph for other settings, as a restart of the pipeline does.

        Args:
            settings: The settings.
            read_at_s: When they were read, in seconds since 1970; None means now.
        """
        observer = CameraObserver(settings, read_at_s=time.time() if read_at_s is None else read_at_s)
        self.graph = AssetGraph.build(settings, observer)

    def stages(self, names: Sequence[str]) -> list[AssetsDefinition]:
        """The assets of some stages, upstream first."""
        return [assets for assets in self.graph.assets if assets.op.name in names]

    def run(self, stage_names: Sequence[str], first: str, last: str) -> ExecuteInProcessResult:
        """Run some stages over a range of recordings; a failed run raises nothing, its result has `success` False.

        Args:
            stage_names: The stages.
            first: Name of the first recording.
            last: Name of the last recording.
        """
        assets = self.stages(stage_names)
        resources = {"store": self.store, "settings": self.settings, "models": Models()}
        if first == last:
            key = self.ids[first]
            return materialize(
                assets, instance=self.instance, resources=resources, partition_key=key, raise_on_error=False
            )
        tags = {
            "dagster/asset_partition_range_start": self.ids[first],
            "dagster/asset_partition_range_end": self.ids[last],
        }
        return materialize(assets, instance=self.instance, resources=resources, tags=tags, raise_on_error=False)

    def versions(self, asset_name: str, name: str) -> list[str]:
        """Data versions of a recording's materializations, newest first."""
        records = self.instance.fetch_materializations(
            AssetRecordsFilter(asset_key=AssetKey(asset_name), asset_partitions=[self.ids[name]]), limit=20
        ).records
        return [(record.asset_materialization.tags or {})["dagster/data_version"] for record in records]  # type: ignore[union-attr]
