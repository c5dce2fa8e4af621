"""A watched folder with its sensor, and the runs that the planner would request."""

import time
from pathlib import Path

import pytest
from dagster import DagsterInstance, RunRequest, SensorResult, build_sensor_context, materialize

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from resources.config.settings import Settings
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import SourceFile, SourceIndex
from resources.storage.delta_store import Store
from sensors.recording_states import read_recording_states
from sensors.run_planner import PlannedRun, plan_runs
from sensors.watched_folder_sensor import build_watched_folder_sensor


class WatchedFolder:
    """A watched folder, its sensor and a clock that goes on between ticks.

    Args:
        instance: Dagster's instance.
        folder: An empty folder.
        monkeypatch: Sets the clock.
        sections: Sections of the settings.
    """

    def __init__(
        self, instance: DagsterInstance, folder: Path, monkeypatch: pytest.MonkeyPatch, **sections: object
    ) -> None:
        self.path = folder / "recordings"
        self.path.mkdir()
        settings = {"watched_folder": self.path, "data_folder": folder / "data", **sections}
        self.graph = AssetGraph.build(Settings.model_validate(settings))
        self.instance, self.store = instance, Store(folder / "data")
        self.sensor = build_watched_folder_sensor(self.graph)
        self.cursor: str | None = None
        self.sentence = ""
        self.elapsed_s = 0.0
        real_time = time.time
        monkeypatch.setattr(time, "time", lambda: real_time() + self.elapsed_s)

    def tick(self, after_s: float = 5.0) -> list[RunRequest]:
        """Let time pass, then evaluate the sensor; returns the runs that it requests."""
        self.elapsed_s += after_s
        context = build_sensor_context(
            self.instance, cursor=self.cursor, resources={"store": self.store, "settings": self.graph.settings}
        )
        result = self.sensor(context)
        self.cursor = context.cursor
        if isinstance(result, SensorResult):
            return list(result.run_requests or [])
        self.sentence = str(getattr(result, "skip_message", ""))
        return []

    def write(self, name: str, content: bytes | None = None) -> Path:
        """Write a file; by default with content of its own."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)
        return path

    @property
    def partitions(self) -> list[str]:
        """The recordings, in partition order."""
        return list(self.instance.get_dynamic_partitions(recordings_partitions.name or ""))

    @property
    def files(self) -> dict[str, SourceFile]:
        """The rows of `source_files`, by path."""
        return SourceIndex(self.store).load()

    def plan(self) -> list[PlannedRun]:
        """Plan the runs that complete the recordings."""
        return plan_runs(read_recording_states(self.instance, self.store, self.graph), self.graph)

    def run_recordings(self, *recording_ids: str) -> None:
        """Run the stage `recordings` on each of some recordings; a failed run raises nothing."""
        stage = [assets for assets in self.graph.assets if assets.op.name == RECORDINGS.name]
        resources = {"store": self.store, "settings": self.graph.settings}
        for recording_id in recording_ids:
            materialize(
                stage, instance=self.instance, resources=resources, partition_key=recording_id, raise_on_error=False
            )

    def status(self, recording_id: str) -> tuple[str | None, str | None]:
        """Status and error of a recording."""
        states = read_recording_states(self.instance, self.store, self.graph).states
        return next((state.status, state.error) for state in states if state.recording_id == recording_id)
