"""Data versions: hashes of the code version of an asset and the data versions of its inputs, per recording."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    StepExecutionContext,
)

from cv_assets.camera_settings import CameraObserver, SettingsObservation
from resources.dagster_instance.dagster_names import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    input_data_version_tag,
    input_event_pointer_tag,
)
from resources.dagster_instance.private_api import mark_inputs_as_read

_PAGE_SIZE = 200


@dataclass(frozen=True)
class _Inputs:
    """Inputs of one recording in an asset: data version and storage id by upstream asset."""

    versions: Mapping[AssetKey, str]
    storage_ids: Mapping[AssetKey, int]


@dataclass(frozen=True)
class DataVersions:
    """Data versions of the assets that a run materializes.

    The content of a recording never changes under its id. Recordings that are processed with equal settings therefore
    have equal data versions, and a batch nearly always has a single one.

    Attributes:
        code_versions: Code version by asset.
        inputs: By asset and recording.
        observations: By asset of camera settings and recording, the observation that was read.
    """

    code_versions: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, _Inputs]]
    observations: Mapping[AssetKey, Mapping[str, SettingsObservation]]

    @classmethod
    def read(
        cls,
        context: AssetExecutionContext,
        asset_names: Sequence[str],
        cameras: Mapping[str, str | None],
        observer: CameraObserver,
    ) -> "DataVersions":
        """Read the versions of the inputs, and record the settings of the recordings' cameras.

        Args:
            context: The step's context.
            asset_names: Assets that the step materializes.
            cameras: Camera by recording.
            observer: Records the settings of single cameras.
        """
        keys = {name: AssetKey(name) for name in asset_names}
        specs = context.assets_def.specs_by_key
        upstream = {name: [dep.asset_key for dep in specs[key].deps] for name, key in keys.items()}
        input_keys = {key for deps in upstream.values() for key in deps}
        observations = observer.record(context.instance, input_keys, cameras)
        latest = {
            key: {
                recording_id: (observation.version, observation.storage_id)
                for recording_id, observation in observations[key].items()
            }
            if key in observations
            else _latest_versions(context.instance, key, list(cameras))
            for key in input_keys
        }
        inputs = {
            name: {
                recording_id: _Inputs(
                    {key: latest[key][recording_id][0] for key in deps},
                    {key: latest[key][recording_id][1] for key in deps},
                )
                for recording_id in cameras
            }
            for name, deps in upstream.items()
        }
        return cls({name: specs[key].code_version or "" for name, key in keys.items()}, inputs, observations)

    def version(self, asset_name: str, recording_id: str) -> str:
        """Data version of a recording in an asset."""
        parts = [self.code_versions[asset_name]]
        parts += [
            f"{key.to_user_string()}={version}"
            for key, version in sorted(self.inputs[asset_name][recording_id].versions.items())
        ]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    @property
    def common_versions(self) -> dict[str, str]:
        """Data versions of the batch's first recording, by asset; usually those of the whole batch."""
        return {name: self.version(name, next(iter(recordings))) for name, recordings in self.inputs.items()}

    def differing_recordings(self) -> list[str]:
        """Recordings whose data versions are not the common ones, or whose observations are no longer the newest."""
        common_versions = self.common_versions
        recording_ids = next(iter(self.inputs.values()))
        return [
            recording_id
            for recording_id in recording_ids
            if any(self.version(name, recording_id) != common_versions[name] for name in self.inputs)
            or any(not observations[recording_id].is_newest for observations in self.observations.values())
        ]

    def mark_observations_as_read(self, step: StepExecutionContext) -> None:
        """Make Dagster treat the recorded observations as read, although it had read the inputs earlier."""
        mark_inputs_as_read(
            step,
            (
                (key, max(observation.storage_id for observation in observations.values()))
                for key, observations in self.observations.items()
            ),
        )

    def log_materialization(
        self, context: AssetExecutionContext, recording_id: str, metadata: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Log the materializations of one recording as separate events."""
        for name, code_version in self.code_versions.items():
            inputs = self.inputs[name][recording_id]
            tags = {
                DATA_VERSION_TAG: self.version(name, recording_id),
                DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                CODE_VERSION_TAG: code_version,
            }
            tags |= {input_data_version_tag(key): version for key, version in inputs.versions.items()}
            tags |= {input_event_pointer_tag(key): str(storage_id) for key, storage_id in inputs.storage_ids.items()}
            context.log_event(
                AssetMaterialization(name, partition=recording_id, metadata=dict(metadata[name]), tags=tags)
            )


def _latest_versions(
    instance: DagsterInstance, key: AssetKey, recording_ids: Sequence[str]
) -> dict[str, tuple[str, int]]:
    """By recording, data version and storage id of an asset's newest materialization."""
    latest: dict[str, tuple[str, int]] = {}
    records_filter = AssetRecordsFilter(asset_key=key, asset_partitions=list(recording_ids))
    cursor: str | None = None
    while len(latest) < len(recording_ids):
        page = instance.fetch_materializations(records_filter, limit=_PAGE_SIZE, cursor=cursor)  # newest first
        for record in page.records:
            materialization = record.asset_materialization
            partition = materialization.partition if materialization else None
            if materialization is not None and partition is not None and partition not in latest:
                version = (materialization.tags or {}).get(DATA_VERSION_TAG, "none")
                latest[partition] = version, record.storage_id
        cursor = page.cursor
        if not page.has_more:
            break
    return {recording_id: latest.get(recording_id, ("none", 0)) for recording_id in recording_ids}
