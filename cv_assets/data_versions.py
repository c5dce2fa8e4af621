"""Data versions: hashes of the code version of a stage and the data versions of its inputs, per recording."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance

from cv_assets.camera_settings import CameraObserver, SettingsObservation
from resources.config.stage_version import StageVersion
from resources.dagster_instance.dagster_names import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    input_data_version_tag,
    input_event_pointer_tag,
)
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.stage_runs import newest_stage_runs
from resources.storage.version_settings import store_version_settings

NO_INPUT = "none"
"""The data version of an input that was never materialized."""
_PAGE_SIZE = 200


def combine_versions(code_version: str, inputs: Mapping[str, str]) -> str:
    """Data version of results.

    Args:
        code_version: Code version of the stage.
        inputs: Data version of each input by the name of its asset.
    """
    parts = [code_version, *(f"{name}={version}" for name, version in sorted(inputs.items()))]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class DataVersions:
    """Data versions of the results that a stage stores in one run; all assets of the stage share them.

    The content of a recording never changes under its id. Recordings that are processed with equal settings therefore
    have equal data versions, and a batch nearly always has a single one.

    Attributes:
        stage_version: Version of the stage.
        inputs: By recording, the data version of each input by the name of its asset.
        observations: By asset of camera settings and recording, the observation that was read.
    """

    stage_version: StageVersion
    inputs: Mapping[str, Mapping[str, str]]
    observations: Mapping[AssetKey, Mapping[str, SettingsObservation]]

    @classmethod
    def read(
        cls,
        instance: DagsterInstance,
        store: Store,
        stage_version: StageVersion,
        input_stages: Mapping[str, str],
        cameras: Mapping[str, str | None],
        observer: CameraObserver,
    ) -> "DataVersions":
        """Read the versions of the inputs, and record the settings of the recordings' cameras.

        Args:
            instance: Dagster's instance.
            store: The tables.
            stage_version: Version of the stage.
            input_stages: Stage of each input by the name of its asset; that of an asset of camera settings is unused.
            cameras: Camera by recording.
            observer: Records the settings of single cameras.
        """
        observations = observer.record(instance, [AssetKey(name) for name in input_stages], cameras)
        columns = ("recording_id", "stage", "data_version")
        rows = newest_stage_runs(store, list(cameras), columns=columns, only_materialized=True).to_pylist()
        stored = {(row["recording_id"], row["stage"]): row["data_version"] for row in rows}
        inputs = {
            recording_id: {
                name: observations[AssetKey(name)][recording_id].version
                if AssetKey(name) in observations
                else stored.get((recording_id, stage), NO_INPUT)
                for name, stage in input_stages.items()
            }
            for recording_id in cameras
        }
        return cls(stage_version, inputs, observations)

    @property
    def code_version(self) -> str:
        """Code version of the stage."""
        return self.stage_version.code_version

    def store_settings(self, data_folder: Path, stage_name: str) -> None:
        """Store the settings behind the versions, so that a later change can be named.

        Raises:
            PipelineError: The data folder is full, read-only or not accessible.
        """
        with disk_errors(data_folder):
            store_version_settings(data_folder, stage_name, self.code_version, self.stage_version.settings)
            for key, by_recording in self.observations.items():
                for observation in {observation.version: observation for observation in by_recording.values()}.values():
                    if observation.settings:
                        name, settings = key.to_user_string(), observation.settings
                        store_version_settings(data_folder, name, observation.version, settings)

    def version(self, recording_id: str) -> str:
        """Data version of a recording."""
        return combine_versions(self.code_version, self.inputs[recording_id])

    @property
    def common_version(self) -> str:
        """Data version of the batch's first recording, which is usually that of the whole batch."""
        return self.version(next(iter(self.inputs)))

    def recordings_with_own_event(self) -> list[str]:
        """Recordings for which the event that Dagster logs for the whole batch is wrong.

        Their data version is not the common one, or Dagster read other observations of the camera's settings when the
        step began: older ones, or newer ones of settings that this process has not read.
        """
        common_version = self.common_version
        return [
            recording_id
            for recording_id in self.inputs
            if self.version(recording_id) != common_version
            or any(not observations[recording_id].is_what_dagster_read for observations in self.observations.values())
        ]

    def log_materializations(
        self,
        context: AssetExecutionContext,
        metadata_by_recording: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ) -> None:
        """Log the materializations of some recordings as events of their own.

        Args:
            context: The step's context.
            metadata_by_recording: By recording, metadata by asset name.
        """
        recording_ids = list(metadata_by_recording)
        if not recording_ids:
            return
        storage_ids = {
            AssetKey(name): self._input_storage_ids(context.instance, AssetKey(name), recording_ids)
            for name in self.inputs[recording_ids[0]]
        }
        for recording_id, metadata_by_asset in metadata_by_recording.items():
            tags = {
                DATA_VERSION_TAG: self.version(recording_id),
                DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                CODE_VERSION_TAG: self.code_version,
            }
            for key, ids in storage_ids.items():
                tags[input_data_version_tag(key)] = self.inputs[recording_id][key.to_user_string()]
                tags[input_event_pointer_tag(key)] = str(ids[recording_id])
            for name, metadata in metadata_by_asset.items():
                context.log_event(
                    AssetMaterialization(name, partition=recording_id, metadata=dict(metadata), tags=tags)
                )

    def _input_storage_ids(
        self, instance: DagsterInstance, key: AssetKey, recording_ids: Sequence[str]
    ) -> dict[str, int]:
        """By recording, the id of the event of an input that was read; 0 if there is none."""
        if key in self.observations:
            return {recording_id: self.observations[key][recording_id].storage_id for recording_id in recording_ids}
        newest: dict[str, int] = {}
        records_filter = AssetRecordsFilter(asset_key=key, asset_partitions=list(recording_ids))
        cursor: str | None = None
        while len(newest) < len(recording_ids):
            page = instance.fetch_materializations(records_filter, limit=_PAGE_SIZE, cursor=cursor)  # newest first
            for record in page.records:
                if record.partition_key is not None:
                    newest.setdefault(record.partition_key, record.storage_id)
            cursor = page.cursor
            if not page.has_more:
                break
        return dict.fromkeys(recording_ids, 0) | newest
